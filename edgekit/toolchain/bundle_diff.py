"""What changed between two bundles: manifest fields, members, measurements, contract outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgekit.wire.canonical import Json
from edgekit.wire.manifest import Manifest, Member
from edgekit.wire.measurement import Measurement, Verdict
from edgekit.wire.results import Results


@dataclass(frozen=True)
class FieldChange:
    """One field of the manifest; None where one side does not have it."""

    field: str
    old: Json
    new: Json


@dataclass(frozen=True)
class MemberChange:
    """One file; None where one side does not have it."""

    path: str
    old: Member | None
    new: Member | None


@dataclass(frozen=True)
class MeasurementChange:
    """One metric of the shipped models, with what the contract says of it on each side."""

    metric: str
    old: Measurement | None
    new: Measurement | None
    old_outcome: str | None
    new_outcome: str | None


@dataclass(frozen=True)
class BundleDiff:
    """What changed from an old bundle to a new one; empty where both are the same."""

    fields: tuple[FieldChange, ...]
    members: tuple[MemberChange, ...]
    measurements: tuple[MeasurementChange, ...]

    @property
    def same(self) -> bool:
        """True if nothing changed."""
        return not (self.fields or self.members or self.measurements)


def diff_bundles(
    old: Manifest, new: Manifest, old_results: Results | None, new_results: Results | None
) -> BundleDiff:
    """Compare two bundles.

    Args:
        old: The one that was.
        new: The one that is.
        old_results: Measurements of the old one; None where it carries none.
        new_results: Measurements of the new one; None where it carries none.
    """
    return BundleDiff(
        fields=tuple(_fields(old, new)),
        members=tuple(_members(old.members, new.members)),
        measurements=tuple(_measurements(old, new, old_results, new_results)),
    )


def _fields(old: Manifest, new: Manifest) -> Iterator[FieldChange]:
    before, after = _flat(old), _flat(new)
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after or before[name] != after[name]:
            yield FieldChange(name, before.get(name), after.get(name))


def _flat(manifest: Manifest) -> dict[str, Json]:
    document = manifest.to_json()
    del document["members"]
    return dict(_leaves("", document))


def _leaves(prefix: str, value: Json) -> Iterator[tuple[str, Json]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else key, item)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            # Contract lines are known by their metric, tensors by name: an index would shift.
            known_by = _identity(item) or str(index)
            yield from _leaves(f"{prefix}[{known_by}]", item)
    else:
        yield prefix, value


def _identity(item: Json) -> str | None:
    if not isinstance(item, dict):
        return None
    if "op" in item:
        return f"{item['op']} {item.get('precision')} {item.get('provider')}"
    name = item.get("metric", item.get("name"))
    return name if isinstance(name, str) else None


def _members(old: Mapping[str, Member], new: Mapping[str, Member]) -> Iterator[MemberChange]:
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            yield MemberChange(path, old.get(path), new.get(path))


def _measurements(
    old: Manifest, new: Manifest, old_results: Results | None, new_results: Results | None
) -> Iterator[MeasurementChange]:
    before, before_outcome = _by_metric(old, old_results)
    after, after_outcome = _by_metric(new, new_results)
    metrics = dict.fromkeys((*before, *before_outcome, *after, *after_outcome))
    for metric in metrics:
        change = MeasurementChange(
            metric,
            before.get(metric),
            after.get(metric),
            before_outcome.get(metric),
            after_outcome.get(metric),
        )
        if change.old != change.new or change.old_outcome != change.new_outcome:
            yield change


def _by_metric(
    manifest: Manifest, results: Results | None
) -> tuple[dict[str, Measurement], dict[str, str]]:
    if results is None:
        return {}, {}
    verdicts: tuple[Verdict, ...] = results.judge(manifest.contract)
    return (
        {measurement.metric: measurement for measurement in results.shipped},
        {verdict.requirement.metric: verdict.outcome.value for verdict in verdicts},
    )
