"""Messages of an MQTT topic: every payload is a sample.

Options: those of :mod:`edgekit.agent.broker`, and
    max_bytes: A larger payload is left out, default 8 MiB; a much larger one is not even read: the
        connection is closed and made again.
    queue: Most payloads that wait; the oldest goes first; default 16.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.agent.broker import BrokerOptions, make_client, read_broker
from edgekit.agent.inputs import MAX_SAMPLE_BYTES, Sample
from edgekit.agent.inputs.latest import Latest
from edgekit.runtime.options import Options

log = logging.getLogger(__name__)


@dataclass
class Topic:
    """The input; see the module's text for the options.

    Attributes:
        refused: Payloads that were empty or too large.
    """

    broker: BrokerOptions
    max_bytes: int
    queue: int
    refused: int = 0

    def samples(self, stop: threading.Event) -> Iterator[Sample]:
        """Yield payloads as they come; the connection is made again when it breaks.

        Raises:
            MissingToolError: paho-mqtt is not installed.
            ConfigError: The certificate cannot be read.
        """
        waiting: Latest[tuple[bytes, str]] = Latest(self.queue)
        client = make_client(self.broker, max_bytes=self.max_bytes)

        def connected(_client: Any, _data: Any, _flags: Any, code: Any, _more: Any) -> None:  # noqa: ANN401 - paho's
            if code.is_failure:
                log.warning("the broker %s refused: %s", self.broker.host, code)
            else:
                client.subscribe(self.broker.topic, self.broker.qos)

        def received(_client: Any, _data: Any, message: Any) -> None:  # noqa: ANN401 - paho's
            if 0 < len(message.payload) <= self.max_bytes:
                waiting.put((bytes(message.payload), message.topic))
            else:
                self.refused += 1

        client.on_connect = connected
        client.on_message = received
        client.loop_start()
        try:
            while not stop.is_set():
                found = waiting.take(0.5)
                if found is not None:
                    yield Sample(*found)
        finally:
            client.disconnect()
            client.loop_stop()


def create(options: Mapping[str, Any], clock: Callable[[], float]) -> Topic:  # noqa: ARG001
    """Make the input; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong.
    """
    opts = Options(options, "input mqtt")
    topic = Topic(
        broker=read_broker(opts, wildcards=True),
        max_bytes=int(opts.within("max_bytes", 1, MAX_SAMPLE_BYTES, 8 << 20)),
        queue=int(opts.within("queue", 1, 10_000, 16)),
    )
    opts.close()
    return topic
