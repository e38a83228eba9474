"""Results on an MQTT topic, as JSON.

Options: those of :mod:`edgekit.agent.broker`, and
    retain: The broker keeps the last one for those who come later, default false.

While the broker is away 100 results wait; further ones are lost and counted.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from edgekit.agent.broker import BrokerOptions, make_client, read_broker
from edgekit.agent.outputs import Result
from edgekit.runtime.options import Options

log = logging.getLogger(__name__)

_WAITING = 100
_CLOSE_S = 3.0


class TopicOutput:
    """The output; see the module's text for the options.

    Attributes:
        lost: Results that found no room.
    """

    def __init__(self, broker: BrokerOptions, retain: bool) -> None:
        self._broker = broker
        self._retain = retain
        self._client = make_client(broker, waiting=_WAITING)
        self._client.loop_start()
        self._last: Any = None
        self.lost = 0

    def send(self, result: Result) -> None:
        """Publish one result."""
        body = json.dumps(result, separators=(",", ":"))
        sent = self._client.publish(self._broker.topic, body, self._broker.qos, self._retain)
        if sent.rc == 0:
            self._last = sent
            return
        # Not connected: with qos 1 paho keeps it, as long as there is room.
        if self._broker.qos == 0 or sent.rc == _queue_full():
            self.lost += 1
            if self.lost == 1 or self.lost % 1000 == 0:
                log.warning("%s: %d results lost", self._broker.topic, self.lost)

    def close(self) -> None:
        """Wait for the last result to be taken, and disconnect."""
        end = time.monotonic() + _CLOSE_S
        while self._last is not None and not self._last.is_published() and time.monotonic() < end:
            time.sleep(0.02)
        self._client.disconnect()
        self._client.loop_stop()


def _queue_full() -> int:
    from paho.mqtt.enums import MQTTErrorCode

    return int(MQTTErrorCode.MQTT_ERR_QUEUE_SIZE)


def create(options: Mapping[str, Any]) -> TopicOutput:
    """Make the output; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong.
        MissingToolError: paho-mqtt is not installed.
    """
    opts = Options(options, "output mqtt")
    broker = read_broker(opts, wildcards=False)
    retain = opts.get("retain", bool, False)
    opts.close()
    return TopicOutput(broker, retain)
