"""The passes on published models: outputs stay, and the int8 writers take what is left."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.runtime.session import import_onnxruntime, open_session, runner
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.compare import compare_outputs
from edgekit.toolchain.events import ignore
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.passes import CanonicalOptions, canonicalise, optimize
from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources import fetch

from .pass_graphs import ops

pytestmark = pytest.mark.network

SILERO = (
    "pypi:silero-vad==6.2.3!silero_vad/data/",
    "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
)
RAPIDOCR = (
    "pypi:rapidocr-onnxruntime==1.4.4!rapidocr_onnxruntime/models/",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
)
MAGIKA = (
    "pypi:magika==1.0.3?wheel=py3-none-manylinux_2_28_x86_64!magika/models/standard_v3_3/",
    "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
)
VOICE = {"input": [1, 576], "state": [2, 1, 128]}


@dataclass(frozen=True)
class Model:
    """A published model and feeds that it makes sense of."""

    source: tuple[str, str]
    file: str
    feeds: dict[str, tuple[int, ...]]
    opset: int
    fixed: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, list[int | str]] = field(default_factory=dict)
    static: tuple[str, ...] = ("Conv", "MatMul", "Gemm")


MODELS = {
    "cls": Model(RAPIDOCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (2, 3, 48, 192)}, 11),
    "rec": Model(
        RAPIDOCR,
        "ch_PP-OCRv4_rec_infer.onnx",
        {"x": (1, 3, 48, 160)},
        12,
        shapes={"x": [1, 3, 48, "width"]},
    ),
    "rec-static": Model(
        RAPIDOCR,
        "ch_PP-OCRv4_rec_infer.onnx",
        {"x": (1, 3, 48, 160)},
        12,
        shapes={"x": [1, 3, 48, 160]},
    ),
    "det": Model(RAPIDOCR, "ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 96, 160)}, 12),
    "silero": Model(
        SILERO,
        "silero_vad_16k_op15.onnx",
        {"input": (1, 576), "state": (2, 1, 128)},
        15,
        {"sr": 16000},
        VOICE,
        ("Conv",),
    ),
    "silero-dual": Model(
        SILERO,
        "silero_vad.onnx",
        {"input": (1, 576), "state": (2, 1, 128)},
        16,
        {"sr": 16000},
        VOICE,
        ("Conv",),
    ),
    "magika": Model(MAGIKA, "model.onnx", {"bytes": (1, 2048)}, 15, shapes={"bytes": [1, 2048]}),
}


@dataclass(frozen=True)
class Case:
    """A model, and the graph that the passes made of it."""

    name: str
    model: Model
    path: Path
    source: Graph
    graph: Graph

    def feeds(self, seed: int) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        made = {"bytes": _bytes, "x": _page}
        return {
            name: made.get(name, _noise)(random, shape) for name, shape in self.model.feeds.items()
        }


def _bytes(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.integers(0, 257, shape).astype(np.int32)


def _noise(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (random.standard_normal(shape) * 0.3).astype(np.float32)


def _page(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """White paper with a line of dark strokes: on noise a text detector answers nothing at all."""
    page = np.ones(shape, np.float32)
    middle = shape[2] // 2
    for x in range(16, shape[3] - 16, 8):
        height = int(random.integers(4, 10))
        page[:, :, middle - height : middle + 6, x : x + 2] = -1
        page[:, :, middle - 1 : middle + 1, x : x + int(random.integers(3, 7))] = -1
    return page


@pytest.fixture(scope="module", params=list(MODELS))
def case(request: pytest.FixtureRequest, shared_cache: Path) -> Case:
    model = MODELS[request.param]
    path = fetch(
        SourceRef(model.source[0] + model.file, model.source[1]),
        cache=Cache(shared_cache),
        folder=Path.cwd(),
        on_event=ignore,
        offline=False,
    )
    source = Graph.load(path)
    assert source.opset == model.opset
    options = CanonicalOptions(fixed=model.fixed, shapes=model.shapes, opset_max=23)
    graph, _ = optimize(canonicalise(source, options)[0])
    return Case(request.param, model, path, source, graph)


def test_outputs_stay(case: Case) -> None:
    fixed = {n: np.array(v) for n, v in case.model.fixed.items()}
    reference = runner(open_session(case.source.to_bytes()))
    feeds = [case.feeds(seed) for seed in range(3)]
    differences = compare_outputs(
        lambda fed: reference({**fed, **fixed}), runner(open_session(case.graph.to_bytes())), feeds
    )
    assert [d for d in differences if not d.relative_l2 <= 1e-5] == []
    if case.name == "det":
        answer = runner(open_session(case.graph.to_bytes()))(feeds[0])
        assert max(v.max() for v in answer.values()) > 0.5  # it sees the line


def test_the_form_is_canonical(case: Case) -> None:
    found = ops(case.graph.proto)
    assert not {"Constant", "If", "Identity", "BatchNormalization", "OneHot", "Equal"} & set(found)
    assert case.graph.opset == 17
    assert case.graph.proto.ir_version == 8
    assert {n.domain for n in case.graph.proto.graph.node} == {""}
    names = [n.name for n in case.graph.proto.graph.node]
    assert len(set(names)) == len(names)
    assert len(case.graph.proto.graph.node) < len(case.source.proto.graph.node) or case.model.fixed
    if case.name == "magika":
        assert found["Gather"] == 1
    if case.name.startswith("silero"):
        assert (found["Conv"], found["LSTM"]) == (6, 1)


def test_the_static_writer_takes_it(case: Case, tmp_path: Path) -> None:
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([case.feeds(seed) for seed in range(2)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    case.graph.save(tmp_path / "m.onnx")
    _quietly(
        quantize_static,
        tmp_path / "m.onnx",
        tmp_path / "q.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=list(case.model.static),
    )
    _holds_int8(case, tmp_path / "q.onnx", case.model.static)


def test_the_dynamic_writer_takes_it(case: Case, tmp_path: Path) -> None:
    import_onnxruntime()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    wanted = ("MatMul", "Gemm", "LSTM")
    if not set(wanted) & set(ops(case.graph.proto)):
        pytest.skip("it has no operator that a dynamic plan quantizes")
    case.graph.save(tmp_path / "m.onnx")
    _quietly(
        quantize_dynamic,
        tmp_path / "m.onnx",
        tmp_path / "q.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=list(wanted),
    )
    _holds_int8(case, tmp_path / "q.onnx", wanted)


def _quietly(writer: Any, *args: Any, **options: Any) -> None:
    logging.disable(logging.WARNING)
    try:
        writer(*args, **options)
    finally:
        logging.disable(logging.NOTSET)


def _holds_int8(case: Case, path: Path, kinds: tuple[str, ...]) -> None:
    """It loads and runs, and every constant weight of these operators is int8."""
    quantized = Graph.load(path)
    constants = {i.name for i in case.graph.proto.graph.initializer}
    weights = {
        n.input[1]
        for n in case.graph.proto.graph.node
        if n.op_type in kinds and n.input[1] in constants
    }
    left = {i.name for i in quantized.proto.graph.initializer if i.data_type == 1}
    assert weights
    assert not weights & left
    feeds = case.feeds(9)
    (one, *_) = runner(open_session(path))(feeds).values()
    (two, *_) = runner(open_session(case.graph.to_bytes()))(feeds).values()
    assert one.shape == two.shape
    assert np.isfinite(one).all()


def test_two_processes_make_the_same_bytes(case: Case, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from edgekit.toolchain.graph import Graph\n"
        "from edgekit.toolchain.passes import CanonicalOptions, canonicalise, optimize\n"
        f"options = CanonicalOptions(fixed={case.model.fixed!r}, shapes={case.model.shapes!r},\n"
        "                           opset_max=23)\n"
        "graph, _ = canonicalise(Graph.load(Path(sys.argv[1])), options)\n"
        "print(optimize(graph)[0].sha256)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, case.path],
        env=os.environ | {"PYTHONHASHSEED": "4711", "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [case.graph.sha256]
