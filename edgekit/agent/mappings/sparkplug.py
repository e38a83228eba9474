"""Sparkplug B: the device as an edge node, by the Sparkplug 3.0.0 specification.

A node's death is the will of its connection, and a connection has one will: the node has a
connection of its own beside the agent's, and keeps it up while the agent's is.

:class:`Node` decides what is said and holds the counters; :class:`NodeLink` says it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from edgekit.agent.config import SparkplugSettings
from edgekit.agent.mappings.readings import Readings, Scalar
from edgekit.agent.mappings.sparkplug_payload import (
    BOOLEAN,
    DOUBLE,
    INT64,
    STRING,
    Metric,
    Value,
    decode,
    encode,
    type_of,
)
from edgekit.agent.session import Address, Protocol, Session
from edgekit.wire.errors import TrustError

NAMESPACE = "spBv1.0"
REBIRTH = "Node Control/Rebirth"
BDSEQ = "bdSeq"
BDSEQ_FILE = "sparkplug-bdseq"
MAX_COMMAND_BYTES = 64 << 10
_WRAP = 256
_STEP_S = 0.2
_RETRY_S = 5.0
_READY_WITHIN_S = 10.0
# Somebody who asks for a birth again and again gets one at most this often.
_REBIRTH_S = 1.0
# What a model has from its first request on: null until then, so that a birth has all metrics.
_LATER = {"p95_ms": DOUBLE, "last_class": STRING}

log = logging.getLogger(__name__)


class Node:
    """What an edge node says, and in which order. It does no I/O.

    Args:
        bdseq: Number of the connection that is to be made: the last one's and one.
    """

    def __init__(self, bdseq: int) -> None:
        self.bdseq = bdseq % _WRAP
        self.rebirth_asked = False
        self._seq = 0
        self._types: dict[str, int] = {}
        self._said: dict[str, Value] = {}

    def death(self, time_ms: int) -> bytes:
        """Return the NDEATH of this connection: its number, and no sequence number."""
        return encode([Metric(BDSEQ, self.bdseq, INT64)], time_ms, None)

    def birth(self, values: Mapping[str, Value], time_ms: int) -> bytes:
        """Return an NBIRTH: all metrics, and the sequence begins anew.

        Args:
            values: Metrics by name; None for one of :data:`_LATER` that is not known yet.
            time_ms: Unix time in milliseconds.
        """
        self._seq = 0
        self.rebirth_asked = False
        self._said = dict(values)
        self._types = {name: _type_of(name, value) for name, value in values.items()}
        head = [Metric(BDSEQ, self.bdseq, INT64), Metric(REBIRTH, False, BOOLEAN)]
        return encode([*head, *self._metrics(values)], time_ms, 0)

    def data(self, values: Mapping[str, Value], time_ms: int) -> bytes | None:
        """Return an NDATA with what has changed; None where nothing has.

        A metric that is not known any more is null.

        Args:
            values: Metrics by name, none that :meth:`needs_birth` would have told.
            time_ms: Unix time in milliseconds.
        """
        changed = {name: value for name, value in values.items() if self._said.get(name) != value}
        gone = [name for name in self._said if name not in values]
        self._said = dict(values)
        if not changed and not gone:
            return None
        self._seq = (self._seq + 1) % _WRAP
        nulls = [Metric(name, None, self._types[name]) for name in gone]
        return encode([*self._metrics(changed), *nulls], time_ms, self._seq, typed=False)

    def needs_birth(self, values: Mapping[str, Value]) -> bool:
        """Tell whether a birth is asked for, or there is a metric that the last one had not."""
        return self.rebirth_asked or any(name not in self._types for name in values)

    def command(self, payload: bytes) -> None:
        """Take an NCMD in; a rebirth is all that can be asked for.

        Raises:
            TrustError: Not a payload, or too large.
        """
        if len(payload) > MAX_COMMAND_BYTES:
            raise TrustError(f"a command of over {MAX_COMMAND_BYTES} bytes")
        if any(metric.name == REBIRTH and metric.value is True for metric in decode(payload)):
            self.rebirth_asked = True

    def _metrics(self, values: Mapping[str, Value]) -> list[Metric]:
        return [Metric(name, value, self._types[name]) for name, value in values.items()]


class NodeLink:
    """Keeps the node's connection up, in a thread.

    Args:
        address: The broker, as the agent has it.
        settings: Sparkplug's part of the settings.
        readings: What there is to show.
        protocol: Returns the version of MQTT that the agent's own connection speaks; None while
            there is none.
        folder: Where the number of the last connection is kept.
        unix_s: Unix time in seconds.
        monotonic_s: Seconds that never jump.
    """

    def __init__(
        self,
        address: Address,
        settings: SparkplugSettings,
        readings: Readings,
        *,
        protocol: Callable[[], Protocol | None],
        folder: Path,
        unix_s: Callable[[], float],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._address = address
        self._settings = settings
        self._readings = readings
        self._protocol = protocol
        self._file = folder / BDSEQ_FILE
        self._unix_s = unix_s
        self._monotonic_s = monotonic_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sparkplug", daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            MissingToolError: The package protobuf is not installed.
        """
        encode([], 0, 0)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Say that the node is dead and end.

        Args:
            timeout_s: Waits this long for it.
        """
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            protocol = self._protocol()
            if protocol is None:
                self._stop.wait(_STEP_S)
                continue
            try:
                self._connect(protocol)
            except Exception:  # a bug here must not take the node off the network
                log.exception("the connection for Sparkplug failed")
            self._stop.wait(_RETRY_S)

    def _connect(self, protocol: Protocol) -> None:
        node = Node(self._next_bdseq())

        def receive(_topic: str, payload: bytes, retained: bool) -> None:
            with contextlib.suppress(TrustError):
                if not retained:
                    node.command(payload)

        session = Session(
            self._address,
            protocol,
            (self._topic("NDEATH"), node.death(self._time_ms())),
            [(self._topic("NCMD"), 1)],
            receive,
            role="sparkplug",
            retain=False,
        )
        try:
            session.connect()
            self._drive(session, node)
        except (OSError, ValueError) as error:
            session.problem = session.problem or str(error)
        if self._stop.is_set():
            session.close((self._topic("NDEATH"), node.death(self._time_ms())))
        else:
            session.close()
            log.warning("the connection for Sparkplug ended: %s", session.problem)

    def _drive(self, session: Session, node: Node) -> None:
        began_s = self._monotonic_s()
        next_s = birth_s = float("-inf")
        while not self._stop.is_set() and session.step(_STEP_S):
            now_s = self._monotonic_s()
            if not session.ready:
                if now_s - began_s > _READY_WITHIN_S:
                    session.problem = "the broker does not answer"
                    return
                continue
            if now_s < next_s and not node.rebirth_asked:
                continue
            values = self._values()
            if not values:  # a birth has all metrics: the first sample is still to come
                continue
            if birth_s < began_s or node.needs_birth(values):
                if now_s - birth_s >= _REBIRTH_S:
                    birth_s = now_s
                    next_s = now_s + self._settings.period_s
                    session.publish(
                        self._topic("NBIRTH"), node.birth(values, self._time_ms()), qos=0
                    )
                continue
            next_s = now_s + self._settings.period_s
            payload = node.data(values, self._time_ms())
            if payload is not None:
                session.publish(self._topic("NDATA"), payload, qos=0)

    def _values(self) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for model, values in self._readings.values().items():
            later: dict[str, Scalar | None] = dict.fromkeys(_LATER) if model else {}
            place = f"Models/{model}" if model else "Vitals"
            found |= {f"{place}/{name}": value for name, value in (later | values).items()}
        return found

    def _next_bdseq(self) -> int:
        """Return the number of the next connection, and note it for the one after it."""
        try:
            last = int(self._file.read_text(encoding="ascii")[:8])
        except (OSError, ValueError):
            last = -1
        number = (last + 1) % _WRAP
        partial = self._file.with_name(f".{BDSEQ_FILE}.part")
        with contextlib.suppress(OSError):  # a full disk must not end the node
            partial.write_text(str(number), encoding="ascii")
            partial.replace(self._file)
        return number

    def _topic(self, kind: str) -> str:
        return f"{NAMESPACE}/{self._settings.group}/{kind}/{self._settings.node}"

    def _time_ms(self) -> int:
        return int(self._unix_s() * 1000)


def _type_of(name: str, value: Value) -> int:
    return _LATER[name.rpartition("/")[2]] if value is None else type_of(value)
