"""The stages of a build, each kept in the cache under the digest of everything that it reads."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.runtime.host import host_kind
from edgekit.runtime.session import Run, open_session, runner
from edgekit.runtime.tasks import Prediction, Task, create_task
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.calibration import SQNR_FEEDS, Calibration, calibrate
from edgekit.toolchain.compare import OutputDifference, compare_outputs
from edgekit.toolchain.events import Event, OnEvent
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.passes import CanonicalOptions, canonicalise, optimize
from edgekit.toolchain.plan import CALIBRATION_FEEDS, OPSET_MIN, Plan
from edgekit.toolchain.predict import Prediction as Forecast
from edgekit.toolchain.predict import predict
from edgekit.toolchain.quantize.candidates import recurrent_graph
from edgekit.toolchain.quantize.smooth import smoothed
from edgekit.toolchain.recipe import Recipe
from edgekit.toolchain.samples import Fetcher, SampleSet, check_disjoint, load_set
from edgekit.toolchain.sources import fetch
from edgekit.toolchain.targets import Resolved
from edgekit.toolchain.timing import Device, PairTiming, time_pair
from edgekit.toolchain.verify import (
    Feeds,
    lint_count,
    lint_feeds,
    predict_all,
    record_feeds,
)
from edgekit.wire.canonical import digest_of
from edgekit.wire.errors import BuildError

# A pass may reorder float32 arithmetic; more than this is another model.
MAX_CANONICAL_ERROR = 1e-3
_COMPARE_FEEDS = 4


@dataclass(frozen=True)
class Canonical:
    """The canonical float32 graph, what the passes did, and how far its outputs moved."""

    graph: Graph
    notes: tuple[str, ...]
    max_error: float


@dataclass(frozen=True)
class Workbench:
    """One model on one target, in the middle of being built.

    Attributes:
        recipe: The recipe.
        resolved: The target.
        plan: Both resolved.
        cache: Where stages are kept.
        on_event: Hears of progress.
        offline: Fetch nothing.
        device: A board of the target's kind, whose timings decide; None where there is none.
    """

    recipe: Recipe
    resolved: Resolved
    plan: Plan
    cache: Cache
    on_event: OnEvent
    offline: bool = False
    device: Device | None = None

    def with_plan(self, plan: Plan) -> Workbench:
        """Return this bench under a plan that differs in what was decided, nothing else."""
        other = dataclasses.replace(self, plan=plan)
        # What was computed so far does not rest on the decision, and is not computed again.
        other.__dict__.update({k: v for k, v in self.__dict__.items() if k not in other.__dict__})
        return other

    @functools.cached_property
    def fetcher(self) -> Fetcher:
        """How this build fetches files."""
        return Fetcher(self.cache, self.recipe.folder, self.on_event, self.offline)

    def fetch(self, reference: Any) -> Path:  # noqa: ANN401 - a SourceRef
        """Fetch a pinned source into the cache."""
        return fetch(
            reference,
            cache=self.cache,
            folder=self.recipe.folder,
            on_event=self.on_event,
            offline=self.offline,
        )

    @functools.cached_property
    def task(self) -> Task:
        """The recipe's task with its sidecar files."""
        return create_task(self.recipe.task, self.recipe.task_options, self.task_files)

    @functools.cached_property
    def task_files(self) -> dict[str, bytes]:
        """The task's sidecar files, by name."""
        return {n: self.fetch(ref).read_bytes() for n, ref in self.recipe.task_files.items()}

    @functools.cached_property
    def task_sha256(self) -> str:
        """Digest of everything that predictions rest on beside the graph and the data."""
        return digest_of(
            [
                self.recipe.task,
                dict(self.recipe.task_options),
                self.code("verify"),
                host_kind(),
                self.plan.step("fetch").values(),
                self.plan.step("canonicalise").values()["tools"],
            ]
        )

    @functools.cached_property
    def calibration_set(self) -> SampleSet:
        """The calibration samples; enough of them."""
        loaded = load_set(self.recipe.calibration, self.fetcher, self.code("calibrate"))
        lint_count(loaded, self.recipe.file)
        return loaded

    @functools.cached_property
    def evaluation_set(self) -> SampleSet:
        """The evaluation samples, proven disjoint from calibration."""
        evaluation = load_set(self.recipe.evaluation, self.fetcher, self.code("verify"))
        check_disjoint(self.calibration_set, evaluation, self.recipe.file)
        return evaluation

    def code(self, step: str) -> str:
        """Digest of the code that a step rests on."""
        values = self.plan.step(step).values()
        return digest_of([values["code"], values.get("tools")])

    @functools.cached_property
    def source(self) -> Graph:
        """The model as it comes: a file, or exported by a worker."""
        uri = self.recipe.source.uri
        if not uri.startswith(("torch:", "hf:")):
            return Graph.load(self.fetch(self.recipe.source))
        key = digest_of([self.plan.step("fetch").values(), self.plan.step("export").values()])

        def produce(out: Path) -> None:
            from edgekit.toolchain.export import export

            source = self.fetch(self.recipe.source)
            packages = [self.fetch(p) for p in self.recipe.packages]
            notes = export(
                self.recipe, source, packages, OPSET_MIN, out / "model.onnx", self.on_event
            )
            (out / "notes.json").write_text(json.dumps(dataclasses.asdict(notes)))

        folder = self.stage("export", key, produce, _export_detail)
        return Graph.load(folder / "model.onnx")

    @functools.cached_property
    def canonical(self) -> Canonical:
        """The graph after canonicalise and optimize; its outputs equal the source's."""
        step = self.plan.step("canonicalise").values()
        source = self.source
        key = digest_of([source.sha256, step, self.calibration_set.sha256, self.task_sha256])

        def produce(out: Path) -> None:
            options = CanonicalOptions(
                opset=step["opset_min"],
                opset_max=step["opset_max"],
                fixed=step["fixed"],
                shapes=step["shapes"],
                static=step["static_shapes"],
            )
            graph, notes = canonicalise(source, options)
            graph, more = optimize(graph)
            error = self._canonical_error(source, graph)
            graph.save(out / "model.onnx")
            (out / "notes.json").write_text(
                json.dumps(
                    {
                        "notes": [f"{n.name}: {n.text}" for n in (*notes, *more)],
                        "nodes": [len(source.proto.graph.node), len(graph.proto.graph.node)],
                        "max_error": error,
                    }
                )
            )

        folder = self.stage("optimize", key, produce, _canonical_detail)
        notes = json.loads((folder / "notes.json").read_text())
        return Canonical(
            Graph.load(folder / "model.onnx"), tuple(notes["notes"]), notes["max_error"]
        )

    def _canonical_error(self, source: Graph, graph: Graph) -> float:
        first = dataclasses.replace(
            self.calibration_set, samples=self.calibration_set.samples[:_COMPARE_FEEDS]
        )
        run = runner(open_session(graph.to_bytes()))
        feeds = record_feeds(self.task, run, first, _COMPARE_FEEDS, lambda _: None)
        differences = compare_outputs(
            self._with_fixed(runner(open_session(source.to_bytes()))), run, feeds
        )
        worst = max(d.relative_l2 for d in differences)
        if not worst <= MAX_CANONICAL_ERROR:
            name = max(differences, key=lambda d: d.relative_l2).output
            raise BuildError(
                f'canonicalising changed output "{name}" by {worst:.2g} (relative L2)',
                hint="`edgekit inspect` shows the operators; please report the model",
                where=self.recipe.file,
            )
        return float(worst)

    def _with_fixed(self, run: Run) -> Run:
        import numpy as np

        fixed = {
            t.name: np.array(t.fixed, dtype=t.dtype)
            for t in self.recipe.inputs
            if t.fixed is not None
        }
        return lambda feeds: run({**feeds, **fixed})

    @functools.cached_property
    def feeds(self) -> list[Feeds]:
        """What the task feeds to the model on calibration samples; at most 64."""
        run = runner(open_session(self.canonical.graph.to_bytes()))
        feeds: list[Feeds] = self.watch(
            "calibrate",
            "samples",
            len(self.calibration_set.samples),
            lambda tick: record_feeds(
                self.task, run, self.calibration_set, CALIBRATION_FEEDS, tick
            ),
        )
        lint_feeds(feeds, self.recipe.file)
        return feeds

    @functools.cached_property
    def static_base(self) -> Graph:
        """What a static plan starts from: the canonical graph, its LSTMs already dynamic."""
        graph, scheme = self.canonical.graph, self.resolved.target.quantization
        return recurrent_graph(graph, scheme) or graph

    @functools.cached_property
    def smoothed(self) -> Graph:
        """What a dynamic plan starts from: the canonical graph with evener channels."""
        graph = self.canonical.graph
        code, data = self.code("quantize"), self.calibration_set.sha256
        key = digest_of([graph.sha256, data, self.task_sha256, code])

        def produce(out: Path) -> None:
            smoothed(graph, self.feeds).save(out / "model.onnx")

        folder, _ = self.cache.stage("smooth", key, produce)
        made = Graph.load(folder / "model.onnx")
        return graph if made.sha256 == graph.sha256 else made

    @functools.cached_property
    def calibration(self) -> Calibration:
        """Ranges and per-layer SQNR of what a static plan starts from."""
        return calibrate(self)

    def predictions(self, graph: Graph, label: str) -> list[Prediction]:
        """Return a graph's predictions on the evaluation set, cached."""
        samples = self.evaluation_set
        key = digest_of([graph.sha256, samples.sha256, self.task_sha256])

        def produce(out: Path) -> None:
            run = runner(open_session(graph.to_bytes()))
            found = self.watch(
                f"verify {label}",
                "samples",
                len(samples.samples),
                lambda tick: predict_all(self.task, run, samples, tick),
            )
            (out / "predictions.json").write_text(json.dumps(found))

        folder, _ = self.cache.stage("predictions", key, produce)
        predictions: list[Prediction] = json.loads((folder / "predictions.json").read_text())
        return predictions

    def differences(self, graph: Graph) -> list[OutputDifference]:
        """Compare a graph with fp32 on a few calibration feeds, each output by itself."""
        runs = [runner(open_session(g.to_bytes())) for g in (self.canonical.graph, graph)]
        return compare_outputs(runs[0], runs[1], self.feeds[:_COMPARE_FEEDS])

    @functools.cached_property
    def dims(self) -> dict[str, int]:
        """Sizes of dynamic dimensions as the calibration samples have them, the median of each."""
        sizes: dict[str, list[int]] = {}
        for value in self.canonical.graph.proto.graph.input:
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                if not dim.HasField("dim_value"):
                    # Exporters write "?" for several dimensions that have nothing in common.
                    named = dim.dim_param not in ("", "?")
                    name = dim.dim_param if named else f"{value.name}[{axis}]"
                    sizes.setdefault(name, []).extend(
                        int(feed[value.name].shape[axis])
                        for feed in self.feeds
                        if value.name in feed
                    )
        return {name: sorted(found)[len(found) // 2] for name, found in sizes.items() if found}

    def predict(self, graph: Graph) -> Forecast:
        """Predict a graph's latency and memory on the target."""
        return predict(graph, self.resolved.target, dims=self.dims)

    def timing(self, candidate: Graph) -> PairTiming:
        """Return paired latencies of fp32 and a candidate, on the device if there is one."""
        fp32, device = self.canonical.graph, self.device
        key = digest_of(
            [
                fp32.sha256,
                candidate.sha256,
                self.calibration_set.sha256,
                self.task_sha256,
                self.code("quantize"),
                *([device.name] if device else []),
            ]
        )

        def produce(out: Path) -> None:
            measure = device.time_pair if device else time_pair
            measured = measure(fp32, candidate, self.feeds[:SQNR_FEEDS])
            (out / "timing.json").write_text(json.dumps(dataclasses.asdict(measured)))

        folder, _ = self.cache.stage("timing", key, produce)
        return PairTiming(**json.loads((folder / "timing.json").read_text()))

    @property
    def timed_on(self) -> str:
        """Where timings are taken, as reports show it."""
        return self.device.name if self.device else f"{host_kind()} host"

    def stage(
        self,
        name: str,
        key: str,
        produce: Callable[[Path], None],
        detail: Callable[[Path], str],
    ) -> Path:
        """Run or reuse a cached stage and say so."""
        started = time.perf_counter()
        folder, cached = self.cache.stage(name, key, produce)
        self.on_event(
            Event(
                self.recipe.name,
                name,
                1,
                1,
                detail=detail(folder),
                seconds=time.perf_counter() - started,
                cached=cached,
            )
        )
        return folder

    def watch(
        self, stage: str, unit: str, total: int, work: Callable[[Callable[[int], None]], Any]
    ) -> Any:  # noqa: ANN401
        """Run work that reports how many units are done."""
        return work(
            lambda done: self.on_event(
                Event(self.recipe.name, stage, min(done, total), total, unit)
            )
        )


def _export_detail(folder: Path) -> str:
    notes = json.loads((folder / "notes.json").read_text())
    return str(notes.get("detail") or notes)


def _canonical_detail(folder: Path) -> str:
    notes = json.loads((folder / "notes.json").read_text())
    before, after = notes["nodes"]
    return f"{before} → {after} nodes, outputs equal to {notes['max_error']:.0e}"
