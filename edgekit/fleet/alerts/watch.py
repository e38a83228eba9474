"""Alerts at work: what the store knows in, decisions by the machine, people told by the sender."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from edgekit.fleet.alerts.channels import Channel
from edgekit.fleet.alerts.machine import Action, Close, Entry, Key, Open, State, Tell, step
from edgekit.fleet.alerts.notice import Notice, texts
from edgekit.fleet.alerts.readings import DeviceFacts, ServerFacts, facts
from edgekit.fleet.alerts.rules import AlertSettings, Rule, Silence, load_alerts
from edgekit.fleet.alerts.send import Outcome
from edgekit.fleet.alerts.sender import Done, Sender
from edgekit.wire.errors import ConfigError

log = logging.getLogger(__name__)

MakeSender = Callable[[Mapping[str, Channel], Done], Sender]


class AlertStore(Protocol):
    """What alerts need of the store."""

    def open_alerts(self) -> Mapping[Key, tuple[str, Entry]]:
        """Return the alerts that are open: their ids and what is remembered of them."""
        ...

    def open(self, notice: Notice, *, silenced: bool) -> str:
        """Keep an alert as open and return its id; the notice's own is empty."""
        ...

    def silence(self, alert_id: str, *, silenced: bool) -> None:
        """Keep whether people are to be told of an open alert."""
        ...

    def close(self, alert_id: str, value: float, why: str, at_s: float) -> None:
        """Keep an alert as closed."""
        ...

    def told(self, alert_id: str, at_s: float) -> None:
        """Keep that people were told; from any thread."""
        ...

    def silences(self) -> Sequence[Silence]:
        """Return what people silenced, beside the settings."""
        ...

    def devices(self, windows_s: Collection[float], now_s: float) -> Sequence[DeviceFacts]:
        """Return what is known of all devices, with windows of these lengths up to now."""
        ...

    def server(self, now_s: float) -> ServerFacts:
        """Return what is known of the server."""
        ...


class Watch:
    """Watches a fleet.

    Args:
        file: ``alerts.toml``; read again whenever it changes.
        fleet: Name of the fleet.
        store: Where things are known and kept.
        make_sender: Makes what sends notices over channels.
    """

    def __init__(self, file: Path, fleet: str, store: AlertStore, make_sender: MakeSender) -> None:
        self._file = file
        self._fleet = fleet
        self._store = store
        self._make_sender = make_sender
        self._seen: object = ()
        self._sender = make_sender({}, self._on_done)
        self._settings = AlertSettings({})
        known = store.open_alerts()
        self._ids = {key: alert_id for key, (alert_id, _) in known.items()}
        self._state: State = {key: entry for key, (_, entry) in known.items()}
        self._silenced: dict[Key, bool] = {}
        # The last settings that could be read say what an alert of a rule that is gone was about.
        self._rules: dict[str, Rule] = {}
        # The alert that was closed last: what is told of its end comes next.
        self._closed = ""

    @property
    def settings(self) -> AlertSettings:
        """The settings that count now."""
        return self._settings

    def tick(self, now_s: float) -> tuple[Action, ...]:
        """Look once, and do what is to be done.

        Args:
            now_s: Unix time in seconds.

        Returns:
            What was done.
        """
        self._reload()
        rules = self._settings.rules
        windows_s = {rule.window_s for rule in rules.values() if rule.window_s}
        known = facts(
            rules,
            [*self._settings.silences, *self._store.silences()],
            self._store.devices(windows_s, now_s),
            self._store.server(now_s),
            now_s,
        )
        before = self._state
        self._state, actions = step(before, known, now_s)
        for place, action in enumerate(actions):
            try:
                self._do(action, now_s)
            except Exception:
                self._undo(before, actions[place:])
                raise
        for key, alert_id in self._ids.items():
            reading = known.readings.get(key)
            silenced = reading is not None and reading.silenced
            if self._silenced.get(key) != silenced:
                self._store.silence(alert_id, silenced=silenced)
                self._silenced[key] = silenced
        return actions

    def stop(self) -> None:
        """End the threads that send."""
        self._sender.stop()

    def _reload(self) -> None:
        seen = _signature(self._file)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            settings = load_alerts(self._file)
        except ConfigError as error:
            log.error("%s; the rules before it go on. %s", error, error.hint or "")  # noqa: TRY400 - it says all
            if self._settings.rules:
                return
            # At the first start there are none before it: watch by the defaults, tell nobody.
            settings = load_alerts(self._file.with_name("alerts.toml.absent"))
        is_new = settings.channels != self._settings.channels
        if is_new:
            self._sender.stop()
            self._sender = self._make_sender(settings.channels, self._on_done)
        self._settings = settings
        self._rules |= settings.rules
        if is_new:
            self._forget_untold()

    def _forget_untold(self) -> None:
        """Have told again what the channels before have not sent."""
        untold = {
            key for key, (_, entry) in self._store.open_alerts().items() if entry.told_s is None
        }
        self._state = {
            key: replace(entry, told_s=None) if key in untold else entry
            for key, entry in self._state.items()
        }

    def _undo(self, before: State, left: Sequence[Action]) -> None:
        """Forget what is decided and not done, so that the next look decides it again."""
        state = dict(self._state)
        for action in left:
            entry = before.get(action.key)
            if isinstance(action, Tell):
                if action.event != "closed" and action.key in self._ids:
                    told_s = entry.told_s if entry else None
                    state[action.key] = replace(self._state[action.key], told_s=told_s)
            elif entry is None:
                state.pop(action.key, None)
            else:
                state[action.key] = entry
        self._state = state

    def _do(self, action: Action, now_s: float) -> None:
        rule = self._rules.get(action.key.rule)
        match action:
            case Open(key, value, reading):
                if rule is not None:
                    tell = Tell(key, "open", value, now_s, reading)
                    notice = self._notice("", rule, tell, now_s)
                    self._ids[key] = self._store.open(notice, silenced=reading.silenced)
                    self._silenced[key] = reading.silenced
            case Close(key, value, why):
                if key in self._ids:
                    self._store.close(self._ids[key], value, why, now_s)
                self._silenced.pop(key, None)
            case Tell():
                self._tell(action, rule, now_s)
        if isinstance(action, Close) and self._state.get(action.key) is None:
            self._closed = self._ids.pop(action.key, "")

    def _tell(self, tell: Tell, rule: Rule | None, now_s: float) -> None:
        alert_id = self._closed if tell.event == "closed" else self._ids.get(tell.key, "")
        if rule is None:
            return  # closed after its rule went while nothing ran: the store says why
        notice = self._notice(alert_id, rule, tell, now_s)
        taken = self._sender.put(notice, rule.channels)
        log.info("%s", notice.title)
        if tell.event == "open" and not taken:
            self._store.told(alert_id, now_s)

    def _notice(self, alert_id: str, rule: Rule, tell: Tell, now_s: float) -> Notice:
        text, todo = texts(rule, tell.key, tell.value, tell.reading)
        return Notice(
            alert_id=alert_id,
            event=tell.event,
            fleet=self._fleet,
            rule=rule.name,
            kind=rule.kind.name,
            severity=rule.severity,
            device=tell.key.device,
            model=tell.key.model,
            value=tell.value,
            unit=rule.kind.unit,
            text=text,
            todo=todo,
            opened_s=tell.opened_s,
            at_s=now_s,
        )

    def _on_done(self, _channel: Channel, notice: Notice, _outcome: Outcome) -> None:
        # Sent, or given up: an opening that neither happened to is sent again after a restart.
        if notice.event == "open":
            self._store.told(notice.alert_id, notice.at_s)


def _signature(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
