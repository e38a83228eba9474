"""A wheel of an installed package, made from its files: no network, no build tool, the same bytes.

What runs here is what the board gets, whether it was installed from an index or is a working copy
(PEP 427 says what a wheel is, PEP 660 what an editable installation leaves).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

from edgekit.wire.errors import BuildError

_LEFT_OUT = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
_INFO = ".dist-info"
_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16


def pack_wheel(distribution: Distribution, folder: Path, *, source: Path | None = None) -> Path:
    """Write the wheel of an installed distribution.

    Args:
        distribution: The installed one.
        folder: Where to write it.
        source: The package's own folder, for an editable installation.

    Returns:
        The wheel.

    Raises:
        BuildError: The installation has no files to pack.
    """
    files = dict(sorted(_files(distribution, source).items()))
    metadata = distribution.read_text("METADATA")
    wheel = distribution.read_text("WHEEL")
    if metadata is None or wheel is None or not files:
        raise BuildError(
            f"the installation of {distribution.name} cannot be packed: it has no files",
            hint="install it with pip",
        )
    info = next(
        (file.parts[0] for file in distribution.files or () if file.parts[0].endswith(_INFO)),
        f"{_escaped(distribution.name)}-{_escaped(distribution.version)}{_INFO}",
    )
    stem = info.removesuffix(_INFO)
    members = files | {f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": wheel.encode()}
    entry_points = distribution.read_text("entry_points.txt")
    if entry_points is not None:
        members[f"{info}/entry_points.txt"] = entry_points.encode()
    members[f"{info}/RECORD"] = _record(members, f"{info}/RECORD")
    path = folder / f"{stem}-{_tags(wheel)}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = _MODE
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def is_editable(distribution: Distribution) -> bool:
    """Tell whether a distribution is a working copy that its installation only points to."""
    direct = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool((direct.get("dir_info") or {}).get("editable"))


def _files(distribution: Distribution, source: Path | None) -> dict[str, bytes]:
    if is_editable(distribution):
        if source is None:
            return {}
        return {
            path.relative_to(source.parent).as_posix(): path.read_bytes()
            for path in source.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
    return dict(_installed(distribution))


def _installed(distribution: Distribution) -> Iterator[tuple[str, bytes]]:
    for file in distribution.files or ():
        parts = file.parts
        # Scripts lie outside; the entry points make them anew.
        if ".." in parts or "__pycache__" in parts or file.is_absolute():
            continue
        if parts[0].endswith(_INFO) and len(parts) == 2 and file.name in _LEFT_OUT:  # noqa: PLR2004
            continue
        yield file.as_posix(), Path(str(file.locate())).read_bytes()


def _record(members: dict[str, bytes], own: str) -> bytes:
    lines = []
    for name, data in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        quoted = f'"{name}"' if "," in name else name
        lines.append(f"{quoted},sha256={digest},{len(data)}\n")
    return "".join([*lines, f"{own},,\n"]).encode()


def _tags(wheel: str) -> str:
    """Return the compressed tags of a wheel's name from those in its WHEEL file."""
    tags = [tag.split("-") for tag in re.findall(r"^Tag: (\S+)$", wheel, re.MULTILINE)]
    columns = [list(dict.fromkeys(column)) for column in zip(*tags, strict=True)]
    return "-".join(".".join(column) for column in columns) or "py3-none-any"


def _escaped(text: str) -> str:
    return re.sub(r"[^\w\d.]+", "_", re.sub(r"[-_.]+(?=\D)", "_", text), flags=re.ASCII)
