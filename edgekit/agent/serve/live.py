"""What the live page shows."""

from __future__ import annotations

import json
from typing import Any

from edgekit.agent.engine import Engine
from edgekit.agent.stats import Stats

# More is no page for people; the prediction is left out then.
MAX_SHOWN_CHARS = 64 << 10


def live_document(engine: Engine, healthy: bool) -> dict[str, Any]:
    """Return health, counts, latencies and the last answer of every model.

    Args:
        engine: What is served.
        healthy: Whether the agent as a whole is well.
    """
    return {
        "schema": "edgekit.live/1",
        "healthy": healthy,
        "models": [_model(engine, name) for name in engine.names()],
    }


def picture_kind(sample: bytes) -> bytes:
    """Return the media type of a picture that the page shows."""
    return b"image/jpeg" if sample.startswith(b"\xff\xd8\xff") else b"image/png"


def _model(engine: Engine, name: str) -> dict[str, Any]:
    info, stats, last = engine.info(name), engine.stats(name), engine.last(name)
    document: dict[str, Any] = {
        "name": name,
        "title": info.title,
        "version": info.version,
        "task": info.task,
        "served": stats.served,
        "failed": stats.failed,
        "refused": stats.refused,
        "rejected": stats.rejected,
        "dropped": stats.dropped,
        "queued": stats.queued,
        "running": stats.running,
        "p50_ms": _bound_ms(stats, 0.5),
        "p95_ms": _bound_ms(stats, 0.95),
        "last": None,
    }
    if last is not None:
        document["last"] = {
            "prediction": _shown(last.prediction),
            "latency_ms": round(last.latency_s * 1000, 3),
            "age_s": round(max(0.0, engine.clock() - last.at), 1),
            "picture": last.sample is not None,
        }
    return document


def _bound_ms(stats: Stats, share: float) -> float | None:
    bound = stats.quantile_s(share)
    return None if bound is None or bound == float("inf") else bound * 1000


def _shown(prediction: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return (
            prediction if len(json.dumps(prediction, allow_nan=False)) < MAX_SHOWN_CHARS else None
        )
    except ValueError:
        return None
