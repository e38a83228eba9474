"""How bundles look in a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edgekit.wire.measurement import Kind, Measurement, Outcome, Requirement, Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.toolchain.bundle_diff import BundleDiff, FieldChange
    from edgekit.wire.bundle import Bundle
    from edgekit.wire.manifest import Golden, Member
    from edgekit.wire.results import Results
    from edgekit.wire.signing import PublicKey

_MARKS = {
    Outcome.PASS: Text("✓", style="green"),
    Outcome.FAIL: Text("✗", style="bold red"),
    Outcome.UNDECIDED: Text("the device decides"),
    Outcome.ABSENT: Text("absent", style="bold red"),
}
_MAX_SHOWN = 60
_GOLDEN = "golden/"
_DIGEST = re.compile("[0-9a-f]{64}")
# A field of one entry of a list: placement[Conv int8 CPUExecutionProvider].count
_ENTRY = re.compile(r"(.+\[.*\])\.\w+")


def render_show(
    console: Console,
    bundle: Bundle,
    signer: PublicKey | None,
    results: Results | None,
    *,
    verbose: bool = False,
) -> None:
    """Print a bundle: what it is, contract, measurements, members, the next command.

    Args:
        console: Where to.
        bundle: The bundle.
        signer: Who signed it, where that is known.
        results: Its measurements.
        verbose: A line for every file of every golden sample.
    """
    manifest = bundle.manifest
    if signer:
        signed = f"signed by {signer.label}"
    else:
        signed = f"signature not checked: key {manifest.key_id} is not known here"
    size = f"{bundle.size_bytes / 2**20:.2f} MiB"
    _line(console, f"{manifest.model} {manifest.serial} → {manifest.target.name}   {size}", signed)
    facts = {
        "title": manifest.title,
        "license": manifest.license,
        "precision": manifest.precision,
        "task": manifest.pipeline.task,
        "target": f"{manifest.target.family}, {manifest.target.threads} threads, opset "
        f"{manifest.target.opset}, onnxruntime ≤ {manifest.target.onnxruntime_max}",
        "placement": _placement(bundle),
        "golden": _golden(manifest.golden),
        "plan": manifest.plan_sha256,
        "made with": ", ".join(f"{k} {v}" for k, v in sorted(manifest.tools.items())),
    }
    for name, value in facts.items():
        _line(console, f"{name:<10} {value}")
    console.print()
    if results is None:
        _line(console, "no measurements in this bundle")
    else:
        console.print(_indented(_results_table(results, results.judge(manifest.contract))))
    console.print()
    console.print(_indented(_members_table(bundle, verbose=verbose)))
    console.print()
    _line(console, f"next: edgekit bundle verify {bundle.path}")


def render_diff(console: Console, changes: BundleDiff, *, same_bytes: bool) -> None:
    """Print what changed between two bundles."""
    if changes.same:
        _line(console, "the same bytes" if same_bytes else "the same but for the signature")
        return
    if changes.fields:
        table = _table("manifest", "old", "new")
        for name, before, after in _gathered(changes.fields):
            table.add_row(Text(name), _json(before), _json(after))
        console.print(_indented(table))
        console.print()
    if changes.members:
        table = _table("member", "old bytes", "new bytes", right=(1, 2))
        golden = [m for m in changes.members if m.path.startswith(_GOLDEN)]
        if golden:
            sizes = [
                _bytes(sum(m.size_bytes for m in side if m)) if any(side) else Text("–")
                for side in ([m.old for m in golden], [m.new for m in golden])
            ]
            table.add_row(Text(f"{_GOLDEN} ({len(golden)} files)"), *sizes)
        for member in changes.members:
            if member not in golden:
                table.add_row(Text(member.path), _size(member.old), _size(member.new))
        console.print(_indented(table))
        console.print()
    if changes.measurements:
        table = _table("measurement", "old", "new", "contract", right=(1, 2))
        for row in changes.measurements:
            outcomes = f"{row.old_outcome or '–'} → {row.new_outcome or '–'}"
            if row.old_outcome == row.new_outcome:
                outcomes = row.new_outcome or "–"
            worse = row.new_outcome in (Outcome.FAIL, Outcome.ABSENT)
            style = "bold red" if worse else ""
            table.add_row(
                Text(row.metric), _value(row.old), _value(row.new), Text(outcomes, style=style)
            )
        console.print(_indented(table))


def _gathered(fields: Sequence[FieldChange]) -> Iterator[tuple[str, object, object]]:
    """Yield changed fields, but one row for an entry that is new or gone as a whole."""
    entries: dict[str, list[FieldChange]] = {}
    for field in fields:
        match = _ENTRY.fullmatch(field.field)
        entries.setdefault(match[1] if match else field.field, []).append(field)
    for name, group in entries.items():
        gone, new = (all(f.new is None for f in group), all(f.old is None for f in group))
        if len(group) > 1 and (gone or new):
            known = set(re.split(r"[\[\] ]", name))
            values = {f.field.removeprefix(name)[1:]: f.old if gone else f.new for f in group}
            text = ", ".join(
                f"{key} {value if isinstance(value, str) else json.dumps(value)}"
                for key, value in values.items()
                if value not in known
            )
            yield name, text if gone else None, text if new else None
        else:
            yield from ((f.field, f.old, f.new) for f in group)


def _results_table(results: Results, verdicts: tuple[Verdict, ...]) -> Table:
    fp32 = {measurement.metric: measurement for measurement in results.fp32}
    shipped = {measurement.metric: measurement for measurement in results.shipped}
    by_metric = {verdict.requirement.metric: verdict for verdict in verdicts}
    same = results.shipped == results.fp32  # fp32 ships: one column says it
    columns = ["metric", "fp32", *([] if same else ["shipped"]), "contract"]
    table = _table(*columns, "", "", right=tuple(range(1, len(columns))))
    for metric in dict.fromkeys((*by_metric, *shipped)):
        verdict = by_metric.get(metric)
        table.add_row(
            Text(metric),
            _value(fp32.get(metric)),
            *([] if same else [_value(shipped.get(metric))]),
            Text(_limit(verdict.requirement) if verdict else "–"),
            _MARKS[verdict.outcome] if verdict else Text(""),
            Text(_provenance(shipped.get(metric))),
        )
    return table


def _members_table(bundle: Bundle, *, verbose: bool) -> Table:
    table = _table("member", "bytes", "sha256", right=(1,))
    members = dict(sorted(bundle.manifest.members.items()))
    golden = [] if verbose else [path for path in members if path.startswith(_GOLDEN)]
    if golden:
        total = sum(members[path].size_bytes for path in golden)
        table.add_row(Text(_GOLDEN), _bytes(total), Text(f"{len(golden)} files; --verbose: each"))
    for path, member in members.items():
        if path not in golden:
            table.add_row(Text(path), _size(member), Text(member.sha256[:16]))
    return table


def _table(*columns: str, right: tuple[int, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        justify = "right" if index in right else "left"
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def _indented(table: Table) -> Padding:
    return Padding(table, (0, 0, 0, 2), expand=False)


def _line(console: Console, left: str, right: str = "") -> None:
    gap = max(3, console.width - len(left) - len(right) - 2)
    console.print(
        Text("  " + left + (" " * gap + right if right else "")), soft_wrap=True, highlight=False
    )


def _placement(bundle: Bundle) -> str:
    rows = bundle.manifest.placement
    return ", ".join(f"{row.count} {row.op} {row.precision}" for row in rows) or "–"


def _golden(golden: Golden) -> str:
    limits = golden.tolerance
    tolerance = (
        "bit for bit"
        if limits.exact
        else f"within {limits.absolute:g}, cosine ≥ {limits.cosine_min:g}, "
        f"agreement ≥ {limits.agreement_min:g}"
    )
    return f"{golden.count} made on {golden.made_on}, {golden.graph_kind}: {tolerance}"


def _limit(requirement: Requirement) -> str:
    parts = []
    for sign, bound in (("≥", requirement.minimum), ("≤", requirement.maximum)):
        if bound is not None and requirement.vs == "fp32":
            parts.append(f"{sign} fp32 {'-' if bound < 0 else '+'} {_number(abs(bound))}")
        elif bound is not None:
            parts.append(f"{sign} {_number(bound)}")
    return ", ".join(parts)


def _value(measurement: Measurement | None) -> Text:
    return Text("–" if measurement is None else _number(measurement.value))


def _provenance(measurement: Measurement | None) -> str:
    if measurement is None:
        return ""
    text = f"{measurement.kind.value} for {measurement.where}"
    if measurement.kind is Kind.MEASURED:
        text = f"{measurement.kind.value} on {measurement.where}"
    if measurement.interval is not None:
        low, high = measurement.interval
        text = f"{_number(low)} to {_number(high)}, {text}"
    return f"n={measurement.n}, {text}" if measurement.n is not None else text


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"  # noqa: PLR2004 - three digits


def _size(member: Member | None) -> Text:
    return Text("–") if member is None else _bytes(member.size_bytes)


def _bytes(count: int) -> Text:
    return Text(f"{count:,}".replace(",", " "))


def _json(value: object) -> Text:
    text = "–" if value is None else value if isinstance(value, str) else json.dumps(value)
    if _DIGEST.fullmatch(text):
        text = f"{text[:12]}…"
    return Text(text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…")
