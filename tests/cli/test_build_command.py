"""``edgekit build`` as a user sees it: what it writes, prints and repeats."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit as package
from edgekit.toolchain.lock import read_lock
from edgekit.wire.bundle import open_bundle
from edgekit.wire.canonical import sha256_file

HEAVY = {"onnx", "onnxruntime", "torch", "matplotlib", "transformers"}

needs_data = pytest.mark.network


@pytest.fixture(scope="module")
def built(fresh, downloads, tmp_path_factory):
    """digits-cnn for rpi5, built by a process of its own with a cold cache: its folder and JSON."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(downloads, folder / "cache")
    ran = build_in(fresh, folder, "--json")
    assert ran.code == 0, ran.out + ran.err
    return folder, ran


def build_in(fresh, folder: Path, *more: str, env=None, under=()):
    arguments = ("build", "digits-cnn", "--target", "rpi5", "--cache-dir", folder / "cache", *more)
    return fresh(*arguments, cwd=folder, env=env, under=under)


@needs_data
def test_json_is_one_document_of_what_stands_in_the_folder(built):
    folder, ran = built
    assert ran.document["schema"] == "edgekit.build/1"
    assert ran.document["target"] == "rpi5"
    bundle = ran.bundle
    path, report = folder / bundle["path"], folder / bundle["report"]
    assert sorted(p.name for p in (folder / "dist").iterdir()) == [report.name, path.name][::-1]
    assert (bundle["model"], bundle["status"]) == ("digits-cnn", "built")
    assert bundle["size_bytes"] == path.stat().st_size
    assert bundle["sha256"] == sha256_file(path)
    assert {m["metric"] for m in bundle["measurements"]} >= {
        "top1_accuracy",
        "top1_agreement",
        "size_mib",
        "latency_p95_ms",
    }
    assert all(m["kind"] in ("measured", "predicted") for m in bundle["measurements"])
    with open_bundle(path, None) as opened:
        assert opened.manifest.precision == bundle["precision"]
        assert opened.manifest.golden.count == 16
        assert opened.manifest.plan_sha256 == bundle["plan_sha256"]
    text = report.read_text(encoding="utf-8")
    assert "digits-cnn" in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text), "the report works offline"


@needs_data
def test_a_second_run_does_nothing_and_imports_nothing_heavy(built, tree):
    folder, _first = built
    before = tree(folder / "dist")
    stamps = {p: p.stat().st_mtime_ns for p in (folder / "dist").iterdir()}
    line = ["build", "digits-cnn", "--target", "rpi5", "--cache-dir", "cache"]
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "edgekit", *line],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "digits-cnn is up to date: nothing in its plan has changed" in ran.stdout
    imported = {row.rpartition("|")[2].strip().split(".")[0] for row in ran.stderr.splitlines()}
    assert "edgekit" in imported
    assert imported & HEAVY == set()
    assert tree(folder / "dist") == before
    assert {p: p.stat().st_mtime_ns for p in (folder / "dist").iterdir()} == stamps


@needs_data
def test_quiet_prints_the_path_alone(built, fresh):
    folder, first = built
    ran = build_in(fresh, folder, "--quiet")
    assert (ran.code, ran.out, ran.err) == (0, f"{first.bundle['path']}\n", "")


@needs_data
def test_what_is_gone_or_changed_is_put_back(built, edgekit, tree):
    folder, _ = built
    before = tree(folder / "dist")
    line = ("build", "digits-cnn", "--target", "rpi5", "--project", folder, "--json")
    line = (*line, "--cache-dir", folder / "cache")
    (folder / "dist" / "digits-cnn-rpi5.html").unlink()
    assert edgekit(*line).bundle["status"] == "built"
    assert tree(folder / "dist") == before
    with (folder / "dist" / "digits-cnn-rpi5.ekb").open("ab") as file:
        file.write(b"x")
    assert edgekit(*line).bundle["status"] == "built"
    assert tree(folder / "dist") == before
    assert edgekit(*line).bundle["status"] == "up-to-date"


@needs_data
def test_people_read_lines_a_table_and_the_next_command(digits, cold_cache, fresh):
    arguments = ("build", "digits-cnn", "--target", "rpi5", "--cache-dir", cold_cache)
    ran = fresh(*arguments, cwd=digits)
    assert ran.code == 0
    assert "\x1b" not in ran.out + ran.err, "a pipe gets no colour and no bars"
    assert max(map(len, ran.err.splitlines())) <= 100
    assert "…" not in ran.err, "reasons are wrapped, not cut"
    stages = [line.split()[1] for line in ran.err.splitlines() if line.startswith("  ✓")]
    assert [s for s in stages if s != "fetch"] == ["optimize", "calibrate", "bundle"]
    lines = ran.out.rstrip().splitlines()
    assert any("top1_accuracy" in line and "n=533" in line for line in lines)
    assert any("predicted for rpi5" in line for line in lines)
    assert re.search(r"next: edgekit verify \S+digits-cnn-rpi5\.ekb", lines[-1])


@needs_data
def test_no_color_is_honoured_in_a_terminal(built, in_terminal):
    folder, _ = built
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m|\x1b\[[0-9;]*38;")
    line = ("build", "digits-cnn", "--target", "rpi5", "--cache-dir", "cache")
    shown = in_terminal(*line, cwd=folder, env={"NO_COLOR": "1"})
    assert shown.code == 0
    assert not colour.search(shown.out)
    wrong = ("build", "digits-cnn", "--target", "rpi55")
    assert colour.search(in_terminal(*wrong, cwd=folder).out)
    assert not colour.search(in_terminal(*wrong, cwd=folder, env={"NO_COLOR": "1"}).out)


@needs_data
def test_one_failure_does_not_stop_the_others(digits, edgekit, shared_cache):
    (digits / "models" / "broken.onnx").write_bytes(b"nothing of the kind")
    good = (digits / "models" / "digits-cnn.toml").read_text(encoding="utf-8")
    bad = good.replace("digits-cnn.onnx", "broken.onnx")
    bad = re.sub(r'^sha256 = "7a3.*\n', "", bad, flags=re.MULTILINE)
    (digits / "models" / "broken.toml").write_text(bad, encoding="utf-8")
    arguments = ("build", "--target", "rpi5", "--project", digits, "--jobs", "1")
    ran = edgekit(*arguments, "--json")
    assert ran.code == 5
    status = {b["model"]: b["status"] for b in ran.document["bundles"]}
    assert status == {"broken": "failed", "digits-cnn": "built"}
    failure = next(b for b in ran.document["bundles"] if b["model"] == "broken")
    assert failure["exit_code"] == 5
    assert "not a readable ONNX file" in failure["error"]["message"]

    quiet = edgekit(*arguments, "--quiet")
    assert quiet.out.split() == [str(digits / "dist" / "digits-cnn-rpi5.ekb")]
    assert "broken" in quiet.err
    assert "not a readable ONNX file" in quiet.err, "quiet is not silent about failures"


@needs_data
def test_the_python_api_builds_the_same(digits, shared_cache, key_file):
    events = []
    result = package.build(
        ["digits-cnn"], target="rpi5", project=digits, on_event=events.append, key_file=key_file
    )
    (outcome,) = result.outcomes
    assert (result.exit_code, outcome.status) == (0, "built")
    assert Path(str(outcome.path)).is_file()
    assert {event.stage for event in events} >= {"optimize", "calibrate", "bundle"}


@needs_data
def test_two_folders_and_two_caches_give_the_same_bytes(
    built, digits, cold_cache, fresh, key_file, tmp_path, downloads
):
    folders = (digits, tmp_path / "elsewhere" / "and deeper")
    shutil.copytree(digits, folders[1])
    caches = (cold_cache, shutil.copytree(downloads, tmp_path / "cache 2"))
    digests = []
    for folder, cache, seed in zip(folders, caches, ("1", "2"), strict=True):
        ran = fresh(
            *("build", "digits-cnn", "--target", "rpi5", "--json"),
            *("--cache-dir", cache, "--key-file", key_file),
            cwd=folder,
            env={"PYTHONHASHSEED": seed, "TZ": f"UTC+{seed}", "LC_ALL": "C"},
        )
        assert ran.code == 0, ran.out + ran.err
        digests.append(sha256_file(folder / ran.bundle["path"]))
    assert digests[0] == digests[1]


@needs_data
def test_a_timing_is_locked_so_that_another_build_repeats_it(
    digits, cold_cache, edgekit, key_file, tmp_path, downloads, host_target
):
    target = host_target
    other = tmp_path / "other"
    first = edgekit(
        *("build", "digits-cnn", "--target", target, "--project", digits, "--json"),
        *("--cache-dir", cold_cache, "--key-file", key_file),
    )
    assert first.code == 0, first.out
    (name,) = read_lock(digits)
    assert name == f"digits-cnn/{target}"
    shutil.copytree(digits, other, ignore=shutil.ignore_patterns("dist"))
    second = edgekit(
        *("build", "digits-cnn", "--target", target, "--project", other, "--json"),
        *("--cache-dir", shutil.copytree(downloads, tmp_path / "c2"), "--key-file", key_file),
    )
    assert second.code == 0, second.out
    assert second.bundle["sha256"] == first.bundle["sha256"]
    assert second.bundle["precision"] == first.bundle["precision"]
    assert (other / "edgekit.lock").read_bytes() == (digits / "edgekit.lock").read_bytes()


def test_a_file_needs_no_recipe(own, edgekit, tmp_path):
    dist = tmp_path / "out"
    ran = edgekit("build", own.model, "--data", own.data, "--target", "rpi5", "-o", dist, "--json")
    assert ran.code == 0, ran.out
    assert ran.bundle["model"] == "own"
    agreement = next(m for m in ran.bundle["measurements"] if m["metric"] == "output_cosine")
    assert agreement["n"] == 20
    assert (dist / "own-rpi5.ekb").is_file()
    again = edgekit(
        "build", own.model, "--data", own.data, "--target", "rpi5", "-o", dist, "--json"
    )
    assert again.bundle["status"] == "up-to-date"


@needs_data
def test_the_warm_cache_serves_without_a_network(cold_cache, digits, fresh, tmp_path):
    if os.geteuid() == 0 and cut_off():
        under, env = ("unshare", "--net"), {}
    else:  # nothing listens on port 9
        nowhere = "http://127.0.0.1:9"
        under, env = (), {"https_proxy": nowhere, "http_proxy": nowhere, "all_proxy": nowhere}
    env["PIP_RETRIES"] = "0"
    line = ("build", "digits-cnn", "--target", "rpi5", "--json", "--cache-dir")
    warm = fresh(*line, cold_cache, cwd=digits, env=env, under=under)
    assert (warm.code, warm.bundle["status"]) == (0, "built"), warm.out + warm.err

    empty = fresh(*line, tmp_path / "empty", "-o", tmp_path / "d", cwd=digits, env=env, under=under)
    assert empty.code == 5
    error = empty.bundle["error"]
    assert "scikit-learn" in error["message"]
    assert "network" in error["message"] + error["hint"], error
    assert not (tmp_path / "d").exists()

    told = fresh(*line, tmp_path / "empty", "--offline", "-o", tmp_path / "d", cwd=digits)
    assert told.code == 5
    assert "offline" in told.bundle["error"]["message"]
    assert "build once with the network" in told.bundle["error"]["hint"]


def cut_off() -> bool:
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return done.returncode == 0
