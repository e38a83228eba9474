"""A bundle's pipeline, ready to run: its task and its model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

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
    session = open_session(read(MODEL_MEMBER), threads=threads or manifest.session.threads)
    return Pipeline(task, runner(session))


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
