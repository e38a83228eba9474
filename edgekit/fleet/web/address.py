"""The state of the overview as it stands in its URL, so that a link leads back to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

PAGE_ROWS = 25
STATES = ("online", "offline", "never")
SORTS = (
    "name", "online", "last_seen_s", "target", "version", "temp_c", "cpu_share", "alerts", "phase",
)  # fmt: skip
_MOST_TEXT = 200
_MOST_PAGE = 100_000


@dataclass(frozen=True)
class Filters:
    """Which devices are shown, and how.

    Attributes:
        search: Part of a name.
        state: One of :data:`STATES`, or empty.
        label: ``key=value``, or empty.
        model: That they serve, or empty.
        sort: One of :data:`SORTS`.
        descending: The other way round.
        page: From 0 on.
    """

    search: str = ""
    state: str = ""
    label: str = ""
    model: str = ""
    sort: str = "name"
    descending: bool = False
    page: int = 0

    @classmethod
    def read(cls, asked: Mapping[str, str]) -> Filters:
        """Read the part of a URL behind the question mark; what makes no sense is left out."""
        label = asked.get("label", "")[:_MOST_TEXT]
        return cls(
            search=asked.get("q", "")[:_MOST_TEXT],
            state=_one_of(asked.get("state", ""), STATES, ""),
            label=label if "=" in label else "",
            model=asked.get("model", "")[:_MOST_TEXT],
            sort=_one_of(asked.get("sort", ""), SORTS, "name"),
            descending=asked.get("desc") == "1",
            page=_page(asked.get("page", "")),
        )

    def query(self, *, with_page: bool = True) -> str:
        """Return the part of the URL behind the question mark; empty where nothing is special."""
        pairs = [
            ("q", self.search),
            ("state", self.state),
            ("label", self.label),
            ("model", self.model),
            ("sort", self.sort if self.sort != "name" else ""),
            ("desc", "1" if self.descending else ""),
            ("page", str(self.page + 1) if with_page and self.page else ""),
        ]
        return urlencode([pair for pair in pairs if pair[1]])

    def url(self, path: str = "/") -> str:
        """Return the whole URL."""
        query = self.query()
        return f"{path}?{query}" if query else path

    def changed(self, **values: Any) -> Filters:  # noqa: ANN401 - its own fields
        """Return other filters; they begin at the first page."""
        return replace(self, **({"page": 0} | values))

    def asked(self) -> dict[str, Any]:
        """Return what the store is asked for, but for the page."""
        key, _, value = self.label.partition("=")
        return {
            "search": self.search,
            "labels": {key: value} if self.label else {},
            "state": self.state or None,
            "model": self.model or None,
            "sort": self.sort,
            "descending": self.descending,
        }

    @property
    def is_plain(self) -> bool:
        """Whether all devices are shown."""
        return not (self.search or self.state or self.label or self.model)


def _one_of(text: str, choices: tuple[str, ...], default: str) -> str:
    return text if text in choices else default


def _page(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(_MOST_PAGE))
    return max(0, int(text) - 1) if is_number else 0
