"""Sample sets: bounded, in one order, cached by their source, and disjoint."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import ignore
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.recipe import DataSpec, SourceRef
from edgekit.toolchain.samples import Fetcher, SampleSet, check_disjoint, load_set
from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import BuildError, ConfigError


@pytest.fixture
def fetcher(tmp_path) -> Fetcher:
    return Fetcher(Cache(tmp_path / "cache"), tmp_path, ignore, offline=True)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    for index in range(10):
        (folder / ("sub" if index % 3 else ".") / f"{index}.bin").write_bytes(bytes([index]))
    return folder


def of_folder(**more) -> DataSpec:
    return DataSpec(SourceRef("file:data", "", "m.toml:3"), "files", more, where="m.toml:2")


def archive(tmp_path, names: dict[str, bytes]) -> DataSpec:
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return DataSpec(SourceRef("file:data.tar!", sha256_file(path), "m.toml:3"), "files", {})


def test_the_order_is_the_names_and_the_digest_is_of_all(files, fetcher):
    first = load_set([of_folder()], fetcher, "code")
    assert [s.name for s in first.samples] == sorted(s.name for s in first.samples)
    assert load_set([of_folder()], fetcher, "code").sha256 == first.sha256
    (files / "0.bin").write_bytes(b"changed")
    assert load_set([of_folder()], fetcher, "code").sha256 != first.sha256


@pytest.mark.parametrize("limit", [1, 3, 9, 10, 11])
def test_a_limit_takes_evenly(files, fetcher, limit):
    spec = DataSpec(SourceRef("file:data", "", ""), "files", {}, limit=limit)
    names = [s.name for s in load_set([spec], fetcher, "code").samples]
    assert len(names) == min(limit, 10)
    assert names == sorted(set(names))


def test_a_pinned_archive_is_read_once_and_comes_back_the_same(tmp_path, fetcher):
    spec = archive(tmp_path, {"b.txt": b"two", "a.txt": b"one", "empty.txt": b""})
    first = load_set([spec], fetcher, "code")
    again = load_set([spec], fetcher, "code")
    assert first == again
    assert [(s.name, s.data, s.suffix) for s in again.samples] == [
        ("a.txt", b"one", ".txt"),
        ("b.txt", b"two", ".txt"),
        ("empty.txt", b"", ".txt"),
    ]
    assert len([e for e in fetcher.cache.usage() if e.kind == "data"]) == 1
    load_set([spec], fetcher, "other code")
    assert len([e for e in fetcher.cache.usage() if e.kind == "data"]) == 2


def test_an_optional_source_that_cannot_be_had_is_left_out_with_the_reason(files, fetcher):
    away = SourceRef("https://example.org/x.zip!", "0" * 64, "m.toml:9")
    required = DataSpec(away, "files", {})
    with pytest.raises(BuildError, match="offline"):
        load_set([of_folder(), required], fetcher, "code")
    optional = DataSpec(away, "files", {}, optional=True)
    found = load_set([of_folder(), optional], fetcher, "code")
    assert len(found.samples) == 10
    (reason,) = found.left_out
    assert "example.org" in reason
    assert "offline" in reason


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (of_folder(include=["*.wav"]), "no file matches"),
        (of_folder(inclode=["*"]), "inclode"),
        (DataSpec(SourceRef("file:data", "", ""), "filez", {}), 'no reader named "filez"'),
        (DataSpec(SourceRef("file:none", "", "m.toml:3"), "files", {}), "no such file"),
        (DataSpec(None, "files", {}), 'needs a "uri"'),
    ],
)
def test_what_is_refused(files, fetcher, spec, says):
    with pytest.raises(ConfigError, match=says):
        load_set([spec], fetcher, "code")


def made(data: list[bytes]) -> SampleSet:
    return SampleSet(tuple(Sample(f"s{i}", d, ".bin") for i, d in enumerate(data)), "")


contents = st.lists(st.binary(max_size=3), max_size=6)


@given(contents, contents)
def test_sets_are_disjoint_by_content_alone(calibration, evaluation):
    shared = set(calibration) & set(evaluation)
    if not shared:
        check_disjoint(made(calibration), made(evaluation), "m.toml")
        return
    with pytest.raises(ConfigError, match="is also calibration sample") as refused:
        check_disjoint(made(calibration), made(evaluation), "m.toml")
    assert refused.value.where == "m.toml"


def test_a_set_is_labelled_only_if_all_of_it_is():
    assert not SampleSet((), "").labelled
    one, two = Sample("a", b"", ".x", 0), Sample("b", b"", ".x", None)
    assert SampleSet((one,), "").labelled
    assert not SampleSet((one, two), "").labelled
