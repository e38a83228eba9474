from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.toolchain.sources import _archive
from edgekit.toolchain.sources._archive import Member, open_archive, safe_parts, unpack
from edgekit.wire.errors import BuildError, ConfigError, EdgekitError, TrustError

FILES = {"pkg/a.onnx": b"model", "pkg/data/b.txt": b"b", "pkg/data/deep/c.txt": b"c", "top": b"t"}


def make_zip(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)
    return path


def make_tar(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            for kind, suffix in ((tarfile.SYMTYPE, ""), (tarfile.LNKTYPE, ".hard")):
                info = tarfile.TarInfo(name + suffix)
                info.type, info.linkname = kind, target
                archive.addfile(info)
    return path


MAKERS = [make_zip, make_tar]


def extract(archive: Path, out: Path, member: str = "", **options) -> Path:
    out.mkdir(exist_ok=True)
    with open_archive(archive) as members:
        unpack(
            members,
            out,
            member=member,
            strip=options.pop("strip", False),
            archive_bytes=archive.stat().st_size,
            **options,
        )
    return out


def tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("make", MAKERS)
def test_everything_a_folder_or_a_file(make, tmp_path: Path) -> None:
    archive = make(tmp_path / "a", FILES)
    assert tree(extract(archive, tmp_path / "1") / "tree") == FILES
    assert tree(extract(archive, tmp_path / "2", "pkg/data") / "tree") == {
        "b.txt": b"b",
        "deep/c.txt": b"c",
    }
    assert tree(extract(archive, tmp_path / "3", "pkg/a.onnx")) == {"file/a.onnx": b"model"}


@pytest.mark.parametrize("make", MAKERS)
def test_the_top_folder_is_stripped(make, tmp_path: Path) -> None:
    archive = make(tmp_path / "a", {f"name-1.0/{name}": data for name, data in FILES.items()})
    assert tree(extract(archive, tmp_path / "1", strip=True) / "tree") == FILES
    assert tree(extract(archive, tmp_path / "2", "top", strip=True)) == {"file/top": b"t"}


@pytest.mark.parametrize("make", MAKERS)
def test_suffixes_choose(make, tmp_path: Path) -> None:
    out = extract(make(tmp_path / "a", FILES), tmp_path / "1", "pkg", suffixes=(".onnx",))
    assert tree(out / "tree") == {"a.onnx": b"model"}


@pytest.mark.parametrize("make", MAKERS)
def test_a_missing_member_is_a_config_error_with_the_closest_name(make, tmp_path: Path) -> None:
    archive = make(tmp_path / "a", FILES)
    with pytest.raises(ConfigError) as caught:
        extract(archive, tmp_path / "1", "pkg/a.onx")
    assert caught.value.hint == "did you mean pkg/a.onnx?"
    with pytest.raises(ConfigError):
        extract(archive, tmp_path / "2", "pkg/a.onnx/x")


HOSTILE = ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "C:/evil", "x" * 2000]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("make", MAKERS)
def test_names_that_lead_outside_are_refused(make, name: str, tmp_path: Path) -> None:
    archive = make(tmp_path / "a", {"fine": b"", name: b"evil"})
    inside = tmp_path / "in" / "side"
    inside.mkdir(parents=True)
    with pytest.raises(TrustError, match="hostile"):
        extract(archive, inside)
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/etc/evil").exists()


@pytest.mark.parametrize("make", MAKERS)
def test_links_are_left_out_and_never_followed(make, tmp_path: Path) -> None:
    archive = make(tmp_path / "a", {"real": b"r"}, {"link": "/etc/passwd", "up": "../.."})
    out = extract(archive, tmp_path / "1")
    assert tree(out / "tree") == {"real": b"r"}
    assert not any(p.is_symlink() for p in out.rglob("*"))
    with pytest.raises(ConfigError):
        extract(archive, tmp_path / "2", "link")


def test_a_file_behind_a_link_does_not_escape(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("dir")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(link)
        info = tarfile.TarInfo("dir/evil")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"evil"))
    extract(path, tmp_path / "1")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a", "./a")])
def test_a_name_that_stands_twice_is_refused(names: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(TrustError, match="twice"):
        extract(path, tmp_path / "1")


@pytest.mark.parametrize("make", MAKERS)
def test_bombs_stop_early(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "FLOOR_BYTES", 10_000)
    archive = make(tmp_path / "a", {f"{i}": b"\0" * 2_000_000 for i in range(5)})
    with pytest.raises(TrustError, match="far more than its size"):
        extract(archive, tmp_path / "1")
    written = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    assert written < 4_000_000
    with pytest.raises(TrustError, match="far more than its size"):
        extract(archive, tmp_path / "2", "4")


def test_a_member_that_lies_about_its_size_is_stopped(tmp_path: Path) -> None:
    liar = Member("a", 1, True, lambda: io.BytesIO(b"\0" * 3_000_000))
    limit = _archive.limit_for(10)
    assert limit == _archive.FLOOR_BYTES
    budget = _archive._Budget(1_000_000, "here")
    with pytest.raises(TrustError):
        _archive._write(liar, tmp_path / "a", budget, "here")


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "MAX_MEMBERS", 10)
    archive = make_zip(tmp_path / "a", {str(i): b"" for i in range(11)})
    with pytest.raises(TrustError):
        extract(archive, tmp_path / "1")


@pytest.mark.parametrize("make", MAKERS)
def test_truncated_and_foreign_files_are_build_errors(make, tmp_path: Path) -> None:
    archive = make(tmp_path / "a", {"a": os.urandom(100_000), "b": b"b"})
    whole = archive.read_bytes()
    for index, data in enumerate([whole[:60_000], b"", b"not an archive", whole[:100]]):
        archive.write_bytes(data)
        with pytest.raises(BuildError):
            extract(archive, tmp_path / str(index))


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a", {"a": os.urandom(1000)})
    data = bytearray(archive.read_bytes())
    data[500] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(BuildError):
        extract(archive, tmp_path / "1")


def test_an_encrypted_member_is_a_build_error(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a", {"a": b"secret"})
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    central = data.index(b"PK\x01\x02")
    data[central + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(BuildError, match="encrypted"):
        extract(archive, tmp_path / "1")


@given(st.text(alphabet="ab/.\\\0:~ ", max_size=12))
def test_safe_parts_stay_inside_or_are_refused(name: str) -> None:
    try:
        parts = safe_parts(name)
    except TrustError:
        return
    root = Path("/root/of/all")
    path = Path(os.path.normpath(root.joinpath(*parts)))
    assert path == root or path.is_relative_to(root)
    assert not set(parts) & {"", ".", ".."}


@given(
    st.lists(st.tuples(st.text(alphabet="ab/.\\", max_size=8), st.binary(max_size=8)), max_size=6)
)
def test_whatever_a_tar_holds_nothing_is_written_outside(files: list[tuple[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        path = root / "a.tar"
        with tarfile.open(path, "w") as archive:
            for member, data in files:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        out = root / "in" / "side"
        out.mkdir(parents=True)
        with contextlib.suppress(EdgekitError):
            extract(path, out)
        outside = [p for p in root.rglob("*") if p.is_file() and not p.is_relative_to(out)]
        assert outside == [path]


@given(st.binary(max_size=300))
def test_any_bytes_are_an_archive_or_an_error_of_ours(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a"
        path.write_bytes(data)
        try:
            extract(path, Path(name) / "out")
        except EdgekitError:
            return
