"""``/models`` and ``/models/NAME``: what models promised, and what they do on devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from nicegui import ui
from starlette.requests import Request

from edgekit.fleet.store import queries
from edgekit.fleet.store.rows import ModelDetail, ModelRow
from edgekit.fleet.web import charts, history
from edgekit.fleet.web.contracts import Promise
from edgekit.fleet.web.figures import FIELD, SELF_TEST, Comparison, compare
from edgekit.fleet.web.history import Fielded, Heat
from edgekit.fleet.web.pages.frame import Frame, card, missing
from edgekit.fleet.web.pages.nodes import Chart, Grid, node, set_text
from edgekit.fleet.web.shared import Web
from edgekit.fleet.web.words import count, number, share
from edgekit.wire.errors import UsageError

_PERIOD_S = 10.0
_DAY_S, _HOUR_S = 86_400.0, 3600.0
# Reading an hour of 5,000 devices takes a second or two.
_FIELD_S = 60.0
# Of the population stability index: as the alerts have it.
DRIFTED, DRIFTING = 0.25, 0.1
_MOST_ROWS = 200
_COLOURS = {
    "predicted": charts.SKY, "simulated": charts.PURPLE, "measured on host": charts.BLUE,
    SELF_TEST: charts.GREEN, FIELD: charts.ORANGE,
}  # fmt: skip
_MODELS: tuple[dict[str, Any], ...] = (
    {"field": "name", "headerName": "Model", ":cellRenderer": "fleet.cells.to", "minWidth": 120},
    {"field": "devices", "headerName": "Devices", "type": "rightAligned"},
    {"field": "bundles", "headerName": "Bundles", "type": "rightAligned",
     "context": {"from": 700}},
    {"field": "requests", "headerName": "Requests, 24 h", "type": "rightAligned",
     "context": {"from": 700}},
    {"field": "errors", "headerName": "Failed", "type": "rightAligned",
     ":cellRenderer": "fleet.cells.hot"},
    {"field": "p50", "headerName": "p50, measured on device", "type": "rightAligned",
     "context": {"from": 900}},
    {"field": "p95", "headerName": "p95, measured on device", "type": "rightAligned"},
    {"field": "limit", "headerName": "Contract: p95 ≤", "type": "rightAligned",
     "context": {"from": 560}},
)  # fmt: skip
_DRIFT: tuple[dict[str, Any], ...] = (
    {"field": "device", "headerName": "Device", ":cellRenderer": "fleet.cells.to",
     "minWidth": 110},
    {"field": "psi", "headerName": "Largest PSI", "type": "rightAligned",
     ":cellRenderer": "fleet.cells.hot", "maxWidth": 140},
    {"field": "what", "headerName": "Of", "flex": 2},
)  # fmt: skip
_SLOWEST: tuple[dict[str, Any], ...] = (
    {"field": "device", "headerName": "Device", ":cellRenderer": "fleet.cells.to",
     "minWidth": 110},
    {"field": "requests", "headerName": "Requests", "type": "rightAligned",
     "context": {"from": 560}},
    {"field": "failed", "headerName": "Failed", "type": "rightAligned",
     ":cellRenderer": "fleet.cells.hot"},
    {"field": "p50", "headerName": "p50", "type": "rightAligned"},
    {"field": "p95", "headerName": "p95", "type": "rightAligned",
     ":cellRenderer": "fleet.cells.hot"},
)  # fmt: skip


def model_row(row: ModelRow, limit_ms: float | None) -> dict[str, Any]:
    """Return a model as a row of the table."""
    failed = row.errors / row.requests if row.requests else None
    return {
        "key": row.name,
        "name": [row.name, f"/models/{quote(row.name, safe='')}"],
        "devices": number(row.devices),
        "bundles": number(len(row.bundles)),
        "requests": number(row.requests),
        "errors": None if failed is None else [share(failed), failed > 0.05],  # noqa: PLR2004 - as alerts
        "p50": number(row.p50_ms, "ms"),
        "p95": number(row.p95_ms, "ms"),
        "limit": number(limit_ms, "ms"),
    }


class ModelsPage:
    """``/models``."""

    def __init__(self, web: Web, frame: Frame) -> None:
        self._web = web
        self._frame = frame
        with frame:
            with node("div", "", "title"):
                node("h1", "Models")
            made, end = card("All models", "sums of the last 24 hours; open one for its contract")
            with end:
                node("a", "CSV", href="/csv/models", download="models.csv")
            with made:
                self._grid = Grid(_MODELS)
                self._none = node("div", "", "empty")
                with self._none:
                    node("b", "No model serves anywhere yet")
                    node("code", "edgekit fleet deploy dist/MODEL-TARGET.ekb --all")

    async def run(self) -> None:
        """Fill the page and keep it up to date."""
        await self._frame.live(self._web.models, self._show, _PERIOD_S)

    def _show(self, rows: Sequence[ModelRow]) -> None:
        limit = self._web.promises.limit_ms
        self._grid.show([model_row(row, limit(list(row.bundles))) for row in rows])
        self._grid.element.set_visibility(bool(rows))
        self._none.set_visibility(not rows)


@dataclass(frozen=True)
class Known:
    """What is known of a model."""

    detail: ModelDetail
    promise: Promise | None
    field: Mapping[str, Fielded]
    heat: Heat | None
    span: tuple[float, float] | None
    limit_ms: float | None

    def comparisons(self) -> list[Comparison]:
        """Return its figures side by side."""
        field = {
            device: {
                key: value
                for key, value in (("p50", seen.p50_ms), ("p95", seen.p95_ms))
                if value is not None
            }
            for device, seen in self.field.items()
        }
        return compare(self.promise, self.detail.measurements, field)


class ModelPage:
    """``/models/NAME``.

    Args:
        web: The fleet.
        frame: Around it.
        name: Of the model.
    """

    def __init__(self, web: Web, frame: Frame, name: str) -> None:
        self._web = web
        self._frame = frame
        self._name = name
        self._strips: dict[str, tuple[Any, Chart]] = {}
        with frame:
            with node("div", "", "title"):
                node("h1", name)
            self._sub = node("div", "", "sub")
            with self._sub:
                self._about = node("span", "…")
                node("a", "its devices", href=f"/?model={quote(name, safe='')}")
            with node("div", "", "answer") as self._answer:
                self._mark = node("div", "–", "mark", aria_hidden="true")
                self._verdict = node("h2", "")
            self._figures = node("div", "", "row even")
            heat, _ = card("Latency over the last 24 hours", "all devices; measured on device")
            heat.style("margin-bottom: 16px")
            with heat:
                self._heat = Chart("latency histogram over time", 290)
            with node("div", "", "row even"):
                slow, _ = card("Slowest devices", "last hour; measured on device")
                with slow:
                    self._slowest = Grid(_SLOWEST)
                drift, _ = card("Drift", "of what the model sees and says, against its calibration")
                with drift:
                    self._drift = Grid(_DRIFT)
                    self._no_drift = node("div", "no device reports drift", "empty")

    async def run(self) -> None:
        """Fill the page and keep it up to date."""
        await self._frame.live(self._ask, self._show, _PERIOD_S)

    def _ask(self) -> Known:
        return self._web.memory.get(("model", self._name), _PERIOD_S, self._find)

    def _find(self) -> Known:
        reader, now_s = self._web.reader, self._web.clock()
        detail = queries.model(reader, self._name)
        bundles = sorted(detail.row.bundles, key=lambda b: -detail.row.bundles[b])
        promises = self._web.promises.all_of(bundles)
        limit_ms = self._web.promises.limit_ms(bundles)
        field = self._web.memory.get(
            ("field", self._name), _FIELD_S,
            lambda: history.by_device(reader, self._name, now_s - _HOUR_S, now_s),
        )  # fmt: skip
        heat = history.heat(reader, now_s - _DAY_S, now_s, model=self._name, floor_ms=limit_ms)
        span = None if heat is None else (heat.times[0], now_s)
        promise = promises[0] if promises else None
        return Known(detail, promise, field, heat, span, limit_ms)

    def _show(self, known: Known) -> None:
        row, promise = known.detail.row, known.promise
        about = f"{count(row.devices, 'device')}, {count(len(row.bundles), 'bundle')}"
        if promise is not None:
            about += f"; {promise.title}, {promise.precision}, serial {promise.serial}"
        set_text(self._about, about)
        comparisons = known.comparisons()
        self._judge(known, comparisons)
        self._show_figures(comparisons)
        heat = (
            None
            if known.heat is None
            else charts.latency_heat(known.heat, known.limit_ms, known.span)
        )
        self._heat.show(heat, "no requests in the last 24 hours")
        self._show_slowest(known)
        self._show_drift(known.detail.drift)

    def _judge(self, known: Known, comparisons: Sequence[Comparison]) -> None:
        over = max((row.over for row in comparisons), default=0)
        if known.promise is None:
            level, sign = "empty", "–"
            text = "Its bundle is not in this fleet's folder, so its contract is not known here"
        elif over:
            level, sign = "look", "!"
            text = f"{count(over, 'device')} of {number(len(known.field))} over the contract"
        elif not known.field:
            level, sign, text = "empty", "–", "Nothing was measured in the last hour"
        else:
            level, sign, text = "good", "✓", "All devices are within the contract"
        self._answer.classes(remove="good look act empty", add=level)
        set_text(self._mark, sign)
        set_text(self._verdict, text)

    def _show_figures(self, comparisons: Sequence[Comparison]) -> None:
        metrics = [row.metric for row in comparisons]
        if list(self._strips) != metrics:
            self._figures.clear()
            self._strips = {}
            with self._figures:
                for row in comparisons:
                    made, end = card(row.metric, _asks(row))
                    with end:
                        over = node("span", "", "hot")
                    with made:
                        height = 62 + 34 * len(row.figures)
                        self._strips[row.metric] = (over, Chart(row.metric, height))
        for row in comparisons:
            over, chart = self._strips[row.metric]
            set_text(over, f"{count(row.over, 'device')} over" if row.over else "")
            chart.show(charts.strip(_strip_rows(row), row.unit, _limit(row)))

    def _show_slowest(self, known: Known) -> None:
        order = sorted(known.field.items(), key=lambda item: -(item[1].p95_ms or 0))[:10]
        rows = []
        for device, seen in order:
            failed = seen.errors / seen.requests if seen.requests else 0.0
            p95 = seen.p95_ms
            over = known.limit_ms is not None and p95 is not None and p95 > known.limit_ms
            rows.append({
                "key": device,
                "device": [device, f"/devices/{quote(device, safe='')}"],
                "requests": number(seen.requests),
                "failed": [share(failed), failed > 0.05],  # noqa: PLR2004 - as alerts
                "p50": number(seen.p50_ms, "ms"),
                "p95": [number(p95, "ms"), over],
            })  # fmt: skip
        self._slowest.show(rows)

    def _show_drift(self, drift: Mapping[str, Mapping[str, Any]]) -> None:
        found = [(device, *largest) for device, said in drift.items() if (largest := _psi(said))]
        found.sort(key=lambda row: (-row[2], row[0]))
        rows = [
            {
                "key": device,
                "device": [device, f"/devices/{quote(device, safe='')}"],
                "psi": [number(value), value > DRIFTED],
                "what": what + (": has moved" if value > DRIFTED else
                                ": moves" if value > DRIFTING else ""),
            }
            for device, what, value in found[:10]
        ]  # fmt: skip
        self._drift.show(rows)
        self._drift.element.set_visibility(bool(rows))
        self._no_drift.set_visibility(not rows)


def _psi(said: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return what has moved most, and by how much: 0 where chance explains it."""
    found: list[tuple[str, float]] = []
    for what, judged in list(said.items())[:_MOST_ROWS]:
        psi = judged.get("psi") if isinstance(judged, dict) else None
        if isinstance(psi, int | float):
            is_chance = judged.get("level") not in {"some", "much"}
            found.append((str(what), 0.0 if is_chance else float(psi)))
    return max(found, key=lambda row: row[1], default=None)


def _asks(row: Comparison) -> str:
    line = row.contract
    if line is None:
        return "the contract asks nothing of it"
    parts = [
        *([f"≥ {line.minimum:.4g}"] if line.minimum is not None else []),
        *([f"≤ {line.maximum:.4g}"] if line.maximum is not None else []),
    ]
    unit = f" {row.unit}" if row.unit else ""
    against = " against fp32" if line.vs == "fp32" else ""
    return f"contract: {' and '.join(parts)}{unit}{against}"


def _limit(row: Comparison) -> tuple[float, bool] | None:
    line = row.contract
    if line is None or line.vs != "absolute":
        return None
    if line.maximum is not None:
        return line.maximum, True
    return None if line.minimum is None else (line.minimum, False)


def _strip_rows(
    row: Comparison,
) -> list[tuple[str, str, Sequence[float], tuple[float, float] | None]]:
    return [
        (
            f"{figure.source}, n={figure.n}" if figure.n is not None else figure.source,
            _COLOURS.get(figure.source, charts.BLUE), figure.values, figure.interval,
        )
        for figure in row.figures
    ]  # fmt: skip


def add_models(web: Web) -> None:
    """Add ``/models`` and ``/models/NAME``."""

    @ui.page("/models", title="Models")
    async def models(request: Request) -> None:
        await ModelsPage(web, Frame(web, request, "Models", "/models")).run()

    @ui.page("/models/{name}", title="Model")
    async def model(request: Request, name: str) -> None:
        frame = Frame(web, request, name, "/models")
        if name not in {row.name for row in web.models()}:
            missing(frame, UsageError(f"no device serves a model named {name[:80]!r}"))
            return
        await ModelPage(web, frame, name).run()
