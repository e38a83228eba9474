"""What ``edgekit targets learn`` reads and writes: benchmarks, their bundles, a target's file."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.toolchain.facts import graph_facts
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.learn import Observation
from edgekit.wire.bundle import MODEL_NAME, SUFFIX, Bundle
from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import BuildError, ConfigError
from edgekit.wire.manifest import Manifest

SCHEMA = "edgekit.bench/1"
MAX_BYTES = 4 << 20
MIN_CALLS = 20
_HEADER = re.compile(r"^\s*\[\[?([^\[\]]+)\]\]?\s*(?:#.*)?$")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True)
class Bench:
    """A benchmark, as far as learning reads it.

    Attributes:
        path: Its file.
        model: Name of the model.
        bundle_sha256: Of the bundle.
        target: The target that its device is one of; None where nobody could tell.
        where: The device: its id, else the board's name, else the kind of host.
        date: When, ISO 8601.
        threads: Intra-op threads.
        latency_ms: Median of a call of the model.
        shapes: Input to the shape that was fed.
        unusable: Why it cannot be learned from; empty where it can.
    """

    path: str
    model: str
    bundle_sha256: str
    target: str | None
    where: str
    date: str
    threads: int
    latency_ms: float
    shapes: Mapping[str, tuple[int, ...]]
    unusable: str


def read_bench(path: Path) -> Bench:
    """Read a document of ``edgekit bench --json``.

    Raises:
        ConfigError: It cannot be read or is no such document.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"over {MAX_BYTES >> 20} MiB", where=str(path))
        document = json.loads(path.read_bytes())
        if document["schema"] != SCHEMA or document["measured"]["kind"] != "measured":
            raise ConfigError(
                "not a benchmark", hint="edgekit bench BUNDLE --json writes one", where=str(path)
            )
        return _bench(str(path), document)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"not a benchmark: {type(error).__name__}: {str(error)[:100]}",
            hint="edgekit bench BUNDLE --json writes one",
            where=str(path),
        ) from error


def _bench(path: str, document: Mapping[str, Any]) -> Bench:
    measured, call = document["measured"], document["model_call"]
    where = measured["device"] or measured["board"] or f"{measured['host']} host"
    date, sha256 = str(measured["date"]), str(document["bundle_sha256"])
    if not _DATE.fullmatch(date) or not _SHA256.fullmatch(sha256):
        raise ValueError("a date or a digest")
    inputs = document["inputs"]
    return Bench(
        path=path,
        model=_plain(document["model"]),
        bundle_sha256=sha256,
        target=None if measured["target"] is None else str(measured["target"]),
        where=_plain(where),
        date=date,
        threads=int(document["threads"]),
        latency_ms=float(call.get("p50_ms", 0.0)),
        shapes={name: tuple(int(d) for d in row["shape"]) for name, row in inputs.items()},
        unusable=_unusable(document, int(call["n"])),
    )


def _plain(text: object) -> str:
    """Keep what may stand in a comment of a TOML file."""
    return "".join(c for c in str(text) if c.isprintable())[:80]


def _unusable(document: Mapping[str, Any], calls: int) -> str:
    varying = [name for name, row in document["inputs"].items() if row["varies"]]
    if calls < MIN_CALLS:
        return f"{calls} calls are too few"
    if document["interrupted"]:
        return "it was interrupted"
    if document["basis"].get("reached") is False:
        return "it reached no plateau"
    if varying:
        return f"the shape of {_plain(varying[0])} varies from sample to sample"
    return ""


def check_target(benches: Sequence[Bench], target: str | None) -> str:
    """Return the one target that all benchmarks are of.

    Args:
        benches: At least one.
        target: The target that was asked for; None takes theirs.

    Raises:
        ConfigError: One was measured on a device of another kind.
    """
    wanted = target or next((b.target for b in benches if b.target is not None), None)
    for bench in benches:
        if wanted is None or bench.target != wanted:
            kind = f"a {bench.target}" if bench.target else "a machine of which nobody knows"
            named = f"no {wanted}" if wanted else "what target it is"
            raise ConfigError(
                f"measured on {bench.where}, {kind}{', ' if bench.target else ' '}{named}",
                hint="a target learns from devices of its own kind alone",
                where=bench.path,
            )
    return str(wanted)


def observations(
    benches: Sequence[Bench], folder: Path, open_: Callable[[Path], Bundle]
) -> tuple[list[Observation], list[tuple[str, str]]]:
    """Put each benchmark beside the graph that it is of.

    Args:
        benches: Of one target.
        folder: Holds the bundles; they are found by their digest.
        open_: Opens a bundle, verified.

    Returns:
        The observations, and file and reason of each benchmark that none could be made of.

    Raises:
        TrustError: A bundle is not signed by anybody who is trusted.
    """
    import onnx

    bundles = {sha256_file(path): path for path in sorted(folder.glob(f"*{SUFFIX}"))}
    found: list[Observation] = []
    left_out: list[tuple[str, str]] = []
    for bench in benches:
        path = bundles.get(bench.bundle_sha256)
        if bench.unusable or path is None:
            missing = f"its bundle {bench.bundle_sha256[:12]} is not in {folder}"
            left_out.append((bench.path, bench.unusable or missing))
            continue
        with open_(path) as bundle:
            graph = Graph.of(onnx.load_model_from_string(bundle.read(MODEL_NAME)))
            dims = _dims(bundle.manifest, bench.shapes)
        try:
            facts = graph_facts(graph, dims)
        except BuildError as error:
            left_out.append((bench.path, error.message))
            continue
        found.append(
            Observation(bench.model, bench.bundle_sha256, facts, bench.threads, bench.latency_ms)
        )
    return found, left_out


def _dims(manifest: Manifest, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Name the sizes of dynamic dimensions as :func:`graph_facts` wants them."""
    dims: dict[str, int] = {}
    declared = {tensor.name: tensor.shape for tensor in manifest.inputs}
    for name, shape in shapes.items():
        dims |= {f"{name}[{place}]": size for place, size in enumerate(shape)}
        named = zip(declared.get(name, ()), shape, strict=False)
        dims |= {said: size for said, size in named if isinstance(said, str)}
    return dims


def source_note(benches: Sequence[Bench], models: int) -> str:
    """Return the source that a learned fact has in a target's file."""
    devices = ", ".join(sorted({bench.where for bench in benches}))
    date = max(bench.date for bench in benches)
    return f"measured on device {devices}, {date}, {models} models"


def edited(text: str, values: Mapping[str, float], before: Mapping[str, float], note: str) -> str:
    """Put facts into the text of a target's file; everything else stays as it is.

    Args:
        text: The file; empty for a new one that overlays the packaged target.
        values: Dotted key to the new value.
        before: Dotted key to the value that it replaces.
        note: Where the new values come from.

    Raises:
        ConfigError: The file is written in a way that this cannot edit (inline or dotted tables).
    """
    lines = text.splitlines()
    for dotted, value in values.items():
        section, key = dotted.split(".")
        line = f"{key} = {_number(value)}  # {note}; was {_number(before[dotted])}"
        _put(lines, section, key, line)
    out = "\n".join(lines).lstrip("\n") + "\n"
    try:
        read = tomllib.loads(out)
        held = {dotted: read[s][k] for dotted in values for s, k in [dotted.split(".")]}
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ConfigError(
            "the target's file cannot be edited line by line",
            hint="write its tables as [cpu] and [memory]",
        ) from error
    if any(float(held[dotted]) != value for dotted, value in values.items()):
        raise ConfigError("the target's file does not hold what was put into it")
    return out


def _put(lines: list[str], section: str, key: str, line: str) -> None:
    first = next((i for i, text in enumerate(lines) if _section(text) == section), None)
    if first is None:
        lines += ["", f"[{section}]", line]
        return
    last = first + 1
    while last < len(lines) and _section(lines[last]) is None:
        if re.match(rf"\s*{re.escape(key)}\s*=", lines[last]):
            lines[last] = line
            return
        last += 1
    while not lines[last - 1].strip() or lines[last - 1].lstrip().startswith("#"):
        last -= 1
    lines.insert(last, line)


def _section(line: str) -> str | None:
    found = _HEADER.match(line)
    return found[1].strip() if found else None


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def unified(before: str, after: str, name: str) -> str:
    """Return the change as a unified diff that ``git apply`` and ``patch -p1`` take.

    Args:
        before: The file's text; empty where there is none yet.
        after: The text that it is to have.
        name: Path of the file from the project's folder.
    """
    old = f"a/{name}" if before else "/dev/null"
    return "".join(
        difflib.unified_diff(
            before.splitlines(keepends=True),
            after.splitlines(keepends=True),
            fromfile=old,
            tofile=f"b/{name}",
        )
    )
