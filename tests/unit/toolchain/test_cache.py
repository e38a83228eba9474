from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from edgekit.toolchain.cache import Cache, default_root
from edgekit.wire.errors import BuildError, ConfigError

KEY = "ab" * 32


def write(text: str):
    return lambda out: (out / "file.txt").write_text(text) and None


def never(_out: Path) -> None:
    raise AssertionError("the stage was there")


def leftovers(root: Path) -> list[str]:
    return sorted(p.name for p in (root / "work").glob("*"))


def start(script: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_stage_is_made_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    made = cache.stage("export", KEY, write("a"))
    assert made == (tmp_path / "cache" / "stages" / "export" / KEY / "content", False)
    assert cache.stage("export", KEY, never) == (made[0], True)
    assert (made[0] / "file.txt").read_text() == "a"
    assert cache.has("export", KEY)
    assert not cache.has("optimize", KEY)
    assert leftovers(cache.root) == []


def test_other_keys_and_kinds_are_other_stages(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first, _ = cache.stage("export", "1", write("a"))
    second, _ = cache.stage("export", "2", write("b"))
    third, _ = cache.stage("optimize", "1", write("c"))
    assert [(p / "file.txt").read_text() for p in (first, second, third)] == ["a", "b", "c"]


def test_an_empty_stage_is_a_stage(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.stage("bundle", KEY, lambda _out: None)
    assert cache.stage("bundle", KEY, never)[1]


def test_a_stage_may_use_other_stages(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def outer(out: Path) -> None:
        inner, _ = cache.stage("download", KEY, write("inner"))
        (out / "copy").write_bytes((inner / "file.txt").read_bytes())

    folder, _ = cache.stage("source", KEY, outer)
    assert (folder / "copy").read_text() == "inner"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), BuildError("no")])
def test_a_failure_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    cache = Cache(tmp_path)

    def produce(out: Path) -> None:
        (out / "half").write_text("half")
        raise error

    with pytest.raises(type(error)):
        cache.stage("export", KEY, produce)
    assert not cache.has("export", KEY)
    assert leftovers(tmp_path) == []
    assert cache.usage() == []


@pytest.mark.parametrize("damage", ["truncate", "delete", "index", "foreign"])
def test_damage_is_found_and_repaired(tmp_path: Path, damage: str) -> None:
    cache = Cache(tmp_path)
    folder, _ = cache.stage("export", KEY, write("whole"))
    index = folder.parent / "index.json"
    if damage == "truncate":
        os.truncate(folder / "file.txt", 3)
    elif damage == "delete":
        (folder / "file.txt").unlink()
    elif damage == "index":
        os.truncate(index, 5)
    else:
        index.write_text(json.dumps({"files": ["file.txt"]}))
    assert not cache.has("export", KEY)
    assert cache.stage("export", KEY, write("whole")) == (folder, False)
    assert (folder / "file.txt").read_text() == "whole"


@pytest.mark.parametrize("name", ["../x", "", "A", "a/b", "a~b", "-a"])
def test_kinds_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a stage"):
        Cache(tmp_path).stage(name, KEY, never)
    with pytest.raises(ValueError, match="not a stage"):
        Cache(tmp_path).stage("export", f"{name}/..", never)


def test_links_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not links"):
        Cache(tmp_path).stage("export", KEY, lambda out: (out / "l").symlink_to("/etc/passwd"))


def test_a_killed_process_leaves_a_folder_that_the_next_one_sweeps(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from edgekit.toolchain.cache import Cache
def produce(out):
    (out / "half").write_bytes(b"x" * 1000)
    print("ready", flush=True)
    sys.stdin.read()
Cache(Path(sys.argv[1])).stage("export", "key", produce)
"""
    process = start(script, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    cache = Cache(tmp_path)
    # Alive: nobody else may take its folder away.
    cache.stage("export", "other", write("b"))
    assert any(name.endswith(".tmp") for name in leftovers(tmp_path))
    process.kill()
    process.communicate()
    assert any(name.endswith(".tmp") for name in leftovers(tmp_path))
    cache.stage("export", "third", write("c"))
    assert leftovers(tmp_path) == [name for name in leftovers(tmp_path) if name.endswith(".lock")]
    assert cache.stage("export", "key", write("whole"))[1] is False
    assert leftovers(tmp_path) == []


RACER = """
import os, sys
from pathlib import Path
from edgekit.toolchain.cache import Cache
def produce(out):
    (out / "maker").write_text(str(os.getpid()))
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")
print("ready", flush=True)
sys.stdin.readline()
for key in range(40):
    folder, _ = Cache(Path(sys.argv[1])).stage("export", str(key), produce)
    print((folder / "maker").read_text(), flush=True)
"""


def test_two_processes_that_race_share_every_stage(tmp_path: Path) -> None:
    log = tmp_path / "log"
    racers = [start(RACER, tmp_path / "cache", log) for _ in range(2)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert len(said[0][0].splitlines()) == 40
    assert log.read_text().count("made") == 40
    assert leftovers(tmp_path / "cache") == []


def test_threads_that_race_make_a_stage_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    start_line = threading.Barrier(4)
    made: list[str] = []
    found: list[Path] = []

    def work() -> None:
        start_line.wait()
        found.append(cache.stage("export", KEY, lambda out: made.append(out.name))[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(made) == 1


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from edgekit.toolchain.cache import Cache
from edgekit.wire.errors import BuildError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
def produce(out):
    with open(out / "large", "wb") as file:
        for _ in range(100):
            file.write(b"x" * 10_000)
try:
    Cache(Path(sys.argv[1])).stage("export", "key", produce)
except BuildError as error:
    print(error, error.hint)
"""
    said, errors = start(script, tmp_path).communicate()
    assert "the disk is full" in said, errors
    assert "MiB are free" in said
    assert str(tmp_path) in said
    assert "edgekit cache clear" in said
    assert not Cache(tmp_path).has("export", "key")
    assert leftovers(tmp_path) == []


def test_a_small_disk_that_fills_up_stays_usable(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mount.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        cache = Cache(disk)
        cache.stage("export", "small", write("small"))
        with pytest.raises(BuildError, match="the disk is full"):
            cache.stage(
                "export", "large", lambda out: (out / "x").write_bytes(b"x" * 2**21) and None
            )
        assert cache.stage("export", "small", never)[1]
        assert leftovers(disk) == []
        cache.clear()
        assert cache.stage("export", "fits", write("fits"))[1] is False
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_folder_serves_hits_and_explains_misses() -> None:
    script = """
import fcntl, os, sys  # all modules before the change of user, who may not read them
from pathlib import Path
from edgekit.toolchain.cache import Cache
from edgekit.wire.errors import ConfigError
cache = Cache(Path(sys.argv[1]))
if os.geteuid() == 0:
    os.setuid(65534)
print(cache.stage("export", "warm", lambda out: 1 / 0)[1])
try:
    cache.stage("export", "cold", lambda out: None)
except ConfigError as error:
    print(error, error.hint)
"""
    with tempfile.TemporaryDirectory(dir=tempfile.gettempdir()) as name:
        root = Path(name)
        root.chmod(0o755)
        Cache(root).stage("export", "warm", write("warm"))
        folders = [root, *(p for p in root.rglob("*") if p.is_dir())]
        try:
            for folder in folders:
                folder.chmod(0o555)
            said, errors = start(script, root).communicate()
        finally:
            for folder in folders:
                folder.chmod(0o755)
    assert said.startswith("True\n"), errors
    assert "the cache folder cannot be written" in said
    assert "EDGEKIT_CACHE_DIR" in said


def test_a_file_in_the_place_of_the_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(ConfigError, match="cannot be written"):
        Cache(tmp_path / "cache").stage("export", KEY, write("a"))


def test_the_users_own_missing_file_is_not_blamed_on_the_cache(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Cache(tmp_path / "cache").stage(
            "export", KEY, lambda out: (out / "x").write_bytes((tmp_path / "gone").read_bytes())
        )


def test_usage_counts_and_clear_removes_what_it_is_told(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.stage("export", "1", write("a" * 1000))
    cache.stage("download", "2", write("b" * 10))
    cache.part_path("3").write_bytes(b"half")
    usage = {(e.kind, e.key): e for e in cache.usage()}
    assert set(usage) == {("export", "1"), ("download", "2"), ("part", "3")}
    assert cache.usage()[0].kind == "export"
    assert usage["part", "3"].size_bytes == 4
    size = sum(p.stat().st_size for p in usage["export", "1"].path.rglob("*") if p.is_file())
    assert usage["export", "1"].size_bytes == size

    old = usage["export", "1"].used_at
    assert cache.clear(older_than=old - 1) == []
    assert [e.kind for e in cache.clear({"download", "absent"})] == ["download"]
    assert {e.kind for e in cache.clear()} == {"export", "part"}
    assert cache.usage() == []


def test_use_refreshes_the_age(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    folder, _ = cache.stage("export", KEY, write("a"))
    index = folder.parent / "index.json"
    os.utime(index, (1_000_000, 1_000_000))
    assert cache.select(older_than=2_000_000)
    cache.stage("export", KEY, never)
    assert cache.select(older_than=2_000_000) == []


def test_clear_leaves_what_is_not_the_caches(tmp_path: Path) -> None:
    for name in ("stages/mine/x/notes.txt", "work/mine.tmp/notes.txt", "photo.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    cache = Cache(tmp_path)
    cache.stage("export", KEY, write("a"))
    cache.clear()
    assert len([p for p in tmp_path.rglob("*") if p.name in {"notes.txt", "photo.jpg"}]) == 3


def test_asking_makes_no_folder(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.usage() == []
    assert cache.clear() == []
    assert cache.free_bytes() > 0
    assert not cache.root.exists()


def test_the_default_is_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    if sys.platform == "linux":
        assert default_root() == Path("/somewhere/edgekit")


def test_the_module_imports_nothing_heavy() -> None:
    script = (
        "import sys, edgekit.toolchain.cache as c; print([m for m in"
        " ('numpy','onnx','click','rich','httpx','torch') if m in sys.modules])"
    )
    said, errors = start(script).communicate()
    assert said == "[]\n", errors
