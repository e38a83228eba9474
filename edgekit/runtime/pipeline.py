"""A bundle's pipeline, ready to run: its task and its model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.runtime.golden import OutputMatch, compare, from_members, record
from edgekit.runtime.session import Run, open_session, runner
from edgekit.runtime.tasks import Prediction, Task, create_task
from edgekit.wire.manifest import Manifest

MODEL_MEMBER = "model.onnx"


@dataclass(frozen=True)
class Pipeline:
    """A task with the model behind it.

    Attributes:
        task: What the model is for.
        run: The model: feeds in, named outputs out.
    """

    task: Task
    run: Run

    def predict(self, data: bytes) -> Prediction:
        """Predict one sample from its raw bytes."""
        return self.task.predict(self.run, data)


def load_pipeline(
    manifest: Manifest, read: Callable[[str], bytes], *, threads: int | None = None
) -> Pipeline:
    """Load a bundle's pipeline.

    Args:
        manifest: Of the verified bundle.
        read: Returns a member's verified bytes.
        threads: Intra-op threads; the manifest's by default.

    Raises:
        BuildError: onnxruntime does not load the model.
        ConfigError: The task or its options are unknown here.
        MissingToolError: A package that the task needs is not installed.
    """
    files = {name: read(member) for name, member in manifest.pipeline.files.items()}
    task = create_task(manifest.pipeline.task, manifest.pipeline.options, files)
    with _in_memory_file(read(MODEL_MEMBER)) as model:
        session = open_session(model, threads=threads or manifest.session.threads)
    return Pipeline(task, runner(session))


@contextlib.contextmanager
def _in_memory_file(data: bytes) -> Iterator[Path | bytes]:
    """Give bytes a path: a model in bytes is kept by onnxruntime as long as its session lives."""
    if not hasattr(os, "memfd_create"):
        yield data
        return
    descriptor = os.memfd_create("model", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def replay(
    manifest: Manifest,
    read: Callable[[str], bytes],
    names: Iterable[str],
    on_done: Callable[[int], None] = lambda _done: None,
) -> list[OutputMatch]:
    """Run a bundle's golden samples on this machine and compare.

    Args:
        manifest: Of the verified bundle.
        read: Returns a member's verified bytes.
        names: The bundle's members.
        on_done: Called with the number of samples done.

    Returns:
        One match an output and sample.
    """
    members = list(names)
    pipeline = load_pipeline(manifest, read, threads=1)
    expected, got = [], []
    for index in range(manifest.golden.count):
        data, recorded = from_members(index, members, read)
        expected.append(recorded)
        got.append(record(pipeline.task, pipeline.run, data))
        on_done(index + 1)
    return compare(pipeline.task, expected, got, manifest.golden.tolerance)
