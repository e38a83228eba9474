"""The answer that the overview begins with: is the fleet well, and what is to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgekit.fleet.store.rows import IngestRow, Summary
from edgekit.fleet.web.words import count, duration

if TYPE_CHECKING:
    from edgekit.fleet.alerts.rows import AlertRow

Level = Literal["good", "look", "act", "empty"]
# Ingest says every few seconds that it lives.
INGEST_SILENT_S = 30.0


@dataclass(frozen=True)
class Reason:
    """Why the fleet is not well, or what is to be known; ``link`` shows more of it."""

    text: str
    link: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether the fleet is well.

    Attributes:
        level: ``good``, ``look`` (something is off), ``act`` (something is wrong) or ``empty``.
        title: In a few words.
        reasons: The most urgent first.
    """

    level: Level
    title: str
    reasons: Sequence[Reason]


def ingest_trouble(ingest: IngestRow | None, now_s: float) -> str:
    """Return why what is shown may be old; empty where it is not."""
    if ingest is None:
        return "ingest has never run here: nothing that devices say is stored"
    silent_s = now_s - ingest.alive_s
    if ingest.status == "stopped":
        return f"ingest was stopped {duration(silent_s)} ago: what you see is from then"
    if silent_s > INGEST_SILENT_S:
        return f"ingest has been silent for {duration(silent_s)}: what you see is from then"
    if ingest.status == "waiting":
        return f"ingest waits: {ingest.detail}; devices keep what they have"
    return ""


def verdict(
    summary: Summary, open_alerts: Sequence[AlertRow], ingest: IngestRow | None, now_s: float
) -> Verdict:
    """Say whether the fleet is well.

    Args:
        summary: The fleet in numbers.
        open_alerts: Those that are open; silenced ones are known already.
        ingest: How ingest is.
        now_s: Unix time.
    """
    trouble = ingest_trouble(ingest, now_s)
    if not summary.total:
        reasons = [Reason(trouble)] if trouble and ingest is not None else []
        return Verdict("empty", "No devices yet", reasons)
    loud = [alert for alert in open_alerts if not alert.silenced]
    critical = [alert for alert in loud if alert.severity == "critical"]
    reasons = [Reason(trouble)] if trouble else []
    if critical:
        reasons.append(Reason(count(len(critical), "critical alert"), "/alerts"))
    if summary.offline:
        reasons.append(Reason(f"{count(summary.offline, 'device')} offline", "/?state=offline"))
    if len(loud) > len(critical):
        reasons.append(Reason(count(len(loud) - len(critical), "warning"), "/alerts"))
    if summary.never_seen:
        never = f"{count(summary.never_seen, 'device')} never seen"
        reasons.append(Reason(never, "/?state=never"))
    if trouble or critical:
        title = "The fleet needs you" if not trouble else "The fleet is not heard"
        return Verdict("act", title, reasons)
    if summary.offline or loud:
        return Verdict("look", "Most of the fleet is well", reasons)
    return Verdict("good", "The fleet is well", reasons)
