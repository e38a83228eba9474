"""What a device takes of each request: the right numbers, cheaply; bad documents are refused."""

from __future__ import annotations

import json
import math
import timeit
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent import telemetry
from edgekit.agent.telemetry import Meter, ModelReference
from edgekit.runtime import reference as module
from edgekit.runtime.reference import (
    FEW,
    GRID,
    REFERENCE_NAME,
    Calibrated,
    Watched,
    answer_numbers,
    answered_classes,
    load,
    observe,
    observe_call,
    parse_reference,
    spread,
)
from edgekit.runtime.sketches import Reference
from edgekit.wire.bundle import open_bundle
from edgekit.wire.canonical import canonical_json
from edgekit.wire.errors import TrustError
from edgekit.wire.manifest import Member
from edgekit.wire.signing import load_public_key

WIRE = Path(__file__).resolve().parents[2] / "wire"
BINS = Reference((0.0, 1.0), (3, 4, 5))
PICTURE = Calibrated(
    samples=12,
    tensors=(
        Watched("input", "image", ("mean", "std", "step")),
        Watched("output", "scores", ("mean", "std")),
    ),
    values={
        **{f"input.image.{n}": BINS for n in ("mean", "std", "step")},
        **{f"output.scores.{n}": BINS for n in ("mean", "std")},
        "output.confidence": BINS,
    },
    classes={"cat": 7, "dog": 5},
)
TABLE = Calibrated(
    tensors=(Watched("input", "x", ("0", "2")),), values={"input.x[0]": BINS, "input.x[2]": BINS}
)


def test_the_document_reads_back_as_it_was_written() -> None:
    assert parse_reference(PICTURE.to_bytes()) == PICTURE
    assert parse_reference(TABLE.to_bytes()) == TABLE


def test_an_old_bundle_has_an_empty_reference_and_is_read() -> None:
    key = load_public_key(WIRE / "bundle-v1.pub.pem")
    with open_bundle(WIRE / "bundle-v1.ekb", [key]) as bundle:
        empty = load(bundle.manifest, bundle.read)
    assert empty == Calibrated()
    x = np.ones((1, 3, 4, 4), np.float32)
    seen = observe(empty, {"x": x}, {"y": x}, {"top": [{"label": "a", "score": 0.5}]})
    assert seen.values == ()
    assert seen.classes == (("a", 0.5),)


def test_the_member_is_read_where_the_manifest_lists_it(small_bundle) -> None:
    listed = replace(small_bundle.manifest, members={REFERENCE_NAME: Member(1, "0" * 64)})
    assert load(listed, {REFERENCE_NAME: PICTURE.to_bytes()}.__getitem__) == PICTURE


def broken(change) -> bytes:
    document = json.loads(PICTURE.to_bytes())
    change(document)
    return canonical_json(document)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b" " + PICTURE.to_bytes(),
        broken(lambda d: d.update(schema="edgekit.reference/2")),
        broken(lambda d: d.update(more=1)),
        broken(lambda d: d.pop("classes")),
        broken(lambda d: d["classes"].update(cat=-1)),
        broken(lambda d: d["classes"].update({"a\x1bb": 1})),
        broken(lambda d: d["tensors"][0].update(side="middle")),
        broken(lambda d: d["tensors"][0]["numbers"].update(median={"edges": [], "counts": [1]})),
        broken(lambda d: d["tensors"][0]["numbers"]["mean"].update(edges=[1.0, 0.0])),
        broken(lambda d: d["tensors"][0]["numbers"]["mean"].update(counts=[1])),
        broken(lambda d: d["answers"].update(colour={"edges": [], "counts": [1]})),
        broken(lambda d: d.update(tensors=d["tensors"] * 20)),
    ],
)
def test_a_malformed_document_is_refused(data: bytes) -> None:
    with pytest.raises(TrustError):
        parse_reference(data)


@given(st.binary(max_size=200))
def test_strangers_bytes_never_do_more_than_be_refused(data: bytes) -> None:
    with pytest.raises(TrustError):
        parse_reference(data)


def test_numbers_of_a_small_picture_are_those_of_all_its_elements() -> None:
    image = np.random.default_rng(1).normal(size=(1, 1, 8, 8)).astype(np.float32)
    numbers = spread(image)
    flat = image.ravel().astype(np.float64)
    assert numbers["mean"] == pytest.approx(flat.mean())
    assert numbers["std"] == pytest.approx(flat.std())
    assert numbers["step"] == pytest.approx(np.abs(np.diff(flat)).mean())


@pytest.mark.parametrize(
    "shape", [(1, 3, 224, 224), (1, 224, 224, 3), (1, 480000), (1, 1023), (7,)]
)
def test_the_grid_sees_every_channel_and_stays_near_the_whole(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(2)
    image = random.uniform(size=shape).astype(np.float32)
    if len(shape) == 4:
        # Channels of different levels: a grid that falls on one alone has another mean.
        level = np.array([0.0, 5.0, 10.0], np.float32)
        image = image + (level.reshape(1, 3, 1, 1) if shape[1] == 3 else level)
    numbers = spread(image)
    assert numbers["mean"] == pytest.approx(float(image.mean()), rel=0.05)
    assert numbers["std"] == pytest.approx(float(image.std()), rel=0.05)
    stride = module._stride(image.size)
    assert math.gcd(stride, image.size) == 1
    assert -(-image.size // stride) <= 2 * GRID


def test_a_tensor_out_of_memory_order_gives_the_same_numbers() -> None:
    image = np.random.default_rng(3).normal(size=(1, 30, 40, 3)).astype(np.float32)
    turned = image.transpose(0, 3, 1, 2)
    assert not turned.flags.c_contiguous
    assert spread(turned) == spread(np.ascontiguousarray(turned))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_values_that_are_none_neither_warn_nor_raise(value: float) -> None:
    image = np.full((1, 3, 9, 9), value, np.float32)
    meter = meter_of(PICTURE)
    for name, seen in observe_call(PICTURE, {"image": image}, {}):
        meter.saw_value(name, seen)
    sketch = meter.take().values["input.image.mean"]
    assert sketch.missing + sum(sketch.counts) == 1


def test_each_element_of_a_table_row_is_a_value_by_itself() -> None:
    row = np.array([[1.5, 2.5, 3.5]], np.float32)
    assert observe_call(TABLE, {"x": row}, {}) == [("input.x[0]", 1.5), ("input.x[2]", 3.5)]
    longer = np.zeros((1, FEW + 1), np.float32)
    assert observe_call(TABLE, {"x": longer}, {}) == []
    assert observe_call(TABLE, {"other": row}, {}) == []


def test_what_predictions_say() -> None:
    top = {"top": [{"index": 3, "label": None, "score": 0.9}, {"index": 1, "score": 0.1}]}
    boxes = {"boxes": [{"label": "cat", "score": 0.8}, {"label": "dog", "score": 0.4}]}
    assert answered_classes(top) == [("3", 0.9)]
    assert answer_numbers(top) == {"output.confidence": 0.9}
    assert answered_classes(boxes) == [("cat", 0.8), ("dog", 0.4)]
    assert answer_numbers(boxes) == pytest.approx({"output.confidence": 0.6, "output.count": 2.0})
    assert answer_numbers({"boxes": []}) == {"output.count": 0.0}
    assert answer_numbers({"text": "abc", "score": 0.7}) == {"output.confidence": 0.7}
    for none in (None, {}, {"embedding": [1.0]}, {"top": "x"}, {"boxes": [1]}):
        assert answered_classes(none) == []
        assert "output.confidence" not in answer_numbers(none)


def meter_of(reference: Calibrated) -> Meter:
    return Meter(ModelReference(reference.values, reference.classes))


def test_a_meter_takes_every_number() -> None:
    meter = meter_of(PICTURE)
    image, scores = np.full((1, 3, 9, 9), 0.5, np.float32), np.zeros((1, 10), np.float32)
    prediction = {"top": [{"label": "cat", "score": 0.9}]}
    seen = observe(PICTURE, {"image": image}, {"scores": scores}, prediction)
    assert {name for name, _ in seen.values} == set(PICTURE.values)
    for name, value in seen.values:
        meter.saw_value(name, value)
    for label, confidence in seen.classes:
        meter.saw_class(label, confidence)
    stats = meter.take()
    assert all(sum(sketch.counts) == 1 for sketch in stats.values.values())
    assert stats.classes.counts == {"cat": 1}


def test_a_meter_keeps_as_many_sketches_as_a_reference_may_hold() -> None:
    assert telemetry.MAX_SKETCHES == module.MAX_VALUES


def test_it_costs_less_than_a_hundredth_of_a_5_ms_model() -> None:
    image = np.random.default_rng(4).normal(size=(1, 3, 224, 224)).astype(np.float32)
    scores = np.random.default_rng(5).normal(size=(1, 1000)).astype(np.float32)
    prediction = {"top": [{"label": "cat", "score": 0.9}] * 5}

    def once() -> None:
        observe(PICTURE, {"image": image}, {"scores": scores}, prediction)

    # The quickest of many short spells: other work on the machine only ever adds.
    best_s = min(timeit.repeat(once, number=20, repeat=50)) / 20
    assert best_s < 50e-6
