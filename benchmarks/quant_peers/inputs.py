"""What every tool is given: the float32 model, calibration feeds, and edgekit's task and data."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.runtime.host import host_kind
from edgekit.runtime.session import Run, import_onnxruntime
from edgekit.toolchain.api import prepare
from edgekit.toolchain.build import planned
from edgekit.toolchain.cache import Cache, default_root
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.stages import Workbench
from edgekit.toolchain.verify import record_feeds

CALIBRATION_FEEDS = 64
INTEGER_TYPES = (2, 3, 21, 22)  # onnx.TensorProto: UINT8, INT8, UINT4, INT4
FLOAT_TYPES = (1, 10, 16)  # FLOAT, FLOAT16, BFLOAT16
SMALL = 16  # scales, zero points and shapes have fewer elements
BENCHMARKS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Prepared:
    """One model, ready for the peers.

    Attributes:
        name: The recipe's name.
        project: Folder whose models/ holds the recipe; None for a packaged one.
        published: The float32 file as it comes.
        source: The same with the recipe's sizes in its inputs.
        feeds: Folder of calibration samples, .npz.
        source_sha256: Of ``source``.
        feeds_sha256: Of all feeds, in order.
        opset: Of the published file.
        convolutional: At least half of its matrix layers are convolutions.
        transformer: Its other layers multiply two activations.
        fixed: Inputs that the recipe holds constant, by name, with data type.
    """

    name: str
    project: Path | None
    published: Path
    source: Path
    feeds: Path
    source_sha256: str
    feeds_sha256: str
    opset: int
    convolutional: bool
    transformer: bool
    fixed: Mapping[str, tuple[str, Any]]


def workbench(name: str, project: Path | None) -> Workbench:
    """Return edgekit's workbench of a recipe for this host."""
    place = project or Path("/nonexistent")
    (job,) = prepare([name], target=host_kind(), project=place, flags={}).jobs
    return Workbench(job.recipe, job.resolved, planned(job), Cache(default_root()), lambda _: None)


def prepare_model(name: str, project: Path | None, folder: Path) -> Prepared:
    """Write a model and its feeds into a folder."""
    bench = workbench(name, project)
    folder.mkdir(parents=True, exist_ok=True)
    published, source = folder / "published.onnx", folder / "source.onnx"
    graph = bench.source
    graph.save(published)
    shapes = {t.name: t.shape for t in bench.recipe.inputs}
    with_shapes(graph, shapes).save(source)
    fixed = {t.name: (t.dtype, t.fixed) for t in bench.recipe.inputs if t.fixed is not None}
    digest = write_feeds(bench, published, fixed, folder / "feeds")
    ops = Counter(node.op_type for node in nodes(graph.proto.graph))
    layers = ops["Conv"] + ops["MatMul"] + ops["Gemm"]
    convolutional = ops["Conv"] * 2 >= layers
    return Prepared(
        name=name,
        project=project,
        published=published,
        source=source,
        feeds=folder / "feeds",
        source_sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        feeds_sha256=digest,
        opset=graph.opset,
        convolutional=convolutional,
        transformer=not convolutional and multiplies_activations(graph.proto.graph),
        fixed=fixed,
    )


def with_shapes(graph: Graph, shapes: Mapping[str, Any]) -> Graph:
    """Write the recipe's sizes into the inputs; a named dimension gets its size everywhere."""
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    proto = graph.copy()
    named: dict[str, int] = {}
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes.get(value.name, ()), strict=False):
            if not isinstance(size, int) or dim.HasField("dim_value"):
                continue
            if dim.dim_param not in ("", "?"):
                named[dim.dim_param] = size
            dim.dim_value = size
    for parameter, size in named.items():
        make_dim_param_fixed(proto.graph, parameter, size)
    return Graph.of(proto)


def write_feeds(
    bench: Workbench, published: Path, fixed: Mapping[str, tuple[str, Any]], folder: Path
) -> str:
    """Write what the task feeds to the float32 model, and return its digest."""
    import numpy as np

    run = open_plain(published, fixed)
    feeds = record_feeds(
        bench.task, run, bench.calibration_set, CALIBRATION_FEEDS, lambda _done: None
    )
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256()
    for index, feed in enumerate(feeds):
        whole = {**feed, **constants(fixed)}
        np.savez(folder / f"{index:04}.npz", **whole)
        for name in sorted(whole):
            digest.update(f"{name}{whole[name].dtype}{whole[name].shape}".encode())
            digest.update(np.ascontiguousarray(whole[name]).tobytes())
    return digest.hexdigest()


def constants(fixed: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Return the inputs that the recipe holds constant, as arrays."""
    import numpy as np

    return {name: np.array(value, dtype=dtype) for name, (dtype, value) in fixed.items()}


def open_plain(model: Path, fixed: Mapping[str, tuple[str, Any]]) -> Run:
    """Open a model with onnxruntime's default session options and one thread.

    Raises (any error of onnxruntime's): The model does not load.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return wrapped(session, fixed)


def wrapped(session: Any, fixed: Mapping[str, tuple[str, Any]]) -> Run:  # noqa: ANN401 - onnxruntime has no types
    """Return a session as a function that takes what a task feeds."""
    names = [output.name for output in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    more = {name: value for name, value in constants(fixed).items() if name in wanted}

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in feeds.items() if name in wanted}
        return dict(zip(names, session.run(names, {**given, **more}), strict=True))

    return run


def multiplies_activations(graph: Any) -> bool:  # noqa: ANN401 - protobuf messages are untyped
    """Tell whether a graph has a MatMul of two computed tensors, as attention has."""
    constant = {i.name for i in graph.initializer}
    constant |= {n.output[0] for n in graph.node if n.op_type == "Constant"}
    return any(node.op_type == "MatMul" and not constant & set(node.input) for node in nodes(graph))


def nodes(graph: Any) -> Iterator[Any]:  # noqa: ANN401 - protobuf messages are untyped
    """Yield the nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def int8_share(graph: Graph) -> float:
    """Return the share of weight elements in 8 bits or less, 0..1.

    As edgekit.toolchain.quantize.write.int8_share, which looks at canonical graphs: here weights
    may also stand in Constant nodes and inside the branches of an If.
    """
    import math

    integer = floats = 0
    for tensor in weights(graph.proto.graph):
        count = math.prod(tensor.dims)
        if count < SMALL:
            continue
        if tensor.data_type in INTEGER_TYPES:
            integer += count
        elif tensor.data_type in FLOAT_TYPES:
            floats += count
    return integer / (integer + floats) if integer else 0.0


def weights(graph: Any) -> Iterator[Any]:  # noqa: ANN401 - protobuf messages are untyped
    """Yield the constant tensors of a graph and of the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from weights(attribute.g)
            elif node.op_type == "Constant" and attribute.HasField("t"):
                yield attribute.t


def own_models() -> dict[str, Path | None]:
    """Return all recipes: the packaged ones, and those of the benchmark's own project."""
    from edgekit.toolchain.project import packaged_folder

    found: dict[str, Path | None] = {}
    for path in sorted(packaged_folder("models").glob("*.toml")):
        found[path.stem] = None
    for path in sorted((BENCHMARKS / "quant" / "models").glob("*.toml")):
        found.setdefault(path.stem, BENCHMARKS / "quant")
    return found


def to_json(model: Prepared) -> str:
    """Return what a child process needs to know of a model."""
    return json.dumps(
        {
            "name": model.name,
            "project": None if model.project is None else str(model.project),
            "published": str(model.published),
            "feeds": str(model.feeds),
            "fixed": {name: list(value) for name, value in model.fixed.items()},
        }
    )
