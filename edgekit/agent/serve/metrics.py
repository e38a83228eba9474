"""The agent's figures in the Prometheus text format, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgekit.agent.engine import Engine
from edgekit.agent.stats import LATENCY_BOUNDS_S, Stats

Label = tuple[str, str]
_OUTCOMES = ("served", "failed", "refused", "rejected", "dropped", "expired", "cancelled")


def render(engine: Engine, rss_bytes: int | None) -> str:
    """Return the figures of all models.

    Args:
        engine: What is served.
        rss_bytes: Memory of this process; None where the system does not say.
    """
    rows = [(engine.info(name), engine.stats(name)) for name in engine.names()]
    lines = _family("edgekit_model_info", "gauge", "Models that are served.")
    for info, _ in rows:
        labels = [("model", info.name), ("version", info.version), ("task", info.task)]
        lines.append(_line("edgekit_model_info", labels, 1))
    lines += _family("edgekit_requests_total", "counter", "Requests by how they ended.")
    for info, stats in rows:
        for outcome in _OUTCOMES:
            labels = [("model", info.name), ("outcome", outcome)]
            lines.append(_line("edgekit_requests_total", labels, getattr(stats, outcome)))
    for name, attribute, text in (
        ("edgekit_queue_requests", "queued", "Requests that wait."),
        ("edgekit_running_requests", "running", "Requests that are worked on."),
    ):
        lines += _family(name, "gauge", text)
        lines += [_line(name, [("model", i.name)], getattr(s, attribute)) for i, s in rows]
    lines += _family("edgekit_latency_seconds", "histogram", "From acceptance to answer.")
    for info, stats in rows:
        lines += _histogram("edgekit_latency_seconds", info.name, stats)
    if rss_bytes is not None:
        lines += _family("process_resident_memory_bytes", "gauge", "Memory of the agent.")
        lines.append(_line("process_resident_memory_bytes", [], rss_bytes))
    return "\n".join([*lines, ""])


def _family(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _histogram(name: str, model: str, stats: Stats) -> Iterable[str]:
    total = 0
    bounds = [*(f"{bound:g}" for bound in LATENCY_BOUNDS_S), "+Inf"]
    for bound, count in zip(bounds, stats.latency_counts, strict=True):
        total += count
        yield _line(f"{name}_bucket", [("model", model), ("le", bound)], total)
    yield _line(f"{name}_sum", [("model", model)], round(stats.latency_sum_s, 9))
    yield _line(f"{name}_count", [("model", model)], total)


def _line(name: str, labels: Sequence[Label], value: float) -> str:
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"{name}{{{shown}}} {value}" if shown else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
