"""``pypi:`` takes a wheel or an sdist through pip, so that the user's pip configuration holds."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from edgekit.toolchain.events import Event
from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources._archive import open_archive
from edgekit.toolchain.sources._client import only_file, run_client
from edgekit.toolchain.sources._context import (
    Context,
    checksum,
    purl,
    split_member,
    unpack_pinned,
    wrong_sha256,
)
from edgekit.wire.errors import BuildError, ConfigError, EdgekitError, MissingToolError

SYNTAX = "pypi:NAME==VERSION[?sdist|?wheel=TAG][!path/in/archive]"
EXAMPLE = "pypi:magika==1.0.3!magika/models/standard_v3_3/model.onnx"

# Without a tag, a wheel for every platform is taken, the same one on every host.
_ANY = "py3-none-any"
# pip wants a version to make tags of; with Requires-Python ignored, any recent one will do.
_PYTHON = "313"
_MISSING = "this Python has no pip: python -m ensurepip"
_PIP_WITH_RAW_PROGRESS = (24, 1)

_REFERENCE = re.compile(
    r"pypi:(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"==(?P<version>[0-9][A-Za-z0-9.+_-]*)"
    r"(?P<option>\?sdist|\?wheel=[A-Za-z0-9_.]+-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+)?"
)
_TAG = re.compile(r"(?P<implementation>[a-z]+)(?P<version>[0-9]*)")
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_GOT = re.compile(r"Got\s+([0-9a-f]{64})")


@dataclass(frozen=True)
class Reference:
    """A parsed URI.

    Attributes:
        name: The project.
        version: Its version.
        tag: The wheel's tag, or None for the sdist.
        member: Path inside; empty for everything.
    """

    name: str
    version: str
    tag: str | None
    member: str


def parse(ref: SourceRef) -> Reference:
    """Parse a URI.

    Raises:
        ConfigError: It is malformed.
    """
    package, member = split_member(ref.uri)
    match = _REFERENCE.fullmatch(package)
    if match is None:
        raise ConfigError(f'"{ref.uri}" is malformed', hint=f"expected {SYNTAX}", where=ref.where)
    option = match["option"] or f"?wheel={_ANY}"
    tag = None if option == "?sdist" else option.removeprefix("?wheel=")
    return Reference(match["name"], match["version"], tag, member or "")


def describe(ref: SourceRef) -> str:
    """Return the purl."""
    parsed = parse(ref)
    name = re.sub(r"[-_.]+", "-", parsed.name).lower()
    return purl(
        "pypi", name, parsed.version, qualifiers=checksum(ref), subpath=parsed.member or None
    )


def fetch(ref: SourceRef, context: Context) -> Path:
    """Return the member or the unpacked folder; see :func:`edgekit.toolchain.sources.fetch`."""
    parsed = parse(ref)
    if parsed.tag is None and not ref.sha256:
        # pip runs an sdist's own code to read its metadata, so it is checked before that.
        raise ConfigError(
            f"{ref.uri} has no sha256",
            hint="an sdist is pinned before it is fetched: `pip hash` of the file gives it",
            where=ref.where,
        )
    return unpack_pinned(
        ref,
        context,
        member=parsed.member,
        download=lambda folder: _download(ref, parsed, context, folder),
        opened=open_archive,
        strip=parsed.tag is None,
    )


def _download(ref: SourceRef, parsed: Reference, context: Context, folder: Path) -> Path:
    said: list[str] = []

    def on_line(line: str) -> None:
        said.append(line)
        if match := _PROGRESS.search(line):
            done, total = int(match[1]), int(match[2])
            context.on_event(Event(ref.uri, "fetch", done, total, "bytes"))

    arguments = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--dest", "."]
    arguments += ["--disable-pip-version-check", "--progress-bar", _progress_bar()]
    requirement = f"{parsed.name}=={parsed.version}"
    if parsed.tag is None:
        pinned = folder / "requirements.txt"
        pinned.write_text(f"{requirement} --hash=sha256:{ref.sha256}\n", encoding="utf-8")
        arguments += ["--no-binary=:all:", "--require-hashes", "--requirement", pinned.name]
    else:
        arguments += [*wheel_options(parsed.tag), requirement]
    try:
        run_client(
            arguments,
            ref,
            folder=folder,
            missing=_MISSING,
            hint="check the name and the version",
            on_line=on_line,
        )
    except BuildError as error:
        raise _explained(error, ref, "\n".join(said)) from error
    finally:
        (folder / "requirements.txt").unlink(missing_ok=True)
    return only_file(folder, ref, (".whl", ".tar.gz", ".zip", ".tar.bz2"))


def wheel_options(tag: str) -> list[str]:
    """Return pip's options that choose the wheel of a tag on any host.

    Args:
        tag: ``py3-none-any``, ``cp311-cp311-manylinux_2_28_x86_64``, ``cp39-abi3-…``; each of the
            three parts may be several, joined by dots.
    """
    python, abi, platform = tag.split("-")
    match = _TAG.match(python.rpartition(".")[2])
    implementation = match["implementation"] if match else "py"
    version = match["version"] if match else ""
    options = ["--only-binary=:all:", "--ignore-requires-python"]
    options += ["--implementation", implementation]
    options += ["--python-version", version if len(version) > 1 else _PYTHON]
    options += [word for one in abi.split(".") for word in ("--abi", one)]
    return options + [word for one in platform.split(".") for word in ("--platform", one)]


def _explained(error: BuildError, ref: SourceRef, said: str) -> EdgekitError:
    if got := _GOT.search(said):
        return wrong_sha256(ref, got[1])
    if "No module named pip" in said:
        return MissingToolError("pip is not installed", hint=_MISSING, where=ref.where)
    no_network = "cannot be fetched: no network" in error.message
    if not no_network and "No matching distribution" in said:
        hint = (
            "no network, another name or version, or no wheel for every platform: then name one"
            " (?wheel=TAG) or the sdist (?sdist)"
        )
        return BuildError(error.message, hint=hint, where=error.where)
    return BuildError(error.message, hint=error.hint, where=error.where)


def _progress_bar() -> str:
    try:
        version = importlib.metadata.version("pip").split(".")
        known = (int(version[0]), int(version[1])) >= _PIP_WITH_RAW_PROGRESS
    except (importlib.metadata.PackageNotFoundError, ValueError, IndexError):
        known = False
    return "raw" if known else "off"
