"""Whatever is done to a bundle's bytes, it is refused whole."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import subprocess
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.wire.bundle import check_acceptable, open_bundle
from edgekit.wire.canonical import canonical_json, sha256_hex
from edgekit.wire.errors import TrustError, UsageError
from edgekit.wire.signing import generate_key, load_public_key
from edgekit.wire.storedzip import Entry, directory, local_header

WIRE = Path(__file__).parents[2] / "wire"
FIXTURE = WIRE / "bundle-v1.ekb"
KEY = load_public_key(WIRE / "bundle-v1.pub.pem")
DATA = FIXTURE.read_bytes()
MINE = generate_key("mine")


@pytest.fixture
def place(tmp_path):
    return tmp_path / "x.ekb"


def refused(path, data, match=None, keys=(KEY,)):
    path.write_bytes(data)
    with pytest.raises(TrustError, match=match) as caught:
        open_bundle(path, keys)
    assert caught.value.where.startswith(str(path))
    return caught.value


def laid_out(files):
    """Lay files out as a bundle, whatever they are."""
    entries, data = [], b""
    for name, content in files:
        entries.append(Entry(name, len(content), zlib.crc32(content), len(data)))
        data += local_header(entries[-1]) + content
    return data + directory(entries)


def contents():
    with zipfile.ZipFile(FIXTURE) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def signed(change, members=None, key=MINE):
    """Lay out a bundle whose manifest was changed and signed again by an attacker's key."""
    files = dict(contents())
    document = json.loads(files.pop("manifest.json"))
    files.pop("manifest.sig")
    document["key_id"] = key.key_id
    change(document)
    data = canonical_json(document)
    listed = list(files.items()) if members is None else members
    return laid_out([("manifest.json", data), ("manifest.sig", key.sign(data)), *listed])


def spots():
    """Every byte of the zip's own records, and every 16th of the contents."""
    inside = set()
    for name, content in contents():
        start = DATA.index(name.encode() + content) + len(name)
        inside.update(at for at in range(start, start + len(content)) if at % 16)
    return [at for at in range(len(DATA)) if at not in inside]


def test_the_layout_helper_makes_the_fixture():
    assert laid_out(contents()) == DATA


def test_every_flipped_byte_is_refused(place):
    place.write_bytes(DATA)
    with place.open("r+b", buffering=0) as file:
        for at in spots():
            os.pwrite(file.fileno(), bytes([DATA[at] ^ (1 << at % 8)]), at)
            with pytest.raises(TrustError):
                open_bundle(place, [KEY])
            os.pwrite(file.fileno(), DATA[at : at + 1], at)
    open_bundle(place, [KEY]).close()


def test_without_a_key_only_the_signature_goes_unchecked(place):
    start = DATA.index(b"manifest.sig") + len("manifest.sig")
    head = {*range(start, start + 64)}
    place.write_bytes(DATA)
    with place.open("r+b", buffering=0) as file:
        for at in range(0, len(DATA), 7):
            if at in head:
                continue
            os.pwrite(file.fileno(), bytes([DATA[at] ^ 0x10]), at)
            with pytest.raises(TrustError):
                open_bundle(place, None)
            os.pwrite(file.fileno(), DATA[at : at + 1], at)


def test_every_truncation_is_refused(place):
    place.write_bytes(DATA)
    for length in range(len(DATA) - 1, -1, -5):
        os.truncate(place, length)
        with pytest.raises(TrustError):
            open_bundle(place, [KEY])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_and_pasted_bytes_are_refused(place, data):
    cut = st.integers(0, len(DATA))
    one, two, three = sorted(data.draw(st.tuples(cut, cut, cut)))
    changed = data.draw(
        st.sampled_from(
            [
                DATA[:one] + DATA[two:],
                DATA[:two] + DATA[one:],
                DATA[:one] + DATA[two:three] + DATA[one:two] + DATA[three:],
                DATA[:one] + data.draw(st.binary(max_size=20)) + DATA[one:],
                data.draw(st.binary(max_size=100)),
            ]
        )
    )
    if changed != DATA:
        refused(place, changed)


def test_appended_and_prepended_bytes_are_refused(place):
    refused(place, DATA + b"\0", "behind the end")
    refused(place, DATA + DATA, "behind the end")
    refused(place, b"\0" + DATA, "not an edgekit bundle")
    refused(place, b"", "truncated")


def test_swapped_contents_are_refused(place):
    files = contents()
    swapped = [(n, files[5][1] if i == 3 else c) for i, (n, c) in enumerate(files)]
    refused(place, laid_out(swapped), "manifest says|digest")
    same_size = [(n, bytes(reversed(c)) if i == 3 else c) for i, (n, c) in enumerate(files)]
    refused(place, laid_out(same_size), "digest")


def test_other_orders_missing_extra_and_repeated_members_are_refused(place):
    files = contents()
    refused(place, laid_out([*files[:2], files[3], files[2], *files[4:]]), "stands where")
    refused(place, laid_out(files[:-1]), "is missing")
    refused(place, laid_out([*files[:4], *files[5:]]), "stands where")
    refused(place, laid_out([*files, ("zzz", b"")]))
    refused(place, laid_out([*files[:4], files[3], *files[4:]]), "stands where")
    refused(place, laid_out([files[1], files[0], *files[2:]]), "stands where")


def rezipped(path, compression=zipfile.ZIP_STORED, change=lambda _info: None):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.create_system = 3
            change(info)
            archive.writestr(info, content)
    return path.read_bytes()


def test_compressed_members_are_refused(place):
    refused(place, rezipped(place, zipfile.ZIP_DEFLATED), "compressed")


def test_symbolic_links_are_refused(place):
    raw = bytearray(DATA)
    at = raw.index(b"PK\1\2") + 38
    raw[at : at + 4] = struct.pack("<L", (stat.S_IFLNK | 0o777) << 16)
    refused(place, bytes(raw), "symbolic link")


def test_encrypted_members_are_refused(place):
    raw = bytearray(DATA)
    raw[6] |= 1
    refused(place, bytes(raw), "encrypted")


def test_a_bundle_that_was_zipped_again_is_refused(place, tmp_path):
    def date(info):
        info.date_time = (2026, 1, 1, 0, 0, 0)

    refused(place, rezipped(place, change=date), '"')
    if shutil.which("zip"):
        with open_bundle(FIXTURE, [KEY]) as bundle:
            folder = bundle.extract(tmp_path / "x")
        again = tmp_path / "again.zip"
        subprocess.run(["zip", "-q", "-r", again, "."], cwd=folder, check=True)
        refused(place, again.read_bytes())


def test_overlapping_members_are_refused(place):
    raw = bytearray(DATA)
    second = raw.index(b"PK\1\2", raw.index(b"PK\1\2") + 4)
    raw[second + 42 : second + 46] = struct.pack("<L", 0)
    refused(place, bytes(raw), "offset")


def test_an_archive_comment_is_refused(place):
    refused(place, DATA[:-2] + struct.pack("<H", 3) + b"abc")


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", ".ssh", "a\\..\\b", "a//b"])
def test_paths_that_leave_the_folder_are_refused_even_when_signed(place, name):
    content = b"evil"
    member = {"size_bytes": len(content), "sha256": sha256_hex(content)}

    def change(document):
        document["pipeline"]["files"] = {}
        document["members"] = {name: member}

    data = signed(change, [(name, content)])
    refused(place, data, "not a plain relative path", keys=[MINE.public])


def test_a_signed_manifest_that_lists_other_sizes_is_refused(place):
    def change(document):
        document["members"]["model.onnx"]["size_bytes"] += 1

    refused(place, signed(change), "manifest says", keys=[MINE.public])


def test_huge_sizes_are_refused_without_memory(place):
    header = Entry("manifest.json", 2**32 - 2, 0, 0)
    refused(place, local_header(header) + b"{}", "over 1048576 bytes")

    def change(document):
        document["members"]["model.onnx"]["size_bytes"] = 2**60

    refused(place, signed(change), "size_bytes", keys=[MINE.public])


def test_the_reason_tells_an_unknown_signer_from_a_broken_signature(place):
    resigned = signed(lambda _document: None)
    error = refused(place, resigned, f"signed by key {MINE.key_id}, which is not trusted")
    assert "--key" in error.hint
    assert KEY.label in error.message
    changed = DATA.replace(b'"serial":7', b'"serial":8')
    raw = bytearray(changed)
    manifest = raw[raw.index(b"{") : raw.index(b"PK", 10)]
    raw[14:18] = struct.pack("<L", zlib.crc32(manifest))
    refused(place, bytes(raw), "signature does not hold")
    refused(place, DATA, "trusted: none", keys=[])


def test_a_key_id_that_is_not_the_signers_is_refused(place):
    def change(document):
        document["key_id"] = KEY.key_id

    refused(place, signed(change), "names key", keys=[KEY, MINE.public])


def test_a_newer_format_is_named(place):
    def change(document):
        document["format"] = 2

    refused(place, signed(change), "made by a newer edgekit", keys=[MINE.public])


def test_a_signed_bundle_is_accepted_and_read(place):
    place.write_bytes(signed(lambda _document: None))
    with open_bundle(place, [KEY, MINE.public]) as bundle:
        assert bundle.signed_by == MINE.public
        assert bundle.read("pipeline/labels.txt") == b"cat\ndog\nowl\n"
        assert bundle.sha256() == sha256_hex(place.read_bytes())
        with pytest.raises(TrustError, match="no member"):
            bundle.read("manifest.json/../x")


def test_a_file_that_changes_while_open_is_noticed(place, tmp_path):
    place.write_bytes(DATA)
    with open_bundle(place, [KEY]) as bundle:
        at = DATA.index(b"cat\ndog")
        with place.open("r+b") as file:
            file.seek(at)
            file.write(b"C")
        with pytest.raises(TrustError, match="has changed"):
            bundle.read("pipeline/labels.txt")
        with pytest.raises(TrustError, match="has changed"):
            bundle.extract(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.ekb"]


def test_extracting_gives_what_unzip_gives(tmp_path):
    with open_bundle(FIXTURE, [KEY]) as bundle:
        ours = bundle.extract(tmp_path / "ours")
        with pytest.raises(UsageError, match="exists"):
            bundle.extract(ours)
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(tmp_path / "theirs")
    found = {p.relative_to(ours): p.read_bytes() for p in ours.rglob("*") if p.is_file()}
    theirs = tmp_path / "theirs"
    assert found == {
        p.relative_to(theirs): p.read_bytes() for p in theirs.rglob("*") if p.is_file()
    }


def test_what_is_no_file_is_a_usage_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        with pytest.raises(UsageError):
            open_bundle(path, [KEY])


def test_wrong_target_family_and_lower_serial_are_refused():
    with open_bundle(FIXTURE, [KEY]) as bundle:
        manifest = bundle.manifest
    check_acceptable(manifest)
    check_acceptable(manifest, target="rpi5", family="arm64", installed_serial=7)
    with pytest.raises(TrustError, match="for target rpi5, this is rpi4"):
        check_acceptable(manifest, target="rpi4")
    with pytest.raises(TrustError, match="family arm64"):
        check_acceptable(manifest, family="x86-64-vnni")
    with pytest.raises(TrustError, match="serial 7 is lower than the installed 8"):
        check_acceptable(manifest, installed_serial=8)
    check_acceptable(replace(manifest, serial=9), installed_serial=8)
