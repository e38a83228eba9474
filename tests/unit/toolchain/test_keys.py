from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from edgekit.toolchain.keys import create_key, key_files, named_key_file, signing_key
from edgekit.wire.errors import TrustError, UsageError
from edgekit.wire.signing import load_private_key


def test_the_first_build_makes_a_key_and_the_second_takes_it(tmp_path):
    path = tmp_path / "config" / "keys" / "dev.pem"
    key, created = signing_key(path, {})
    assert created
    assert key.name == "dev"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert signing_key(path, {}) == (key, False)
    assert [p.name for p in path.parent.iterdir()] == ["dev.pem"]


def test_a_loose_umask_does_not_open_the_key(tmp_path):
    before = os.umask(0)
    try:
        create_key(tmp_path / "dev.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "dev.pem").stat().st_mode) == 0o600


def test_in_ci_no_key_is_made(tmp_path):
    path = tmp_path / "ci.pem"
    env = {"EDGEKIT_KEY_FILE": str(path)}
    with pytest.raises(TrustError, match="EDGEKIT_KEY_FILE"):
        signing_key(path, env)
    assert not path.exists()
    key, _ = create_key(path)
    assert signing_key(path, env) == (key, False)


def test_a_key_that_others_can_read_is_not_used(tmp_path):
    create_key(tmp_path / "dev.pem")
    (tmp_path / "dev.pem").chmod(0o644)
    with pytest.raises(TrustError, match="others can read"):
        signing_key(tmp_path / "dev.pem", {})


def test_a_key_is_never_replaced(tmp_path):
    key, _ = create_key(tmp_path / "dev.pem")
    again, created = create_key(tmp_path / "dev.pem")
    assert not created
    assert again == key


def _race(path: str, barrier, results) -> None:
    barrier.wait()
    key, created = signing_key(Path(path), {})
    results.put((key.key_id, created))


def test_processes_that_race_agree_on_one_key(tmp_path):
    context = multiprocessing.get_context("spawn")
    count = 4
    barrier, results = context.Barrier(count), context.Queue()
    path = tmp_path / "keys" / "dev.pem"
    processes = [
        context.Process(target=_race, args=(str(path), barrier, results)) for _ in range(count)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert {key_id for key_id, _ in found} == {load_private_key(path).key_id}
    assert sum(created for _, created in found) == 1
    assert [p.name for p in path.parent.iterdir()] == ["dev.pem"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrustError, match="cannot be written") as caught:
        signing_key(tmp_path / "file" / "dev.pem", {})
    assert "EDGEKIT_KEY_FILE" in caught.value.hint


def test_keys_are_found_by_name(tmp_path):
    own = tmp_path / "dev.pem"
    assert key_files(tmp_path / "none") == []
    create_key(own)
    create_key(named_key_file(own, "release"))
    (tmp_path / "dev.pub.pem").write_bytes(b"")
    assert [p.name for p in key_files(tmp_path)] == ["dev.pem", "release.pem"]
    assert named_key_file(own, None) == own
    for name in ("../x", "a/b", "", ".x", "a.pem"):
        with pytest.raises(UsageError):
            named_key_file(own, name)
