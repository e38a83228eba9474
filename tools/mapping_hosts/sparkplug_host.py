"""A Sparkplug host by pysparkplug, which runs in an environment of its own.

``python sparkplug_host.py PORT GROUP NODE``: each message of the node is one line of JSON on
standard output; a line on standard input asks the node for a rebirth.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pysparkplug as psp
from paho.mqtt import client as mqtt
from pysparkplug import _protobuf

KINDS = (psp.MessageType.NBIRTH, psp.MessageType.NDATA, psp.MessageType.NDEATH)


def main() -> int:
    """Listen until standard input ends.

    Returns:
        The exit code.
    """
    port, group, node = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    births: list[psp.NBirth] = []

    def heard(_client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        print(json.dumps(told(message, births)), flush=True)

    def connected(client: mqtt.Client, *_: object) -> None:
        topics = [psp.Topic(group_id=group, message_type=k, edge_node_id=node) for k in KINDS]
        client.subscribe([(str(topic), 1) for topic in topics])

    client = mqtt.Client(clean_session=True)
    client.on_connect, client.on_message = connected, heard
    client.on_subscribe = lambda *_: print('{"ready": true}', flush=True)
    client.connect("127.0.0.1", port)
    client.loop_start()
    asked = psp.Topic(group_id=group, message_type=psp.MessageType.NCMD, edge_node_id=node)
    for _line in sys.stdin:
        now_ms = psp.get_current_timestamp()
        metric = psp.Metric(now_ms, "Node Control/Rebirth", psp.DataType.BOOLEAN, value=True)
        client.publish(str(asked), psp.NCmd(now_ms, (metric,)).encode(), qos=0)
    client.disconnect()
    client.loop_stop()
    return 0


def told(message: mqtt.MQTTMessage, births: list[psp.NBirth]) -> dict[str, Any]:
    """Return what pysparkplug reads in a message, and what stands in its protobuf."""
    try:
        read = psp.Message.from_mqtt_message(message, birth=births[-1] if births else None)
    except Exception as error:  # noqa: BLE001 - whatever it is, the node is to blame
        return {"topic": message.topic, "problem": f"{type(error).__name__}: {error}"}
    payload = read.payload
    if isinstance(payload, psp.NBirth):
        births.append(payload)
    death = isinstance(payload, psp.NDeath)
    raw = _protobuf.Payload.FromString(message.payload)
    return {
        "topic": message.topic,
        "kind": str(read.topic.message_type),
        "timestamp": raw.timestamp if raw.HasField("timestamp") else None,
        "seq": raw.seq if raw.HasField("seq") else None,
        "typed": [metric.HasField("datatype") for metric in raw.metrics],
        "metrics": [
            {
                "name": metric.name,
                "datatype": metric.datatype.name,
                "value": metric.value,
                "null": metric.is_null,
                "timestamp": metric.timestamp,
                "alias": metric.alias,
            }
            for metric in ([payload.bd_seq_metric] if death else payload.metrics)
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
