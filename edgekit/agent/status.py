"""What the agent says of itself, in a file beside its state: read by `edgekit agent status`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import __version__
from edgekit.wire.canonical import Json

if TYPE_CHECKING:
    from edgekit.agent.config import Config
    from edgekit.agent.link import LinkStatus
    from edgekit.agent.outbox import OutboxStats
    from edgekit.runtime.trial_state import State
    from edgekit.wire.selftest import SelfTestResult

SCHEMA = "edgekit.agent-status/1"
FILE = "status.json"


def status_document(
    *,
    config: Config,
    boot_id: str,
    uptime_s: float,
    http: str,
    states: Mapping[str, State],
    served: Mapping[str, str],
    link: LinkStatus | None,
    outbox: OutboxStats,
    self_tests: Mapping[str, SelfTestResult],
) -> dict[str, Json]:
    """Return the document.

    Args:
        config: The settings; no secret of theirs is shown.
        boot_id: Of this process.
        uptime_s: Of this process.
        http: Address of the page.
        states: The slots by the model's name.
        served: Model to the digest of what serves.
        link: To the broker; None where there is none in the settings.
        outbox: What waits there.
        self_tests: The last of each model.
    """
    return {
        "schema": SCHEMA,
        "running": True,
        "pid": os.getpid(),
        "version": __version__,
        "fleet": config.fleet,
        "device": config.device,
        "target": config.target,
        "boot_id": boot_id,
        "uptime_s": round(uptime_s, 1),
        "http": http,
        "models": {
            name: {
                "phase": state.phase.value,
                "serves_sha256": served.get(name),
                "confirmed_sha256": state.current,
                "next_sha256": state.next,
                "reason": state.reason,
                "elapsed_s": round(state.elapsed_s, 1),
                "self_test": _self_test(self_tests.get(name)),
            }
            for name, state in states.items()
        },
        "broker": None
        if link is None
        else {
            "connected": link.connected,
            "protocol": link.protocol,
            "problem": link.problem,
            "attempts": link.attempts,
        },
        "outbox": {name: value for name, value in vars(outbox).items() if _is_plain(value)},
    }


def _self_test(result: SelfTestResult | None) -> Json:
    if result is None:
        return None
    return {"passed": result.passed, "reason": result.reason, "duration_s": result.duration_s}


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | str | bool)


def write_status(folder: Path, document: Mapping[str, Json]) -> None:
    """Write the status so that a reader sees the old one or the new one; a full disk is no error.

    It is not synced: after a crash of the machine it would be stale anyway.
    """
    partial = folder / f".{FILE}.part"
    try:
        partial.write_text(json.dumps(document) + "\n", encoding="utf-8")
        partial.replace(folder / FILE)
    except OSError:
        return
