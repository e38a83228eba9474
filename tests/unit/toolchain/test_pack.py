from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.toolchain import pack
from edgekit.toolchain.pack import write_bundle
from edgekit.wire.bundle import open_bundle
from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import BuildError
from edgekit.wire.measurement import Requirement
from edgekit.wire.signing import PrivateKey, load_public_key

ROOT = Path(__file__).parents[3]
WIRE = ROOT / "tests" / "wire"
KEY = PrivateKey(bytes(range(32)), "test")


@pytest.fixture(scope="module")
def made():
    """The manifest and the members of the fixture."""
    key = load_public_key(WIRE / "bundle-v1.pub.pem")
    with open_bundle(WIRE / "bundle-v1.ekb", [key]) as bundle:
        members = {name: bundle.read(name) for name in bundle.manifest.members}
        return replace(bundle.manifest, members={}), members


def test_what_is_packed_opens(tmp_path, made):
    draft, members = made
    packed = write_bundle(tmp_path / "new" / "x.ekb", draft, members, KEY)
    assert packed.sha256 == sha256_file(packed.path)
    assert packed.size_bytes == packed.path.stat().st_size
    with open_bundle(packed.path, [KEY.public]) as bundle:
        assert bundle.manifest == packed.manifest
        assert bundle.manifest.key_id == packed.key_id == KEY.key_id
        assert {name: bundle.read(name) for name in bundle.manifest.members} == members
    assert [p.name for p in packed.path.parent.iterdir()] == ["x.ekb"]


def test_the_same_input_gives_the_same_bytes(tmp_path, made):
    draft, members = made
    folder = tmp_path / "members"
    folder.mkdir()
    as_files = {}
    for index, (name, data) in enumerate(reversed(members.items())):
        as_files[name] = folder / str(index)
        as_files[name].write_bytes(data)
    one = write_bundle(tmp_path / "a" / "one.ekb", draft, members, KEY)
    two = write_bundle(tmp_path / "b" / "two.ekb", draft, as_files, KEY)
    assert one.path.read_bytes() == two.path.read_bytes()


def test_the_bytes_are_those_of_every_other_machine(tmp_path, made):
    """A fixed digest: another Python or platform must come to it too."""
    draft, members = made
    packed = write_bundle(tmp_path / "x.ekb", draft, members, KEY)
    assert packed.sha256 == "d02be88031ebc0b0e0c942c59b2943da7bba1c68ca600f25ed980e78685dc307"


def test_unzip_and_openssl_agree(tmp_path, made):
    if not shutil.which("unzip") or not shutil.which("openssl"):
        pytest.skip("unzip or openssl is not installed")
    draft, members = made
    packed = write_bundle(tmp_path / "x.ekb", draft, members, KEY)
    subprocess.run(["unzip", "-q", packed.path, "-d", tmp_path / "x"], check=True)
    found = {
        str(p.relative_to(tmp_path / "x")): p.read_bytes()
        for p in (tmp_path / "x").rglob("*")
        if p.is_file()
    }
    assert found.keys() == {*members, "manifest.json", "manifest.sig"}
    assert all(found[name] == data for name, data in members.items())
    assert json.loads(found["manifest.json"])["model"] == "tiny"
    (tmp_path / "pub.pem").write_bytes(KEY.public.to_pem())
    command = [
        *("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / "pub.pem", "-rawin"),
        *("-in", tmp_path / "x" / "manifest.json", "-sigfile", tmp_path / "x" / "manifest.sig"),
    ]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    (tmp_path / "x" / "manifest.json").write_bytes(found["manifest.json"] + b" ")
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir())


def test_an_older_bundle_is_replaced_only_at_the_end(tmp_path, made):
    draft, members = made
    write_bundle(tmp_path / "x.ekb", draft, members, KEY)
    before = sha256_file(tmp_path / "x.ekb")
    with pytest.raises(BuildError):
        write_bundle(tmp_path / "x.ekb", draft, {**members, "extra": tmp_path / "none"}, KEY)
    assert sha256_file(tmp_path / "x.ekb") == before
    assert leftovers(tmp_path) == ["x.ekb"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../x": b""}, "plain relative path"),
        ({"manifest.json": b""}, "cannot list itself"),
        ({"a": b"", "A": b""}, "same file"),
    ],
)
def test_members_that_no_device_would_take_are_refused(tmp_path, made, members, message):
    draft, good = made
    with pytest.raises(BuildError, match=message):
        write_bundle(tmp_path / "x.ekb", draft, {**good, **members}, KEY)
    assert leftovers(tmp_path) == []


def test_drafts_that_no_device_would_take_are_refused(tmp_path, made):
    draft, members = made
    for bad in (
        replace(draft, serial=-1),
        replace(draft, model="../x"),
        replace(draft, contract=(Requirement("m", maximum=float("nan")),)),
        replace(draft, title="two\nlines"),
        replace(draft, pipeline=replace(draft.pipeline, options={"a": object()})),
        replace(draft, pipeline=replace(draft.pipeline, files={"labels": "none.txt"})),
        replace(draft, tools={**draft.tools, "python": "3.11"}),
    ):
        with pytest.raises(BuildError):
            write_bundle(tmp_path / "x.ekb", bad, members, KEY)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "cannot be written"), (errno.EIO, "written")],
)
def test_a_failing_disk_leaves_nothing_behind(tmp_path, made, monkeypatch, number, message):
    def fail(_descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pack.os, "fsync", fail)
    with pytest.raises(BuildError, match=message):
        write_bundle(tmp_path / "x.ekb", *made, KEY)
    assert leftovers(tmp_path) == []


def test_ctrl_c_leaves_nothing_behind(tmp_path, made, monkeypatch):
    def interrupt(_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(pack.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path / "x.ekb", *made, KEY)
    assert leftovers(tmp_path) == []


def test_a_file_that_changes_while_it_is_packed_is_noticed(tmp_path, made, monkeypatch):
    draft, members = made
    source = tmp_path / "in.bin"
    source.write_bytes(b"a" * 100)
    write = pack._write

    def change_first(file, sources):
        source.write_bytes(b"b" * 100)
        write(file, sources)

    monkeypatch.setattr(pack, "_write", change_first)
    out = tmp_path / "out"
    with pytest.raises(BuildError, match="does not read back"):
        write_bundle(out / "x.ekb", draft, {**members, "in.bin": source}, KEY)
    assert leftovers(out) == []


# Writes a bundle under a real limit of the operating system, as another user where asked.
CHILD = """
    import sys
    from pathlib import Path
    from dataclasses import replace
    from edgekit.toolchain.pack import write_bundle
    from edgekit.wire.bundle import open_bundle
    from edgekit.wire.errors import BuildError
    from edgekit.wire.signing import PrivateKey
    with open_bundle(Path(sys.argv[1]), None) as bundle:
        members = {name: bundle.read(name) for name in bundle.manifest.members}
        draft = replace(bundle.manifest, members={})
    try:
        write_bundle(Path(sys.argv[2]), draft, members, PrivateKey(bytes(32)))
    except BuildError as error:
        print(error.message)
"""


def packed_in_a_child(place, before):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), WIRE / "bundle-v1.ekb", place],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=before,
    ).stdout


def test_a_file_that_may_not_grow_leaves_nothing_behind(tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    assert "cannot be written" in packed_in_a_child(tmp_path / "x.ekb", limit)
    assert leftovers(tmp_path) == []


def test_a_folder_that_may_not_be_written_is_named(tmp_path, made):
    if os.geteuid() == 0:
        place = Path("/sys/x.ekb")  # not even root writes there
    else:
        tmp_path.chmod(0o500)
        place = tmp_path / "x.ekb"
    with pytest.raises(BuildError, match="folder cannot be written") as caught:
        write_bundle(place, *made, KEY)
    assert "-o" in caught.value.hint
