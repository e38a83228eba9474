"""Make the small aarch64 user-space that :mod:`edgekit.toolchain.emulate` runs programs in.

A Debian root folder, unpacked only (no maintainer script runs, no chroot, no privilege), and a
folder of aarch64 wheels of what edgekit's runtime imports, at the versions of this installation.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.wire.errors import BuildError, MissingToolError

log = logging.getLogger(__name__)

APT_PACKAGES = ("qemu-user-static", "mmdebstrap", "arch-test", "debian-archive-keyring")
APT_COMMAND = f"apt-get install -y --no-install-recommends {' '.join(APT_PACKAGES)}"

SUITE = "bookworm"  # its Python is 3.11, the oldest that edgekit supports
ROOTFS_PACKAGES = ("python3", "libstdc++6", "libgomp1", "ca-certificates")
GUEST_PYTHON = "3.11"
# All that a program needs of it; documentation, tools and settings are not unpacked.
KEPT = ("./lib", "./usr/lib", f"./usr/bin/python{GUEST_PYTHON}")
PLATFORMS = (
    "manylinux_2_28_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux_2_17_aarch64",
    "manylinux2014_aarch64",
)
# The closure of what edgekit.wire and edgekit.runtime import, tasks included. It is installed
# without dependency resolution: pip would judge environment markers by the host.
PACKAGES = (
    "onnxruntime",
    "numpy",
    "flatbuffers",
    "packaging",
    "protobuf",
    "cryptography",
    "cffi",
    "pycparser",
    "pillow",
    "tokenizers",
    "soundfile",
    "typing-extensions",
)


def pins(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions that this installation has, without those of absent packages."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            # A local part (+cpu) names a build of the host's, which no other machine has.
            found[name] = importlib.metadata.version(name).partition("+")[0]
    return found


def make_rootfs(folder: Path) -> None:
    """Unpack the Debian user-space into a new folder.

    Raises:
        MissingToolError: mmdebstrap is not installed.
        BuildError: It failed; most often the network is not there.
    """
    if shutil.which("mmdebstrap") is None:
        raise MissingToolError("mmdebstrap is not installed", hint=APT_COMMAND)
    archive = folder.with_suffix(".tar")
    folder.mkdir(parents=True)
    # No maintainer script runs in "extract", so chrootless needs no privilege and no namespaces.
    mode = "auto" if os.geteuid() == 0 else "chrootless"
    _tool(
        "mmdebstrap",
        f"--mode={mode}",
        "--variant=extract",
        "--arch=arm64",
        f"--include={','.join(ROOTFS_PACKAGES)}",
        SUITE,
        str(archive),
        hint="it downloads Debian packages: is the network there?",
    )
    _tool("tar", "--extract", "--file", str(archive), "--directory", str(folder), *KEPT)
    archive.unlink()
    _replace_links(folder)


def _replace_links(folder: Path) -> None:
    """Put files in the place of symbolic links: the cache checks what it holds by file sizes."""
    root = folder.resolve()
    for link in [path for path in root.rglob("*") if path.is_symlink()]:
        text = str(link.readlink())
        goal = root / text.lstrip("/") if text.startswith("/") else link.parent / text
        goal = goal.resolve()
        link.unlink()
        if goal.is_relative_to(root) and goal.is_file():
            link.hardlink_to(goal)


def make_site(folder: Path, wanted: Mapping[str, str]) -> None:
    """Unpack wheels for aarch64 into a new folder.

    Args:
        folder: What PYTHONPATH will name.
        wanted: Versions by distribution. One without such a wheel gets another version.

    Raises:
        BuildError: pip failed; most often the network is not there.
    """
    wheels = folder.with_name("wheels")
    try:
        _download(wheels, [f"{name}=={version}" for name, version in wanted.items()])
    except BuildError:
        # One of the host's versions has no such wheel: pin what can be pinned.
        for name, version in wanted.items():
            try:
                _download(wheels, [f"{name}=={version}"])
            except BuildError:
                log.warning("no aarch64 wheel of %s %s; taking another version", name, version)
                _download(wheels, [name])
    folder.mkdir()
    for wheel in sorted(wheels.glob("*.whl")):
        # zipfile refuses absolute paths and "..".
        _tool(sys.executable, "-m", "zipfile", "-e", str(wheel), str(folder))
    shutil.rmtree(wheels)


def _download(folder: Path, requirements: Sequence[str]) -> None:
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    abis = [part for abi in ("cp311", "abi3", "none") for part in ("--abi", abi)]
    _tool(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
        *("--no-deps", "--only-binary=:all:", "--dest", str(folder)),
        *("--python-version", GUEST_PYTHON, "--implementation", "cp", *abis, *platforms),
        *requirements,
        hint="it downloads wheels for aarch64: is the network there?",
    )


def _tool(*command: str, hint: str | None = None) -> None:
    log.debug("%s", " ".join(command))
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(
            f"{Path(command[0]).name} failed ({done.returncode}): {last_line(done.stderr)}",
            hint=hint,
        )


def last_line(text: str) -> str:
    """Return what a tool said last."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it said nothing"
