"""The task tensors: arrays in, arrays out, whatever the file holds."""

from __future__ import annotations

import contextlib
import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekit.runtime.tasks import create_task
from edgekit.runtime.tasks.tensors import MAX_VALUES
from edgekit.wire.errors import ConfigError, EdgekitError

numbers = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=1, max_dims=3, max_side=6),
    elements=st.floats(-1e3, 1e3, width=32),
)


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**named) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    return buffer.getvalue()


def nothing(_feeds):
    return {}


def task(*names: str):
    return create_task("tensors", {"inputs": list(names)}, {})


@given(a=numbers, b=numbers)
def test_feeds_are_the_arrays_of_the_file(a, b):
    fed = {}

    def run(feeds):
        fed.update(feeds)
        return {"sum": np.float32([feeds["a"].sum()])}

    prediction = task("a", "b").predict(run, npz(b=b, a=a, more=b))
    assert set(fed) == {"a", "b"}
    assert np.array_equal(fed["a"], a)
    assert np.array_equal(fed["b"], b)
    assert prediction["outputs"]["sum"]["shape"] == [1]


@given(a=numbers)
def test_a_lone_array_goes_to_the_only_input(a):
    prediction = task("x").predict(lambda feeds: {"y": feeds["x"]}, npy(a))
    assert prediction["outputs"]["y"]["shape"] == list(a.shape)
    assert prediction["outputs"]["y"]["values"] == a.ravel().tolist()
    with pytest.raises(ConfigError, match='no array "x"'):
        task("x", "y").predict(nothing, npy(a))


@given(st.integers(min_value=0, max_value=4 * MAX_VALUES))
def test_large_outputs_are_thinned(size):
    prediction = task("x").predict(lambda _: {"y": np.arange(size)}, npy(np.zeros(1)))
    output = prediction["outputs"]["y"]
    assert output["shape"] == [size]
    assert min(size, 1) <= len(output["values"]) <= MAX_VALUES


@given(a=numbers, scale=st.floats(0.01, 100))
def test_agreement_is_the_cosine_of_the_worst_output(a, scale):
    one = {"outputs": {"p": {"values": a.ravel().tolist()}, "q": {"values": [1.0, 0.0]}}}
    scaled = {
        "outputs": {
            **one["outputs"],
            "p": {"values": (a.ravel().astype(np.float64) * scale).tolist()},
        }
    }
    turned = {"outputs": {**one["outputs"], "q": {"values": [0.0, 1.0]}}}
    against = {"outputs": {**one["outputs"], "q": {"values": [-1.0, 0.0]}}}
    longer = {"outputs": {**one["outputs"], "q": {"values": [1.0, 0.0, 0.0]}}}
    agreement = task("x").agreement([one] * 4, [scaled, turned, against, longer])
    assert agreement.metric == "output_cosine"
    assert agreement.scores[0] == pytest.approx(1.0, abs=1e-6)
    assert agreement.scores[1:] == (0.0, 0.0, 0.0)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_error_of_ours_or_a_sample(data):
    for junk in (data, b"PK\x03\x04" + data, b"\x93NUMPY" + data, b"\x93NUMPY\x01\x00" + data):
        with pytest.raises(EdgekitError):
            task("x").predict(nothing, junk)


@given(st.data())
def test_a_damaged_file_is_an_error_of_ours_or_a_sample(data):
    whole = bytearray(npz(x=np.arange(12, dtype=np.float32)))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    damaged = bytes(whole[: data.draw(st.integers(1, len(whole)))])
    with contextlib.suppress(EdgekitError):  # any other error is ours to mend
        task("x").predict(nothing, damaged)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(bad):
    with pytest.raises(ConfigError, match='input "x" is not finite'):
        task("x").predict(nothing, npz(x=np.float32([1, bad])))


def test_objects_are_never_unpickled():
    with pytest.raises(ConfigError, match="plain arrays"):
        task("x").predict(nothing, npz(x=np.array([print], dtype=object)))


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused():
    buffer = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (300 << 20,)}
    )
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(300):
            member.write(bytes(1 << 20))
    assert len(buffer.getvalue()) < 4 << 20
    with pytest.raises(ConfigError, match="over 256 MiB"):
        task("x").predict(nothing, buffer.getvalue())


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({}, {}),
        ({"inputs": "x"}, {}),
        ({"inputs": ["x"], "more": 1}, {}),
        ({"inputs": ["x"]}, {"f": b""}),
    ],
)
def test_options(options, files):
    with pytest.raises(ConfigError, match="takes one option"):
        create_task("tensors", options, files)
