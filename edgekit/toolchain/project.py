"""Where targets and models are: packaged with edgekit, and in the user's own project over them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgekit.wire.errors import MissingToolError

DataKind = Literal["targets", "models"]

_PACKAGE = Path(__file__).resolve().parents[1]


def packaged_folder(kind: DataKind) -> Path:
    """Return the folder of the targets or models that come with edgekit.

    An installed wheel holds them as package data; an editable install does not see that, and takes
    the repository's own folder.

    Raises:
        MissingToolError: Neither is there: the installation is incomplete.
    """
    in_wheel = _PACKAGE / "data" / kind
    if in_wheel.is_dir():
        return in_wheel
    in_repository = _PACKAGE.parent / kind
    if in_repository.is_dir():
        return in_repository
    raise MissingToolError(
        f"edgekit's own {kind} are not installed",
        hint="pip install --force-reinstall edgekit",
        where=str(in_wheel),
    )


def folders(project: Path, kind: DataKind) -> list[Path]:
    """Return the folders to read, the packaged one first: what comes later overlays it.

    Args:
        project: The user's project; its folder of that kind need not exist.
        kind: ``targets`` or ``models``.

    Raises:
        MissingToolError: The packaged folder is missing.
    """
    found = [packaged_folder(kind)]
    own = project / kind
    if own.is_dir() and own.resolve() != found[0].resolve():
        found.append(own)
    return found
