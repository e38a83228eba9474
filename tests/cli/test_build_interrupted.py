"""Builds that are stopped, killed or run twice at once: the cache stays usable, nobody is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from edgekit.wire.canonical import sha256_file

pytestmark = pytest.mark.network

PATIENCE_S = 120


class Running:
    """A build in a process group of its own."""

    def __init__(self, line: list[str], cwd: Path) -> None:
        self.process = subprocess.Popen(
            line,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "EDGEKIT_JOBS": "2"},
        )

    def until(self, happened: Callable[[], bool]) -> bool:
        """Wait for something while the build runs; False if it ended first."""
        while self.process.poll() is None:
            if happened():
                return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.002)
        return happened()

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err

    def group(self) -> list[psutil.Process]:
        """Everything that it started and that still runs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == self.process.pid:
                    found.append(process)
        return found

    def left(self) -> list[psutil.Process]:
        """What does not end with it; multiprocessing's own helper ends a moment later."""
        return list(psutil.wait_procs(self.group(), timeout=PATIENCE_S / 10)[1])


@pytest.fixture
def start(command, digits, cold_cache) -> Iterator[Callable[..., Running]]:
    """Start ``edgekit build --target rpi5`` in the project; ended with the test."""
    started: list[Running] = []

    def go(*more: object) -> Running:
        line = [*command, "build", *map(str, more), "--target", "rpi5"]
        started.append(Running([*line, "--cache-dir", str(cold_cache)], digits))
        return started[-1]

    yield go
    for running in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.communicate()


def unfinished(folder: Path) -> list[str]:
    """What a build must not leave in the project or in the cache."""
    return [str(p) for p in folder.rglob("*") if p.name.endswith((".part", ".tmp"))]


@pytest.mark.parametrize("stage", ["data", "optimize", "calibrate", "predictions", "bundle"])
def test_ctrl_c_in_a_stage(stage, start, digits, cold_cache, edgekit):
    code, out, err = interrupted(stage, start, cold_cache)
    assert (code, out) == (130, "")
    assert "interrupted; what was finished is kept" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not (digits / "dist").exists()
    assert unfinished(digits) == []

    arguments = ("build", "digits-cnn", "--target", "rpi5", "--project", digits, "--json")
    ran = edgekit(*arguments, "--cache-dir", cold_cache)
    assert (ran.code, ran.bundle["status"]) == (0, "built"), ran.out
    assert unfinished(cold_cache) == []


def interrupted(stage: str, start: Callable[..., Running], cache: Path) -> tuple[int, str, str]:
    """Send Ctrl-C the moment that a stage's temporary folder appears; a short one may slip by."""
    for _ in range(10):
        running = start("digits-cnn")
        if running.until(lambda: any((cache / "work").glob(f"{stage}~*.tmp"))):
            running.process.send_signal(signal.SIGINT)
        ended = running.end()
        assert running.left() == []
        if ended[0] != 0:
            return ended
        for made in (cache / "stages").iterdir():
            if made.name != "source":
                shutil.rmtree(made)
    return pytest.fail("every build ended before the signal reached it")


def second(digits: Path) -> None:
    """Add a copy of the recipe under another name."""
    text = (digits / "models" / "digits-cnn.toml").read_text(encoding="utf-8")
    (digits / "models" / "other.toml").write_text(text, encoding="utf-8")


def test_ctrl_c_ends_the_workers(start, digits, cold_cache, edgekit):
    second(digits)
    running = start("--jobs", "2")
    assert running.until(lambda: any((cold_cache / "work").glob("*.tmp")))
    # As a terminal does it: the signal goes to everyone in the foreground.
    os.killpg(running.process.pid, signal.SIGINT)
    code, out, err = running.end()
    assert (code, out) == (130, ""), err
    assert "Traceback" not in err
    assert running.left() == []
    assert unfinished(digits) == []
    ran = edgekit(
        *("build", "--target", "rpi5", "--project", digits, "--json", "--jobs", "1"),
        *("--cache-dir", cold_cache),
    )
    assert ran.code == 0, ran.out
    assert unfinished(cold_cache) == []


def test_a_killed_worker_is_an_error_and_no_hang(start, digits, cold_cache, edgekit):
    second(digits)
    running = start("--jobs", "2", "--json")
    assert running.until(lambda: any((cold_cache / "work").glob("optimize~*.tmp")))
    workers = [p for p in running.group() if "spawn_main" in " ".join(p.cmdline())]
    assert workers
    workers[0].send_signal(signal.SIGKILL)
    code, out, err = running.end()
    assert code == 5, out + err
    assert "the worker process died" in out
    assert "--jobs 1" in out
    assert "Traceback" not in err
    assert running.left() == []
    ran = edgekit(
        *("build", "--target", "rpi5", "--project", digits, "--json", "--jobs", "1"),
        *("--cache-dir", cold_cache),
    )
    assert ran.code == 0, ran.out


def test_a_killed_build_leaves_a_usable_cache(start, digits, cold_cache, edgekit):
    running = start("digits-cnn")
    assert running.until(lambda: any((cold_cache / "work").glob("calibrate~*.tmp")))
    os.killpg(running.process.pid, signal.SIGKILL)
    assert running.end()[0] == -signal.SIGKILL
    assert unfinished(cold_cache) != [], "nobody could tidy up"
    ran = edgekit(
        *("build", "digits-cnn", "--target", "rpi5", "--project", digits, "--json"),
        *("--cache-dir", cold_cache),
    )
    assert ran.code == 0, ran.out
    assert unfinished(cold_cache) == []


def test_two_builds_at_once_in_one_folder(start, digits, cold_cache):
    pair = [start("digits-cnn", "--json") for _ in range(2)]
    ended: list[tuple[int, str, str]] = []
    threads = [threading.Thread(target=lambda r=r: ended.append(r.end())) for r in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert unfinished(digits) == unfinished(cold_cache) == []
    bundle = digits / "dist" / "digits-cnn-rpi5.ekb"
    for _, out, _ in ended:
        assert f'"sha256": "{sha256_file(bundle)}"' in out, "both name the bundle that is there"
    # Each stage was made once: the second waited for the first.
    assert len(list((cold_cache / "stages" / "bundle").iterdir())) == 1


def test_models_built_side_by_side_come_out_the_same(start, digits, cold_cache, tmp_path):
    second(digits)
    side_by_side = start("--jobs", "2", "-o", tmp_path / "a")
    assert side_by_side.end()[0] == 0
    shutil.rmtree(cold_cache / "stages" / "bundle")
    one_by_one = start("--jobs", "1", "-o", tmp_path / "b")
    assert one_by_one.end()[0] == 0
    for name in ("digits-cnn", "other"):
        bundles = [tmp_path / folder / f"{name}-rpi5.ekb" for folder in ("a", "b")]
        assert sha256_file(bundles[0]) == sha256_file(bundles[1])


@pytest.mark.parametrize("later_s", [0, 0.02, 0.05, 0.1])
def test_ctrl_c_while_the_workers_start(later_s, start, digits):
    second(digits)
    running = start("--jobs", "2")
    build = psutil.Process(running.process.pid)

    def starting() -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return [child for child in build.children() if "spawn_main" in "".join(child.cmdline())]
        return []

    assert running.until(starting)
    time.sleep(later_s)
    # The workers first: the build, which ends them, is not always the second to hear of it.
    for worker in starting():
        worker.send_signal(signal.SIGINT)
    time.sleep(0.3)
    running.process.send_signal(signal.SIGINT)
    code, out, err = running.end()
    assert (code, out) == (130, ""), err
    assert "Traceback" not in err
    assert running.left() == []
