"""What pages show of a device, a group and an alert."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from edgekit.fleet.alerts.rows import AlertRow
from edgekit.fleet.store.rows import DeviceRow, Summary
from edgekit.fleet.web.pages.nodes import node
from edgekit.fleet.web.words import number, share

HOT_C = 80.0
DEVICE_COLUMNS: tuple[dict[str, Any], ...] = (
    {"field": "name", "headerName": "Device", ":cellRenderer": "fleet.cells.device",
     "sortable": True, "minWidth": 150, "flex": 1.6},
    {"field": "labels", "headerName": "Labels", ":cellRenderer": "fleet.cells.tags",
     "context": {"from": 900}, "flex": 2},
    {"field": "target", "headerName": "Target", "sortable": True, "context": {"from": 700}},
    {"field": "version", "headerName": "edgekit", "sortable": True, "context": {"from": 1100},
     "maxWidth": 100},
    {"field": "models", "headerName": "Model, p95 (measured on device)", "context": {"from": 1000},
     "minWidth": 170, "flex": 1.6},
    {"field": "temp_c", "headerName": "Hottest", "sortable": True, "context": {"from": 560},
     "type": "rightAligned", ":cellRenderer": "fleet.cells.hot", "maxWidth": 110},
    {"field": "cpu_share", "headerName": "CPU", "sortable": True, "context": {"from": 800},
     "type": "rightAligned", "maxWidth": 95},
    {"field": "alerts", "headerName": "Alerts", "sortable": True, "type": "rightAligned",
     "context": {"from": 480}, ":cellRenderer": "fleet.cells.hot", "maxWidth": 95},
    {"field": "phase", "headerName": "Last order", "sortable": True, "context": {"from": 1000},
     ":cellRenderer": "fleet.cells.badge", "maxWidth": 125},
    {"field": "last_seen_s", "headerName": "Last seen", "sortable": True, "minWidth": 105,
     ":cellRenderer": "fleet.cells.time"},
)  # fmt: skip


def row_of(device: DeviceRow) -> dict[str, Any]:
    """Return a device as a row of the table."""
    models = [
        f"{name} {number(device.p95_ms.get(name), 'ms')}" if name in device.p95_ms else name
        for name in device.models
    ]
    temp = None
    if device.temp_c is not None:
        temp = [number(device.temp_c, "°C"), device.temp_c > HOT_C]
    return {
        "key": device.name,
        "name": [device.name, device.online],
        "labels": [f"{key}={value}" for key, value in device.labels.items()],
        "target": device.target or "–",
        "version": device.version or "–",
        "models": ", ".join(models) or "–",
        "temp_c": temp,
        "cpu_share": share(device.cpu_share),
        "alerts": [str(device.alerts), True] if device.alerts else None,
        "phase": "" if device.phase == "idle" else device.phase,
        "last_seen_s": device.last_seen_s,
    }


def groups_of(summary: Summary, key: str) -> list[tuple[str, int, int]]:
    """Return the groups of one label: value, devices, online; the largest first."""
    found = [
        (name.partition("=")[2], sum(counts.values()), counts.get("online", 0))
        for name, counts in summary.groups.items()
        if name.partition("=")[0] == key
    ]
    rest = summary.total - sum(total for _, total, _ in found)
    if rest > 0:
        online = summary.online - sum(up for _, _, up in found)
        found.append((f"without {key}" if key else "all", rest, max(0, online)))
    return sorted(found, key=lambda group: (-group[1], group[0]))


def keys_of(summary: Summary) -> list[str]:
    """Return the labels that devices have, the one that tells them apart best first."""
    values: dict[str, int] = {}
    for name in summary.groups:
        key = name.partition("=")[0]
        values[key] = values.get(key, 0) + 1
    return sorted(values, key=lambda key: (values[key] == 1, values[key], key))


def alert_item(alert: AlertRow) -> None:
    """Add an alert to a list: what, since when, and what to do next."""
    with node("div", "", "item"):
        node("span", alert.severity, f"badge {alert.severity}")
        with node("div"):
            node(
                "a", alert.text, href=f"/devices/{quote(alert.device, safe='')}"
            ) if alert.device else node("span", alert.text)
            if alert.silenced:
                node("span", " silenced", "dim")
        node("time", "", "num dim when", data_t=alert.opened_s)
        node("div", f"next: {alert.todo}", "todo")
