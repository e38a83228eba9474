"""A folder of samples without a recipe: what its files are, and whether they are enough."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from edgekit.toolchain.readers.text_lines import distinct_lines
from edgekit.toolchain.verify import MIN_CALIBRATION_SAMPLES
from edgekit.wire.errors import ConfigError

SUFFIXES = {
    "arrays": (".npz", ".npy"),
    "pictures": (".png", ".jpg", ".jpeg", ".webp", ".bmp"),
    "sounds": (".wav", ".flac", ".ogg"),
    "texts": (".txt",),
}
_MAX_LISTED = 100_000


def data_kind(data: Path) -> str:
    """Return what most files of a folder are; texts only where nothing else is.

    Raises:
        ConfigError: There is no such folder, or nothing in it is a sample.
    """
    found = {kind: len(_files(data, kind)) for kind in SUFFIXES}
    # Texts beside pictures or sounds are labels and transcripts.
    kind = max(("arrays", "pictures", "sounds"), key=lambda k: found[k])
    kind = kind if found[kind] else "texts"
    if not found[kind]:
        links = any(path.is_symlink() for path in _listed(data))
        raise ConfigError(
            "no samples: neither .npz/.npy files nor pictures, sounds or texts"
            + (" (symbolic links are left out)" if links else ""),
            hint="one .npz a sample, keys = input names; or .png/.jpg for a classifier, .wav for "
            "a model of sound, .txt with a text a line for a model with a tokenizer",
            where=str(data),
        )
    return kind


def suffixes(data: Path, kind: str) -> list[str]:
    """Return the suffixes of a kind that a folder has, as they are spelled there."""
    counts = Counter(path.suffix for path in _files(data, kind))
    return sorted(counts, key=lambda s: (SUFFIXES[kind].index(s.lower()), s))


def check_count(data: Path) -> None:
    """Refuse a folder whose halves would hold too little.

    Raises:
        ConfigError: Says how many there are and how many it takes.
    """
    kind = data_kind(data)
    files = _files(data, kind)
    found, least, unit = len(files), 2 * MIN_CALIBRATION_SAMPLES, "sample"
    if kind == "sounds":
        # Windows of one file are too alike to stand in both halves; they are counted once cut.
        least, unit = 2, "sound"
    elif kind == "texts":
        names = sorted((path.relative_to(data).as_posix(), path) for path in files)
        found, unit = len(distinct_lines(names)), "text"
    # The larger half calibrates: an odd sample out is its.
    if found < least - 1 or found < 2:  # noqa: PLR2004 - one for each half
        raise ConfigError(
            f"{found} {unit}{' is' if found == 1 else 's are'} too few: every other one "
            "calibrates, the rest evaluates",
            hint=f"give at least {least}, as varied as the field"
            + ("; each is a line of its own" if kind == "texts" else ""),
            where=str(data),
        )


def _files(data: Path, kind: str) -> list[Path]:
    # Readers leave symbolic links out.
    return [p for p in _listed(data) if p.suffix.lower() in SUFFIXES[kind] and not p.is_symlink()]


def _listed(data: Path) -> list[Path]:
    if not data.is_dir():
        what = (
            "is a file, not a folder of samples" if data.exists() else "no such folder of samples"
        )
        raise ConfigError(what, where=str(data))
    found = []
    for number, path in enumerate(data.rglob("*")):
        if number > _MAX_LISTED:
            raise ConfigError(
                f"over {_MAX_LISTED} files", where=str(data), hint="give a smaller folder"
            )
        if path.is_file():
            found.append(path)
    return found
