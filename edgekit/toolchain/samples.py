"""Sample sets of a recipe: fetched, read, bounded, kept in the cache, and proven disjoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import OnEvent
from edgekit.toolchain.readers import Sample, read_samples
from edgekit.toolchain.recipe import DataSpec
from edgekit.toolchain.sources import fetch
from edgekit.wire.canonical import digest_of
from edgekit.wire.errors import BuildError, ConfigError, MissingToolError

log = logging.getLogger(__name__)
T = TypeVar("T")

# All samples of a set stand in memory at once.
MAX_SET_BYTES = 1 << 30


@dataclass(frozen=True)
class SampleSet:
    """Samples in a fixed order.

    Attributes:
        samples: The samples.
        sha256: Digest over every sample's bytes and label, in order.
        left_out: Optional sources that could not be had here, each with the reason.
    """

    samples: tuple[Sample, ...]
    sha256: str
    left_out: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """True if every sample has a label."""
        return bool(self.samples) and all(s.label is not None for s in self.samples)


@dataclass(frozen=True)
class Fetcher:
    """How files are fetched in this build."""

    cache: Cache
    folder: Path
    on_event: OnEvent
    offline: bool


def load_set(specs: Sequence[DataSpec], fetcher: Fetcher, code_sha256: str) -> SampleSet:
    """Load a set from all of its sources.

    Args:
        specs: The recipe's ``[[calibration]]`` or ``[[evaluation]]`` entries.
        fetcher: Cache, folder of relative paths, listener.
        code_sha256: Digest of the readers' code; part of the cache's key.

    Raises:
        ConfigError: A set is empty, or a reader's options are wrong.
        BuildError: A source that is not optional cannot be fetched.
    """
    samples: list[Sample] = []
    left_out: list[str] = []
    for spec in specs:
        try:
            samples.extend(_load_one(spec, fetcher, code_sha256))
        except (MissingToolError, BuildError) as error:
            if not spec.optional:
                raise
            left_out.append(f"{spec.source.uri if spec.source else spec.reader}: {error.message}")
            log.info("optional data left out: %s", left_out[-1])
    digest = digest_of([[s.name, s.sha256, s.label] for s in samples])
    return SampleSet(tuple(samples), digest, tuple(left_out))


def evenly(samples: Sequence[T], limit: int) -> tuple[T, ...]:
    """Return at most ``limit`` samples, spread over all of them."""
    if len(samples) <= limit:
        return tuple(samples)
    return tuple(samples[i * len(samples) // limit] for i in range(limit))


def check_disjoint(calibration: SampleSet, evaluation: SampleSet, where: str) -> None:
    """Refuse an evaluation set that shares samples with the calibration set.

    Raises:
        ConfigError: Names the first shared sample.
    """
    seen = {s.sha256: s.name for s in calibration.samples}
    for sample in evaluation.samples:
        if sample.sha256 in seen:
            raise ConfigError(
                f'evaluation sample "{sample.name}" is also calibration sample '
                f'"{seen[sample.sha256]}"',
                hint="give the two sets different files, or split one with take = even / odd",
                where=where,
            )


def _load_one(spec: DataSpec, fetcher: Fetcher, code_sha256: str) -> list[Sample]:
    root = _fetch(spec, fetcher)
    extra = {
        name: fetch(
            ref,
            cache=fetcher.cache,
            folder=fetcher.folder,
            on_event=fetcher.on_event,
            offline=fetcher.offline,
        )
        for name, ref in spec.extra.items()
    }
    if spec.source is not None and not spec.source.sha256:
        return _bounded(spec, root, extra)
    key = digest_of(
        {
            "code": code_sha256,
            "source": spec.source.sha256 if spec.source else None,
            "uri": spec.source.uri if spec.source else None,
            "extra": {k: [r.uri, r.sha256] for k, r in spec.extra.items()},
            "reader": spec.reader,
            "options": dict(spec.options),
            "limit": spec.limit,
        }
    )
    folder, _ = fetcher.cache.stage(
        "data", key, lambda out: _write(_bounded(spec, root, extra), out)
    )
    return _read(folder)


def _fetch(spec: DataSpec, fetcher: Fetcher) -> Path | None:
    if spec.source is None:
        return None
    return fetch(
        spec.source,
        cache=fetcher.cache,
        folder=fetcher.folder,
        on_event=fetcher.on_event,
        offline=fetcher.offline,
    )


def _bounded(spec: DataSpec, root: Path | None, extra: dict[str, Path]) -> list[Sample]:
    samples = list(read_samples(spec.reader, root, spec.options, extra))
    if not samples:
        raise ConfigError(
            "the set has no samples", where=spec.where, hint="check `include`: nothing matches"
        )
    if spec.limit and len(samples) > spec.limit:
        # Evenly over the set, so that a sorted set keeps its variety.
        samples = [samples[i * len(samples) // spec.limit] for i in range(spec.limit)]
    if sum(len(s.data) for s in samples) > MAX_SET_BYTES:
        raise ConfigError("the set is over 1 GiB", where=spec.where, hint="lower `limit`")
    return samples


def _write(samples: Sequence[Sample], out: Path) -> None:
    index = []
    with (out / "samples.bin").open("wb") as blob:
        for sample in samples:
            index.append([sample.name, sample.suffix, sample.label, len(sample.data)])
            blob.write(sample.data)
    (out / "index.json").write_text(json.dumps(index))


def _read(folder: Path) -> list[Sample]:
    samples = []
    with (folder / "samples.bin").open("rb") as blob:
        for name, suffix, label, size in json.loads((folder / "index.json").read_text()):
            samples.append(Sample(name=name, data=blob.read(size), suffix=suffix, label=label))
    return samples
