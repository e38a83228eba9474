"""What a model has promised: contracts and measurements of the bundles that the fleet offers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.wire.bundle import MEASUREMENTS_NAME, open_bundle
from edgekit.wire.errors import EdgekitError
from edgekit.wire.measurement import Measurement, Requirement
from edgekit.wire.results import parse_results

_DIGITS = re.compile(r"[0-9a-f]{12,64}", re.ASCII)
_MOST = 256


@dataclass(frozen=True)
class Promise:
    """What a bundle says of itself.

    Attributes:
        sha256: Of the bundle.
        title: For people.
        target: It was built for.
        serial: Of the model.
        precision: ``int8 static``.
        contract: The acceptance contract.
        shipped: Measurements of what it holds.
    """

    sha256: str
    title: str
    target: str
    serial: int
    precision: str
    contract: tuple[Requirement, ...]
    shipped: tuple[Measurement, ...]

    @property
    def p95_limit_ms(self) -> float | None:
        """The contract's limit of the p95 latency."""
        limits = [
            line.maximum
            for line in self.contract
            if line.metric == "latency_p95_ms" and line.vs == "absolute" and line.maximum
        ]
        return min(limits, default=None)


class Promises:
    """Reads the bundles of a folder, each once: its name is its digest.

    Args:
        folder: Where ``<sha256>.ekb`` files lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, Promise | None] = {}

    def of(self, digits: str) -> Promise | None:
        """Return what a bundle says; None where the fleet does not have it.

        Args:
            digits: The first of its digest, at least 12.
        """
        if not _DIGITS.fullmatch(digits):
            return None
        path = next(self._folder.glob(f"{digits}*.ekb"), None)
        if path is None:
            return None
        if path not in self._read:
            while len(self._read) >= _MOST:
                self._read.pop(next(iter(self._read)))
            self._read[path] = _read(path)
        return self._read[path]

    def all_of(self, bundles: Sequence[str]) -> list[Promise]:
        """Return what these bundles say, of those that the fleet has."""
        found = [self.of(digits) for digits in bundles]
        return [promise for promise in found if promise is not None]

    def limit_ms(self, bundles: Sequence[str]) -> float | None:
        """Return the lowest p95 limit of these bundles."""
        limits = [promise.p95_limit_ms for promise in self.all_of(bundles)]
        return min((limit for limit in limits if limit is not None), default=None)


def _read(path: Path) -> Promise | None:
    try:
        with open_bundle(path, None) as bundle:
            manifest = bundle.manifest
            has_results = MEASUREMENTS_NAME in manifest.members
            results = parse_results(bundle.read(MEASUREMENTS_NAME)) if has_results else None
    except EdgekitError:
        return None
    return Promise(
        sha256=path.stem,
        title=manifest.title,
        target=manifest.target.name,
        serial=manifest.serial,
        precision=manifest.precision,
        contract=manifest.contract,
        shipped=results.shipped if results is not None else (),
    )
