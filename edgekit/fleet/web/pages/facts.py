"""What the page of a device says of it, in words and rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from edgekit.fleet.store.rows import DeviceDetail, EventRow
from edgekit.fleet.web.history import Line
from edgekit.fleet.web.order_rows import DeviceOrderRow
from edgekit.fleet.web.words import bytes_of, duration, number, share

# A clock that is off by more is worth a word.
_CLOCK_OFF_S = 5.0
_MOST_VALUES = 400
_MOST_FACTS = 20
_YES_NO = {"True": "yes", "False": "no"}


def clock_words(detail: DeviceDetail) -> str:
    """Say how far the device's clock is off, as its last sample tells; empty where that is little.

    What waited in its outbox is late, so only a clock that is ahead is sure to be wrong.
    """
    boot, connected = detail.state.get("boot_id"), detail.state.get("time_s")
    if boot is None or not isinstance(connected, int | float) or detail.row.last_seen_s is None:
        return ""
    ahead_s = float(connected) - detail.row.last_seen_s
    return f"its clock is {duration(ahead_s)} ahead" if ahead_s > _CLOCK_OFF_S else ""


def facts_of(detail: DeviceDetail) -> list[tuple[str, str]]:
    """Return what is said of a device, by name."""
    vitals, row = detail.vitals, detail.row
    found = [
        ("target", row.target or "not said yet"),
        ("edgekit", row.version or "not said yet"),
        ("hottest zone", number(row.temp_c, "°C")),
        ("CPU", share(row.cpu_share)),
        ("throttled", _YES_NO.get(str(vitals.get("throttled")), "–")),
        ("clock", number(_number(vitals, "clock_mhz"), "MHz")),
        ("memory free", bytes_of(_number(vitals, "memory_available_bytes"))),
        ("disk free", bytes_of(_number(vitals, "disk_free_bytes"))),
        ("agent's memory", bytes_of(_number(vitals, "rss_bytes"))),
        ("uptime", duration(up) if (up := _number(vitals, "uptime_s")) is not None else "–"),
    ]
    missing = sum(gaps.missing for gaps in detail.gaps)
    dropped = sum(gaps.dropped for gaps in detail.gaps)
    found.append(("messages missing", number(missing)))
    found.append(("dropped by it", number(dropped)))
    return found + [(key, value) for key, value in list(detail.facts.items())[:_MOST_FACTS]]


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def lines_of(
    vitals: Mapping[str, Line], *wanted: tuple[str, str, str]
) -> list[tuple[str, str, Line]]:
    """Return the lines that a device has, of those that are wanted: metric, name, colour."""
    return [(name, colour, vitals[key]) for key, name, colour in wanted if key in vitals]


def percent_of(lines: Sequence[tuple[str, str, Line]]) -> list[tuple[str, str, Line]]:
    """Return lines of shares in percent."""
    return [
        (
            name, colour,
            Line(
                [(at_s, 100 * value) for at_s, value in line.mean],
                [(at_s, 100 * value) for at_s, value in line.largest],
            ),
        )
        for name, colour, line in lines
    ]  # fmt: skip


def errors_of(values: object) -> str:
    """Say how many requests a model had in its last sample, and how many failed."""
    if not isinstance(values, dict):
        return ""
    requests, errors = values.get("requests"), values.get("errors")
    if type(requests) is not int or type(errors) is not int:
        return ""
    return f"{number(requests)} requests, {number(errors)} failed"


def event_of(event: EventRow) -> dict[str, Any]:
    """Return an event as a row of the table."""
    said = ", ".join(
        f"{key}: {_short(value)}" for key, value in event.values.items() if value not in ("", None)
    )
    return {
        "key": str(event.id),
        "received_s": event.received_s,
        "time_s": event.time_s,
        "name": event.name,
        "values": said[:_MOST_VALUES],
    }


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def order_of(order: DeviceOrderRow) -> dict[str, Any]:
    """Return an order to one device as a row of the table."""
    return {
        "key": order.order_id,
        "phase": order.phase,
        "model": [order.model, f"/models/{quote(order.model, safe='')}"],
        "serial": order.serial,
        "since_s": order.since_s,
        "detail": order.detail,
    }
