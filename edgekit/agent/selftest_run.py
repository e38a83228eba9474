"""The self-test itself, in the process that it may take down with it.

Golden samples first: a bundle that answers wrongly is not worth timing. Then the time of each call
of the model, over the bundle's own samples, after one round that warms the caches. Then what the
runtime says of where the nodes run. Only what was measured here is in the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.agent.placement import Found, compare_placement, profile_placement
from edgekit.runtime.golden import OutputMatch, from_members
from edgekit.runtime.host import host_kind
from edgekit.runtime.pipeline import Pipeline, load_pipeline, replay
from edgekit.runtime.session import Run, import_onnxruntime
from edgekit.wire.bundle import Bundle
from edgekit.wire.manifest import Manifest
from edgekit.wire.measurement import Kind, Measurement, Outcome, judge
from edgekit.wire.selftest import GoldenCheck, Judged, SelfTestResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

QUANTILES = {"latency_p50_ms": 0.5, "latency_p95_ms": 0.95, "latency_p99_ms": 0.99}


@dataclass(frozen=True)
class Timing:
    """How long to measure.

    Attributes:
        rounds: Rounds over all golden samples.
        most_s: No further round begins after this time, seconds.
    """

    rounds: int = 5
    most_s: float = 20.0


def run_here(
    bundle: Bundle,
    sha256: str,
    *,
    where: str,
    timing: Timing,
    folder: Path,
    clock_ns: Callable[[], int],
) -> SelfTestResult:
    """Run a bundle's self-test in this process.

    Args:
        bundle: Verified and open.
        sha256: Its digest.
        where: Name of this device in the measurements.
        timing: How long to measure.
        folder: Empty; for the runtime's profile.
        clock_ns: Monotonic clock in nanoseconds.

    Returns:
        The result; ``duration_s`` is the caller's to fill in.

    Raises:
        EdgekitError: The bundle's pipeline cannot be loaded or run here.
    """
    manifest = bundle.manifest
    result = SelfTestResult(
        sha256=sha256,
        passed=False,
        reason="",
        duration_s=0.0,
        host=host_kind(),
        onnxruntime=str(import_onnxruntime().__version__),
    )
    if manifest.golden.count == 0:
        return replace(result, reason="the bundle has no golden samples")
    matches = replay(manifest, bundle.read, manifest.members)
    result = replace(result, golden=_golden(matches, manifest.golden.count))
    off = next((match for match in matches if not match.within), None)
    if off is not None:
        return replace(result, reason=_how_far_off(off, matches))
    samples = _samples(bundle)
    measurements = _time(bundle, samples, where, timing, clock_ns)
    judged = _judge(manifest, measurements)
    result = replace(result, measurements=measurements, judged=judged)
    late = next((row for row in judged if row.outcome != Outcome.PASS), None)
    if late is not None:
        return replace(result, reason=_how_late(late, measurements))
    return _placed(result, manifest, profile_placement(bundle, samples[0], folder))


def _placed(result: SelfTestResult, manifest: Manifest, found: Found | None) -> SelfTestResult:
    """Judge the last part: what should run on an accelerator runs there, as far as is known."""
    if found is None:
        return replace(result, passed=True)
    rows = compare_placement(manifest.placement, found)
    result = replace(result, placement=rows, providers=found.nodes)
    idle = next((row for row in rows if not found.nodes.get(row.provider)), None)
    if idle is not None:
        return replace(result, reason=f"nothing runs on {idle.provider}, where {idle.op} should")
    return replace(result, passed=True)


def _golden(matches: Sequence[OutputMatch], count: int) -> GoldenCheck:
    return GoldenCheck(
        samples=count,
        outputs=len(matches),
        within=sum(match.within for match in matches),
        exact=sum(match.exact for match in matches),
        # NaN compares with nothing, and JSON has none: the farthest off that there is.
        max_abs=max((_finite(m.max_abs, 1e300) for m in matches), default=0.0),
        cosine_min=min((_finite(m.cosine, -1.0) for m in matches), default=1.0),
    )


def _finite(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def _how_far_off(off: OutputMatch, matches: Sequence[OutputMatch]) -> str:
    bad = sum(not match.within for match in matches)
    return (
        f'golden sample {off.sample}, output "{off.output}": off by {off.max_abs:.3g}, '
        f"cosine {off.cosine:.4f}; {bad} of {len(matches)} outputs are not within the tolerance"
    )


def _samples(bundle: Bundle) -> list[bytes]:
    names = list(bundle.manifest.members)
    count = bundle.manifest.golden.count
    return [from_members(index, names, bundle.read)[0] for index in range(count)]


def _time(
    bundle: Bundle,
    samples: Sequence[bytes],
    where: str,
    timing: Timing,
    clock_ns: Callable[[], int],
) -> tuple[Measurement, ...]:
    """Time each call of the model over a few rounds of the samples."""
    loaded = load_pipeline(bundle.manifest, bundle.read)
    spans_ns: list[int] = []
    pipeline = Pipeline(loaded.task, _timed(loaded.run, spans_ns, clock_ns))
    began = clock_ns()
    for number in range(1 + timing.rounds):
        if number == 1:
            spans_ns.clear()  # the first round has warmed the caches
        elif number > 1 and clock_ns() - began > timing.most_s * 1e9:
            break
        for sample in samples:
            pipeline.predict(sample)
    spans_ns.sort()
    if not spans_ns:
        return ()
    return tuple(
        Measurement(
            metric, spans_ns[_rank(share, len(spans_ns))] / 1e6, Kind.MEASURED, where, len(spans_ns)
        )
        for metric, share in QUANTILES.items()
    )


def _timed(run: Run, spans_ns: list[int], clock_ns: Callable[[], int]) -> Run:
    def timed(feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        began = clock_ns()
        outputs = run(feeds)
        spans_ns.append(clock_ns() - began)
        return outputs

    return timed


def _rank(share: float, n: int) -> int:
    """Return the index of a quantile by the nearest rank: a trial counts by the same rule."""
    return max(0, math.ceil(share * n - 1e-9) - 1)


def _judge(manifest: Manifest, measurements: Sequence[Measurement]) -> tuple[Judged, ...]:
    """Judge what the device alone can know; the rest was judged where the bundle was built."""
    contract = [r for r in manifest.contract if r.metric in QUANTILES and r.vs == "absolute"]
    return tuple(
        Judged(
            verdict.requirement.metric,
            verdict.requirement.minimum,
            verdict.requirement.maximum,
            verdict.outcome.value,
        )
        for verdict in judge(contract, measurements, ())
    )


def _how_late(row: Judged, measurements: Sequence[Measurement]) -> str:
    found = next((m for m in measurements if m.metric == row.metric), None)
    if found is None:
        return f"{row.metric} stands in the contract and could not be measured"
    limit = f"≤ {row.maximum:g}" if row.maximum is not None else f"≥ {row.minimum:g}"
    return f"{row.metric} is {found.value:.3g} here, the contract says {limit}"
