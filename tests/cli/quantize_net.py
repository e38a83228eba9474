"""A small model with samples beside it, for tests of ``edgekit quantize``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper

RATE = 16000
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{i}" for i in range(60))]


class Net:
    """A model of some layers with 40 samples beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "net.onnx"
        self.data = folder / "samples"
        self.out = folder / "out" / "net-int8.onnx"
        for made in (self.data, self.out.parent):
            made.mkdir(parents=True)

    def save(self, nodes, inputs, outputs, weights, **how):
        graph = helper.make_graph(
            nodes,
            "net",
            inputs,
            outputs,
            [numpy_helper.from_array(v, k) for k, v in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(self.model), **how)

    def fill(self, make, count=40):
        for index in range(count):
            np.savez(self.data / f"{index:03d}.npz", **make(np.random.default_rng(index)))

    def line(self, *more):
        return ("quantize", self.model, "--data", self.data, "-t", "rpi5", "-o", self.out, *more)


def refusing(edgekit: Callable[..., Any]):
    """Return what runs a line that must fail; nothing beside the model may change."""

    def tree(folder):
        # Without digests: some of the files are sparse and hold gigabytes of nothing.
        found = {p: p.lstat() for p in folder.rglob("*")}
        return {p: (s.st_size, s.st_mtime_ns) for p, s in found.items()}

    def go(net, *more, code, says, hint="", where="", line=None):
        before = tree(net.folder)
        arguments = line or net.line(*more)
        ran = edgekit(*arguments, "--json")
        assert ran.code == code, ran.out + ran.err
        document = ran.document
        assert document["schema"] == "edgekit.error/1"
        assert says in document["message"], document
        assert hint in (document["hint"] or ""), document
        assert where in (document["where"] or ""), document
        said = edgekit(*arguments)
        assert (said.code, said.out) == (code, "")
        assert "Traceback" not in said.err
        assert tree(net.folder) == before
        return document

    return go


def heard(seed, length_s=0.6, rate=RATE):
    """Noise under a rising tone: no two windows are alike."""
    random = np.random.default_rng(seed)
    t = np.arange(int(length_s * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * (200 + 150 * seed + 400 * t) * t)
    return (tone + random.normal(size=len(t)) * 0.05).astype(np.float32)


def save_sound_model(net, shape, *, rate_input=False):
    """A filter bank and two layers: ``wave`` to ``y: [1, 8]``."""
    random = np.random.default_rng(3)
    make = helper.make_node
    inputs = [helper.make_tensor_value_info("wave", TensorProto.FLOAT, shape)]
    nodes = [
        make("Reshape", ["wave", "flat"], ["x"], name="shape"),
        make("Conv", ["x", "w1"], ["c1"], name="bank", strides=[32]),
        make("Relu", ["c1"], ["r1"], name="relu1"),
        make("Conv", ["r1", "w2"], ["c2"], name="mix"),
        make("Relu", ["c2"], ["r2"], name="relu2"),
        make("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        make("Flatten", ["p"], ["f"], name="rows"),
        make("Gemm", ["f", "w3"], ["g"], name="head", transB=1),
    ]
    if rate_input:
        inputs.append(helper.make_tensor_value_info("sr", TensorProto.INT64, []))
        nodes += [
            make("Cast", ["sr"], ["srf"], name="cast", to=TensorProto.FLOAT),
            make("Div", ["srf", "khz"], ["scale"], name="scale"),
            make("Mul", ["g", "scale"], ["y"], name="scaled"),
        ]
    else:
        nodes.append(make("Identity", ["g"], ["y"], name="out"))
    net.save(
        nodes,
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        {
            "flat": np.array([1, 1, -1], np.int64),
            "khz": np.array(16000, np.float32),
            "w1": random.normal(size=(64, 1, 64)).astype(np.float32) * 0.2,
            "w2": random.normal(size=(64, 64, 3)).astype(np.float32) * 0.1,
            "w3": random.normal(size=(8, 64)).astype(np.float32),
        },
    )


def tokenizer_json():
    """A real tokenizer of 60 words."""
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token=WORDS[1])
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return made.to_str()


def save_text_model(net, *, dtype=TensorProto.INT64, tokens="tokens", more=()):
    """Embeddings under a mask, two layers, a mean: ``[1, 16]``."""
    random = np.random.default_rng(2)
    make = helper.make_node
    names = ["input_ids", "attention_mask", *more]
    net.save(
        [
            make("Gather", ["table", "input_ids"], ["e"], name="embed"),
            make("Cast", ["attention_mask"], ["maskf"], name="cast", to=TensorProto.FLOAT),
            make("Unsqueeze", ["maskf", "last"], ["m"], name="wide"),
            make("Mul", ["e", "m"], ["em"], name="masked"),
            make("MatMul", ["em", "w1"], ["h"], name="up"),
            make("Relu", ["h"], ["hr"], name="relu"),
            make("MatMul", ["hr", "w2"], ["d"], name="down"),
            make("ReduceMean", ["d"], ["y"], name="mean", axes=[1], keepdims=0),
        ],
        [helper.make_tensor_value_info(n, dtype, ["batch", tokens]) for n in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        {
            "table": random.normal(size=(len(WORDS), 64)).astype(np.float32),
            "w1": random.normal(size=(64, 256)).astype(np.float32) * 0.1,
            "w2": random.normal(size=(256, 16)).astype(np.float32) * 0.1,
            "last": np.array([2], np.int64),
        },
    )


def fill_texts(folder):
    """Write 40 texts into two files, one of them twice."""
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice(WORDS[4:], size=random.integers(3, 20))) for _ in range(40)]
    (folder / "a.txt").write_text("\n\n".join(lines[:25]) + "\n")
    (folder / "b.txt").write_text("\ufeff" + "\r\n".join([*lines[25:], lines[0]]), "utf-8")
