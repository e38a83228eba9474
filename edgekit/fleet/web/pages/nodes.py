"""Elements of a page: plain HTML, whose texts and attributes are never parsed as HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from edgekit.fleet.web.words import number

_MOST_BARS = 8


def node(tag: str, text: str = "", classes: str = "", **attributes: object) -> TextElement:
    """Add an element.

    Args:
        tag: ``div``, ``a``, …
        text: In it.
        classes: Of CSS.
        **attributes: ``href``, ``data_t`` for ``data-t``, and so on.
    """
    made = TextElement(tag=tag, text=text)
    if classes:
        made.classes(classes)
    set_attributes(made, **attributes)
    return made


def set_attributes(element: ui.element, **attributes: object) -> None:
    """Set attributes of an element; nothing is sent where none has changed."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    if any(element.props.get(key) != value for key, value in given.items()):
        # By key, not through a text of the form `key=value` that would have to be parsed.
        element.props.update(given)
        element.update()


def set_text(element: TextElement, text: str) -> None:
    """Set a text; nothing is sent where it is the same."""
    if element.text != text:
        element.set_text(text)


def since(t: float | None, clock: str = "server") -> TextElement:
    """Add a time, shown as how long it is ago, with the whole of it on hover."""
    return node("time", "", "num", data_t="" if t is None else t, data_clock=clock)


class Grid:
    """A table (AG Grid) that sends changed rows alone, and is made when there is something in it.

    Args:
        columns: Definitions; ``context.from`` says from which width on a column is there.
        on_sort: Called with a column and whether it is descending, when the server sorts.
        sort: The column that is sorted at first, and whether it is descending.

    Attributes:
        element: Where it stands.
    """

    def __init__(
        self,
        columns: Sequence[dict[str, Any]],
        on_sort: Callable[[str, bool], None] | None = None,
        sort: tuple[str, bool] | None = None,
    ) -> None:
        self._rows: dict[str, dict[str, Any]] = {}
        self._columns = columns
        self._on_sort = on_sort
        self._sort = sort
        self._grid: ui.aggrid | None = None
        self.element = node("div")

    def show(self, rows: Sequence[dict[str, Any]]) -> None:
        """Show these rows; each has a ``key`` of its own."""
        before, found = self._rows, {str(row["key"]): row for row in rows}
        self._rows = found
        if self._grid is None:
            if rows:
                with self.element:
                    self._grid = self._made(rows)
        elif list(before) == list(found):
            changed = [row for key, row in found.items() if before[key] != row]
            if changed:
                self._grid.run_grid_method("applyTransaction", {"update": changed})
        else:
            self._grid.run_grid_method("setGridOption", "rowData", list(rows))

    def _made(self, rows: Sequence[dict[str, Any]]) -> ui.aggrid:
        given = [dict(column) for column in self._columns]
        for column in given:
            if self._on_sort is not None and column.get("sortable"):
                # The server has sorted: the order that rows come in stays.
                column[":comparator"] = "() => 0"
            if self._sort is not None and column.get("field") == self._sort[0]:
                column["sort"] = "desc" if self._sort[1] else "asc"
        made = ui.aggrid(
            {
                "columnDefs": given,
                "rowData": list(rows),
                "defaultColDef": {
                    "sortable": self._on_sort is None, "resizable": True, "suppressMovable": True,
                    "flex": 1, "minWidth": 70, "cellDataType": False,
                    "wrapHeaderText": True, "autoHeaderHeight": True,
                    "sortingOrder": ["asc", "desc"],
                },
                "domLayout": "autoHeight",
                "rowHeight": 40,
                "headerHeight": 36,
                "suppressCellFocus": True,
                "animateRows": False,
                "suppressNoRowsOverlay": True,
                "enableCellTextSelection": True,
                ":getRowId": "(p) => p.data.key",
                ":onGridReady": "fleet.fit",
                ":onGridSizeChanged": "fleet.fit",
            },
            auto_size_columns=False,
        )  # fmt: skip
        if self._on_sort is not None:
            made.on("sortChanged", self._sorted)
        return made

    async def _sorted(self) -> None:
        if self._grid is None:
            return
        state = await self._grid.run_grid_method("getColumnState", timeout=5)
        for column in state or ():
            if column.get("sort") and self._on_sort is not None:
                chosen = (str(column["colId"]), column["sort"] == "desc")
                if chosen != self._sort:
                    self._sort = chosen
                    self._on_sort(*chosen)
                return


class Bars:
    """Counts by name as bars from zero, the largest on top: plain HTML, for a few of them."""

    def __init__(self, what: str) -> None:
        self._shown: Mapping[str, int] | None = None
        self._place = node("div", "", "bars", role="list", aria_label=what)

    def show(self, counts: Mapping[str, int]) -> None:
        """Show these; beyond the eight largest they are one."""
        if counts == self._shown:
            return
        self._shown = dict(counts)
        rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
        if len(rows) > _MOST_BARS:
            rest = sum(count for _, count in rows[_MOST_BARS - 1 :])
            rows = [*rows[: _MOST_BARS - 1], ("others", rest)]
        most = max((count for _, count in rows), default=1)
        self._place.clear()
        with self._place:
            for name, count in rows:
                with node("div", "", "bar-row", role="listitem"):
                    node("span", name, "k", title=name)
                    with node("span", "", "track"):
                        node("i").style(f"width: {100 * count / max(1, most):.1f}%")
                    node("span", number(count), "num")


class Chart:
    """A chart (ECharts) that is sent again only where it has changed.

    Args:
        what: In words, for those who do not see it.
        height_px: Its height.
    """

    def __init__(self, what: str, height_px: int = 240) -> None:
        self._what = what
        self._options: dict[str, Any] | None = None
        self._place = node("div", "", "chart").style(f"height: {height_px}px")
        self._chart: ui.echart | None = None
        self.on_click: Callable[[str], None] | None = None
        with self._place:
            node("div", "", "skeleton").style(f"height: {height_px}px")

    def show(self, options: dict[str, Any] | None, why: str = "") -> None:
        """Show this.

        Args:
            options: Of the chart; None where there is nothing to draw.
            why: Said then.
        """
        if options == self._options and (self._chart is not None or options is not None):
            return
        self._options = options
        if options is None or self._chart is None:
            self._place.clear()
            self._chart = None
            with self._place:
                if options is None:
                    node("div", why or "nothing to draw yet", "empty")
                    return
                self._chart = ui.echart(_copied(options)).classes("chart").style("height: 100%")
                set_attributes(self._chart, role="img", aria_label=self._what)
                if self.on_click is not None:
                    self._chart.on_point_click(self._clicked)
            return
        self._chart.options.clear()
        self._chart.options.update(_copied(options))
        self._chart.update()

    def _clicked(self, event: Any) -> None:  # noqa: ANN401 - NiceGUI's
        if self.on_click is not None:
            self.on_click(str(event.name))


def _copied(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value
