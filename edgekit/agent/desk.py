"""The agent's desk: orders and commands come in, reports go out."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.agent.config import Config
from edgekit.agent.outbox import Outbox
from edgekit.agent.serving import Models, Serving
from edgekit.agent.slots import Slots
from edgekit.runtime import trial_events as on
from edgekit.runtime.trial_events import CLOCK_SET_S, Event
from edgekit.runtime.trial_state import Order
from edgekit.wire.bundle import open_bundle
from edgekit.wire.canonical import Json
from edgekit.wire.desired import open_desired
from edgekit.wire.errors import EdgekitError, UsageError
from edgekit.wire.messages import Reported

if TYPE_CHECKING:
    from edgekit.agent.commands import Handler
    from edgekit.agent.hands import AgentHands

log = logging.getLogger(__name__)

# A bundle that lies on the device is ordered for this long from its file's time on: the same file
# is the same order at every start, so one that was reverted is not tried again. Files of an image
# may be dated 1970.
_LOCAL_S = 20 * 365 * 86_400
# Whoever may publish at the broker may send false orders, as fast as he likes: so many are told of
# at once, and one more after each of these times.
_TELLINGS, _TELLING_S = 10, 60.0
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

OnOrder = Callable[[str, Event], None]


class Desk:
    """Takes orders and commands, and tells the fleet what became of them.

    Args:
        config: The settings.
        boot_id: Of this process.
        outbox: Gets events.
        unix_s: Unix time in seconds.
        on_order: Gets a model and the event of an order for it, from any thread.
        vitals: How the board is now; a benchmark tells it beside its times.
        monotonic_s: A clock in seconds that never jumps.
    """

    def __init__(
        self,
        config: Config,
        boot_id: str,
        outbox: Outbox,
        unix_s: Callable[[], float],
        on_order: OnOrder,
        vitals: Callable[[], Mapping[str, Json]] = dict,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._boot_id = boot_id
        self._outbox = outbox
        self._unix_s = unix_s
        self._on_order = on_order
        self._vitals = vitals
        self._report: Callable[[Reported], None] = lambda _reported: None
        self._lock = threading.Lock()
        self._running: dict[str, Serving] = {}
        self._last: tuple[str, str, str | None] = ("idle", "", None)
        self._orders: dict[str, str] = {}
        self._monotonic_s = monotonic_s
        self._tellings, self._told_s = float(_TELLINGS), monotonic_s()
        self._more_refused = 0

    def reports_to(self, report: Callable[[Reported], None]) -> None:
        """Send reports there."""
        self._report = report

    def desired(self, payload: bytes) -> None:
        """Take an order that came over the network; what is not one is counted and left."""
        device = f"{self._config.fleet}/{self._config.device}"
        try:
            desired = open_desired(
                payload, self._config.trusted_keys, now_s=self._unix_s(), device=device
            )
        except EdgekitError as error:
            self._refused(error)
            return
        self._orders[desired.bundle_sha256] = desired.order_id
        self._on_order(desired.model, on.OrderReceived(Order.of(desired)))

    def _refused(self, error: EdgekitError) -> None:
        """Tell of a refused order, of very many only now and then: each event costs a sync."""
        now_s = self._monotonic_s()
        gained = (now_s - self._told_s) / _TELLING_S
        self._tellings, self._told_s = min(_TELLINGS, self._tellings + gained), now_s
        if self._tellings < 1:
            self._more_refused += 1
            return
        self._tellings -= 1
        log.warning("an order was refused: %s", error)
        event: dict[str, Json] = {"what": "order-refused", "why": error.message}
        if self._more_refused:
            event["more"] = self._more_refused
        self._more_refused = 0
        self._outbox.put("event", event)

    def order_local(self, hands: AgentHands) -> None:
        """Order the bundles that the settings name."""
        for path in self._config.bundles:
            try:
                self._order_file(path, hands)
            except (EdgekitError, OSError) as error:
                log.error("%s cannot be served: %s", path, error)  # noqa: TRY400 - it says all
                self._outbox.put("event", {"what": "order-refused", "why": str(error)})

    def _order_file(self, path: Path, hands: AgentHands) -> None:
        with open_bundle(path, self._config.trusted_keys) as bundle:
            sha256, manifest = bundle.sha256(), bundle.manifest
            order = Order(
                order_id=f"local-{sha256[:12]}",
                sha256=sha256,
                serial=manifest.serial,
                size_bytes=bundle.size_bytes,
                expires_s=max(float(int(path.stat().st_mtime)), CLOCK_SET_S) + _LOCAL_S,
            )
        hands.offer(sha256, path)
        self._orders[sha256] = order.order_id
        self._on_order(manifest.model, on.OrderReceived(order))

    def tell(self, model: str, report: on.Report) -> None:
        """Tell the fleet what became of a bundle."""
        log.info("%s: %s %s %s", model, report.what, report.sha256[:12], report.reason)
        event = {"what": report.what, "model": model, "bundle_sha256": report.sha256}
        if report.reason:
            event["why"] = report.reason
        self._outbox.put("event", event)
        self._last = (report.what, report.reason, self._orders.get(report.sha256))
        self._send()

    def serves(self, running: Mapping[str, Serving]) -> None:
        """Note what serves now; a change is reported."""
        if {k: v.sha256 for k, v in running.items()} != {
            k: v.sha256 for k, v in self._running.items()
        }:
            self._running = dict(running)
            self._send()

    def _send(self) -> None:
        phase, detail, order_id = self._last
        with self._lock:
            running = dict(self._running)
        self._report(
            Reported(
                boot_id=self._boot_id,
                time_s=self._unix_s(),
                running={name: s.sha256 for name, s in running.items()},
                serials={name: s.serial for name, s in running.items()},
                phase=phase,
                order_id=order_id,
                detail=detail,
            )
        )

    def commands(
        self,
        models: Models,
        slots: Slots,
        status: Callable[[], dict[str, Json]],
        capture: Handler,
        logs: Handler,
    ) -> dict[str, Handler]:
        """Return what the fleet may ask for, by name."""
        return {
            "status": lambda _args: status(),
            "log-level": _set_level,
            "capture": capture,
            "logs": logs,
            "benchmark": lambda args: self._benchmark(models, slots, args),
            "models": lambda _args: {
                name: {"bundle_sha256": s.sha256, "serial": s.serial}
                for name, s in models.served.items()
            },
        }

    def _benchmark(self, models: Models, slots: Slots, args: Mapping[str, Json]) -> Json:
        """Measure a served model here, while it goes on serving."""
        from edgekit.runtime.bench import Ask, Hooks, Machine, board_name, run

        left = dict(args)
        model = str(left.pop("model", ""))
        served = models.served
        if model not in served:
            names = ", ".join(sorted(served)) or "none"
            raise UsageError(f"no model {model[:80]!r} is served", hint=f"models: {names}")
        machine = Machine(
            board=board_name(Path("/")), device=self._config.device, target=self._config.target
        )
        date = time.strftime("%Y-%m-%d", time.gmtime(self._unix_s()))
        sha256 = served[model].sha256
        with (
            slots.open(model, sha256) as bundle,
            tempfile.TemporaryDirectory(prefix="edgekit-bench-") as folder,
        ):
            return run(
                bundle.manifest,
                bundle.read,
                sha256=sha256,
                ask=Ask.from_args(left),
                machine=machine,
                hooks=Hooks(Path(folder), date, self._vitals),
            )


def _set_level(args: Mapping[str, Json]) -> Json:
    level = args.get("level")
    if level not in _LEVELS:
        raise UsageError(f"no log level {str(level)[:20]!r}", hint=f"one of {', '.join(_LEVELS)}")
    logging.getLogger().setLevel(str(level))
    return {"level": str(level)}
