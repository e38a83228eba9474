"""How a deployment to a fleet looks in a terminal: live while it runs, then what it came to."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgekit.cli.fleet_view import age, show, table
from edgekit.cli.output import Output

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from edgekit.fleet.orders import DeviceOrder, Rollout

MAX_LIVE_ROWS = 20
_MIB = 1 << 20
# Where a device is on its way, as a line of marks.
_STEPS = ("planned", "waiting", "fetching", "self-test", "trial", "confirmed")
_DIGITS = 12


class DeployView:
    """Draws an order while it is followed: a table on a terminal, a line a change elsewhere."""

    def __init__(self, out: Output, live: Live | None) -> None:
        self._out = out
        self._live = live
        self._before: dict[str, str] = {}

    @classmethod
    @contextmanager
    def open(cls, out: Output) -> Iterator[DeployView]:
        """Draw while the body runs."""
        silent = out.quiet or out.json
        with contextlib.ExitStack() as stack:
            live = None
            if not silent and sys.stderr.isatty():
                from rich.live import Live

                live = stack.enter_context(Live(console=out.stderr, transient=True))
            yield cls(out, live)

    def draw(self, rollout: Rollout, online: dict[str, bool | None], now_s: float) -> None:
        """Draw an order as it stands now.

        Args:
            rollout: The order.
            online: By device, whether it is connected.
            now_s: Unix time in seconds.
        """
        if self._live is not None:
            self._live.update(_table(rollout, online, now_s))
            return
        for order in rollout.devices:
            if self._before.get(order.device) != order.phase.value:
                self._before[order.device] = order.phase.value
                why = _why(order, online.get(order.device))
                self._out.note(f"  {order.device:<24} {order.phase.value}   {why}".rstrip())

    def problem(self, text: str) -> None:
        """Say what is in the way now; once for each."""
        if self._before.get("") != text:
            self._before[""] = text
            self._out.note(f"  ! {text}")


def head(rollout: Rollout, where: str) -> tuple[str, str]:
    """Return the lines that say what is ordered."""
    count = len(rollout.devices)
    devices = rollout.devices[0].device if count == 1 else f"{count} devices"
    size = f"{rollout.size_bytes / _MIB:.3g} MiB, {rollout.sha256[:_DIGITS]}"
    what = f"{rollout.model} serial {rollout.serial} → {devices} ({where})"
    return f"  {what}", f"  {size}   order {rollout.order_id}"


def _table(rollout: Rollout, online: dict[str, bool | None], now_s: float) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    rows = sorted(rollout.devices, key=lambda order: (order.is_over, order.device))
    made = table(("device", "", "phase", "since", "why"), right=("since",))
    for order in rows[:MAX_LIVE_ROWS]:
        why = _why(order, online.get(order.device))
        since = age(now_s - order.since_s)
        made.add_row(
            *map(Text, (f"  {order.device}", _marks(order), order.phase.value, since, why))
        )
    parts: list[RenderableType] = [made]
    if len(rows) > MAX_LIVE_ROWS:
        parts.append(Text(f"  and {len(rows) - MAX_LIVE_ROWS} more"))
    parts.append(Text(f"\n  {counts_line(rollout)}"))
    return Group(*parts)


def _why(order: DeviceOrder, is_online: bool | None) -> str:
    """Say why a device stands where it does: what it said, or what it waits for."""
    from edgekit.runtime.trial_rules import DEFAULT_RULES as RULES

    if order.detail:
        return order.detail
    if order.phase.value == "waiting" and is_online is False:
        return "it is offline"
    if order.phase.value == "trial":
        stands = f"{RULES.duration_s / 60:g} min and {RULES.min_requests} requests"
        return f"serves for {stands}, unless set otherwise"
    return ""


def _marks(order: DeviceOrder) -> str:
    phase = order.phase.value
    if phase in _STEPS:
        reached = _STEPS.index(phase)
        return "━" * reached + "╸" + "─" * (len(_STEPS) - 1 - reached)
    return "✗".ljust(len(_STEPS))


def counts_line(rollout: Rollout) -> str:
    """Return the devices by phase: ``3 confirmed, 1 reverted of 5``."""
    counts = ", ".join(f"{count} {phase}" for phase, count in rollout.counts.items())
    return f"{counts} of {len(rollout.devices)}"


def render(console: Console, rollout: Rollout) -> None:
    """Print what an order came to."""
    from rich.text import Text

    show(console, f"  {counts_line(rollout)}")
    bad = [order for order in rollout.devices if order.phase.value != "confirmed"]
    if bad:
        made = table(("device", "phase", "why"))
        for order in bad:
            made.add_row(*map(Text, (f"  {order.device}", order.phase.value, order.detail or "–")))
        show(console, "", made)
    if not rollout.is_over:
        step = f"edgekit fleet deploy --follow {rollout.order_id}"
    elif bad:
        step = f"edgekit fleet show {bad[0].device}"
    else:
        step = f"edgekit fleet show {rollout.devices[0].device}"
    show(console, f"\n  next: {step}")


def render_list(console: Console, rollouts: list[Rollout], now_s: float) -> None:
    """Print orders, the newest first."""
    from rich.text import Text

    if not rollouts:
        show(console, "  no orders yet   next: edgekit fleet deploy BUNDLE --to k=v")
        return
    made = table(("order", "model", "serial", "age", "devices"), right=("serial", "age"))
    for rollout in rollouts:
        cells = (
            f"  {rollout.order_id}",
            rollout.model,
            str(rollout.serial),
            age(now_s - rollout.created_s),
            counts_line(rollout),
        )
        made.add_row(*map(Text, cells))
    show(console, made)


def to_json(rollout: Rollout) -> dict[str, Any]:
    """Return the JSON form of an order."""
    return {
        "order_id": rollout.order_id,
        "bundle_sha256": rollout.sha256,
        "model": rollout.model,
        "serial": rollout.serial,
        "url": rollout.url,
        "created_s": rollout.created_s,
        "expires_s": rollout.expires_s,
        "cancelled": rollout.cancelled,
        "over": rollout.is_over,
        "counts": rollout.counts,
        "devices": [
            {
                "device": order.device,
                "phase": order.phase.value,
                "since_s": order.since_s,
                "detail": order.detail,
                "before": order.before,
                "wave": order.wave,
            }
            for order in rollout.devices
        ],
    }
