"""Dynamic batching: threads that call a model at the same time share one call.

The first caller of a batch leads: it waits, for as long as others are on their way, up to a limit,
joins the feeds along their first dimension, and hands everyone their rows. Where a joined call
fails or answers with another number of rows, everyone calls alone, so that nobody fails for what
another has sent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.wire.errors import EdgekitError
from edgekit.wire.manifest import Manifest

if TYPE_CHECKING:
    import numpy as np

    from edgekit.runtime.session import Run

    Array = np.ndarray[Any, Any]


def is_batchable(manifest: Manifest) -> bool:
    """Tell whether requests may share a call of the model.

    The first dimension of every input and output must be free. A dynamically quantized model takes
    its scale from the whole tensor: there, one request would change another's answer.
    """
    tensors = (*manifest.inputs, *manifest.outputs)
    return manifest.golden.graph_kind != "dynamic" and all(
        tensor.shape and isinstance(tensor.shape[0], str) for tensor in tensors
    )


class _Batch:
    def __init__(self) -> None:
        self.feeds: list[Mapping[str, Array]] = []
        self.rows: list[int] = []
        self.answers: list[dict[str, Array]] | None = None
        self.closed = False
        self.done = threading.Event()


class Batcher:
    """A model that joins calls which come at the same time.

    Args:
        run: The model.
        max_batch: Most rows of a joined call.
        max_wait_s: Longest wait of the first caller.
        expected: How many calls are under way or queued now; nobody waits for more.
    """

    def __init__(
        self, run: Run, *, max_batch: int, max_wait_s: float, expected: Callable[[], int]
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._expected = expected
        self._changed = threading.Condition()
        self._open: dict[tuple[object, ...], _Batch] = {}

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model on one caller's feeds, alone or with others'."""
        rows = {value.shape[0] if value.ndim else 0 for value in feeds.values()}
        if len(rows) != 1 or not 1 <= (count := rows.pop()) < self._max_batch:
            return self._run(feeds)
        key = tuple((name, v.dtype.str, v.shape[1:]) for name, v in sorted(feeds.items()))
        with self._changed:
            batch = self._open.get(key)
            if batch is not None and sum(batch.rows) + count > self._max_batch:
                self._close(key, batch)
                batch = None
            leads = batch is None
            if batch is None:
                batch = self._open[key] = _Batch()
            index = len(batch.rows)
            batch.feeds.append(feeds)
            batch.rows.append(count)
            if sum(batch.rows) >= self._max_batch:
                self._close(key, batch)
            self._changed.notify_all()
        if leads:
            self._lead(key, batch)
        else:
            batch.done.wait()
        return self._run(feeds) if batch.answers is None else batch.answers[index]

    def _close(self, key: tuple[object, ...], batch: _Batch) -> None:
        batch.closed = True
        if self._open.get(key) is batch:
            del self._open[key]

    def _lead(self, key: tuple[object, ...], batch: _Batch) -> None:
        try:
            with self._changed:
                self._changed.wait_for(
                    lambda: batch.closed or len(batch.rows) >= self._expected(), self._max_wait_s
                )
                self._close(key, batch)
            if len(batch.rows) > 1:
                batch.answers = self._joined(batch)
        finally:
            batch.done.set()

    def _joined(self, batch: _Batch) -> list[dict[str, Array]] | None:
        import numpy as np

        names = batch.feeds[0]
        joined = {name: np.concatenate([f[name] for f in batch.feeds]) for name in names}
        try:
            outputs = self._run(joined)
        except EdgekitError:
            return None
        return _split(outputs, batch.rows)


def _split(outputs: Mapping[str, Array], rows: Sequence[int]) -> list[dict[str, Array]] | None:
    """Give everyone their rows; None where an output has another number of them."""
    total = sum(rows)
    if any(value.ndim == 0 or value.shape[0] != total for value in outputs.values()):
        return None
    answers, start = [], 0
    for count in rows:
        answers.append({name: value[start : start + count] for name, value in outputs.items()})
        start += count
    return answers
