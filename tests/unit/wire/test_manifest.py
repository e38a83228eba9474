from __future__ import annotations

import copy
import json
import string
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.wire.canonical import canonical_json
from edgekit.wire.errors import TrustError
from edgekit.wire.manifest import (
    BundleTarget,
    Golden,
    GraphKind,
    Manifest,
    Member,
    OptimizationLevel,
    Pipeline,
    Placement,
    SessionOptions,
    Tensor,
    Tolerance,
    parse_manifest,
)
from edgekit.wire.measurement import Requirement
from edgekit.wire.storedzip import check_names

texts = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=12)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,15}", fullmatch=True)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
numbers = st.floats(-1e12, 1e12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | numbers | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
paths = (
    st.lists(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._+@=-]{0,8}", fullmatch=True), min_size=1)
    .map("/".join)
    .filter(lambda path: check_names([path, "manifest.json", "manifest.sig"]) is None)
)
members = st.dictionaries(
    paths, st.builds(Member, st.integers(0, 2**31), digests), max_size=5
).filter(lambda found: check_names(found) is None)
tensors = st.builds(
    Tensor,
    texts,
    st.sampled_from(["float32", "int64", "uint8", "bool"]),
    st.lists(st.integers(0, 2**20) | texts.filter(bool), max_size=5).map(tuple),
)
bounds = st.one_of(
    st.tuples(numbers, st.none()), st.tuples(st.none(), numbers), st.tuples(numbers, numbers)
)
requirements = st.builds(
    lambda metric, bound, vs: Requirement(metric, bound[0], bound[1], vs),
    texts,
    bounds,
    st.sampled_from(["absolute", "fp32"]),
)


@st.composite
def manifests(draw):
    found = draw(members)
    files = st.dictionaries(texts, st.sampled_from(sorted(found)), max_size=3)
    return Manifest(
        model=draw(names),
        title=draw(texts),
        serial=draw(st.integers(0, 2**53 - 1)),
        license=draw(texts),
        target=BundleTarget(
            draw(names), draw(names), draw(names), draw(texts), draw(st.integers(1, 30)), 4
        ),
        precision=draw(texts),
        pipeline=Pipeline(
            draw(names),
            draw(st.dictionaries(texts, json_values, max_size=3)),
            draw(files) if found else {},
        ),
        inputs=tuple(draw(st.lists(tensors, max_size=2))),
        outputs=tuple(draw(st.lists(tensors, max_size=2))),
        session=SessionOptions(draw(st.sampled_from(get_args(OptimizationLevel))), 4),
        contract=tuple(draw(st.lists(requirements, max_size=3))),
        placement=tuple(
            draw(
                st.lists(
                    st.builds(
                        Placement,
                        texts,
                        st.sampled_from(["int8", "fp32"]),
                        texts,
                        st.integers(0, 10**6),
                    ),
                    max_size=2,
                )
            )
        ),
        golden=Golden(
            draw(st.sampled_from(get_args(GraphKind))),
            Tolerance(draw(st.booleans()), draw(st.floats(0, 1e6)), 0.5, 1.0),
            draw(st.integers(0, 16)),
            draw(texts),
        ),
        plan_sha256=draw(digests),
        tools={"edgekit": draw(texts), "onnx": "1.23.2", "onnxruntime": "1.31.1"},
        key_id=draw(st.text("0123456789abcdef", min_size=8, max_size=8)),
        members=found,
    )


EXAMPLE = Manifest(
    model="tiny",
    title="Tiny",
    serial=3,
    license="MIT",
    target=BundleTarget("rpi5", "arm64", "arm64", "1.31", 17, 4),
    precision="int8 static",
    pipeline=Pipeline("classify-image", {"size": [32, 32]}, {"labels": "pipeline/labels.txt"}),
    inputs=(Tensor("x", "float32", ("N", 3, 32, 32)),),
    outputs=(Tensor("y", "float32", ("N", 10)),),
    session=SessionOptions("all", 4),
    contract=(Requirement("size_mib", maximum=6.0),),
    placement=(Placement("Conv", "int8", "CPUExecutionProvider", 3),),
    golden=Golden("static-int8", Tolerance(True, 0.0, 1.0, 1.0), 16, "arm64"),
    plan_sha256="ab" * 32,
    tools={"edgekit": "0.1.0", "onnx": "1.23.2", "onnxruntime": "1.31.1"},
    members={"pipeline/labels.txt": Member(4, "cd" * 32)},
)


def changed(**fields):
    return canonical_json({**EXAMPLE.to_json(), **fields})


@settings(max_examples=50)
@given(manifests())
def test_what_is_written_is_read_back(manifest):
    data = manifest.to_bytes()
    assert parse_manifest(data) == manifest
    assert parse_manifest(data).to_bytes() == data


@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_else(data):
    with pytest.raises(TrustError):
        parse_manifest(data)


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    if isinstance(value, dict | list):
        for key, item in items:
            yield from (
                places(item, (*path, key)) if isinstance(item, dict | list) else [(*path, key)]
            )


PLACES = [path for path in places(EXAMPLE.to_json()) if path]


@settings(max_examples=400)
@given(st.sampled_from(PLACES), json_values)
def test_any_value_in_any_place_is_read_or_refused(path, value):
    document = copy.deepcopy(EXAMPLE.to_json())
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    try:
        manifest = parse_manifest(canonical_json(document))
    except TrustError:
        return
    assert parse_manifest(manifest.to_bytes()) == manifest


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_every_field_is_mandatory_and_no_other_is_known(path):
    free = path[:2] in {("pipeline", "options"), ("pipeline", "files")} and len(path) > 2
    document = copy.deepcopy(EXAMPLE.to_json())
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    if isinstance(inner, list):
        return  # a shorter list is another list
    value = inner.pop(path[-1])
    if not free:
        with pytest.raises(TrustError):
            parse_manifest(canonical_json(document))
    if not free and path[:-1] not in {("tools",), ("members",)}:
        inner[path[-1]] = value
        inner["zzz"] = value
        with pytest.raises(TrustError):
            parse_manifest(canonical_json(document))


@pytest.mark.parametrize(
    ("fields", "newer"),
    [
        ({"schema": "edgekit.bundle/2"}, True),
        ({"format": 2}, True),
        ({"schema": "edgekit.bundle/2", "format": 9, "more": 1}, True),
        ({"schema": "edgekit.bundle/0"}, False),
        ({"schema": "else"}, False),
        ({"format": 0}, False),
        ({"format": True}, False),
        ({"format": "1"}, False),
    ],
)
def test_a_newer_format_is_named_as_such(fields, newer):
    with pytest.raises(TrustError) as caught:
        parse_manifest(changed(**fields))
    assert ("made by a newer edgekit" in caught.value.message) == newer


def test_another_spelling_is_refused():
    document = EXAMPLE.to_json()
    twice = EXAMPLE.to_bytes().replace(b'"serial":3', b'"serial":3,"serial":3')
    for data in (
        json.dumps(document).encode(),
        json.dumps(document, indent=1).encode(),
        EXAMPLE.to_bytes() + b"\n",
        b"\xef\xbb\xbf" + EXAMPLE.to_bytes(),
        twice,
    ):
        with pytest.raises(TrustError):
            parse_manifest(data)


@pytest.mark.parametrize(
    "path",
    [
        "../x", "/x", "a/../b", "a//b", "./a", ".hidden", "a/.b", "a\\b", "a b", "C:x", "ä", "",
        "a/", "con\0", "x" * 201, "manifest.json", "manifest.sig", "Manifest.JSON",
    ],
)  # fmt: skip
def test_bad_member_names_are_refused(path):
    members = {**EXAMPLE.to_json()["members"], path: {"size_bytes": 1, "sha256": "ab" * 32}}
    with pytest.raises(TrustError):
        parse_manifest(changed(members=members))


@pytest.mark.parametrize("pair", [("a", "A"), ("a", "a/b"), ("x/a", "X/A/b")])
def test_member_names_that_clash_are_refused(pair):
    member = {"size_bytes": 1, "sha256": "ab" * 32}
    base = EXAMPLE.to_json()["members"]
    with pytest.raises(TrustError, match="members"):
        parse_manifest(changed(members={**base, **dict.fromkeys(pair, member)}))


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 5000,
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":1e999}',
        b'{"a":NaN}',
        b'{"a":"\\ud800"}',
        b" " * (1 << 20) + b"{}",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
    ],
    ids=range(12),
)
def test_hostile_json_is_refused(data):
    with pytest.raises(TrustError):
        parse_manifest(data)


def test_options_may_not_be_nested_without_end():
    options = "leaf"
    for _ in range(20):
        options = {"a": options}
    with pytest.raises(TrustError, match="nested"):
        parse_manifest(changed(pipeline={"task": "t", "options": options, "files": {}}))


def test_text_that_would_repaint_a_terminal_is_refused():
    for control in ("\x1b[2J", "a\nb", "\u202e", "\x07"):
        with pytest.raises(TrustError):
            parse_manifest(changed(title=control))


def test_integers_are_spelled_as_the_floats_that_they_are():
    manifest = parse_manifest(changed(contract=[{"metric": "m", "max": 6, "vs": "absolute"}]))
    assert b'"max":6.0' in manifest.to_bytes()


def test_a_number_without_a_float_is_refused():
    with pytest.raises(TrustError):
        parse_manifest(changed(contract=[{"metric": "m", "max": 10**400, "vs": "absolute"}]))


def test_printable_ascii_titles_are_fine():
    title = string.printable.strip() + " ü 模型"
    assert parse_manifest(changed(title=title)).title == title


def test_every_field_is_documented():
    page = (Path(__file__).parents[3] / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    free = {"options", "files", "members"}

    def names(value, key=""):
        if isinstance(value, dict):
            for name, inner in value.items():
                if key not in free:
                    yield name
                yield from names(inner, name)
        elif isinstance(value, list):
            for inner in value:
                yield from names(inner, key)

    missing = {name for name in names(EXAMPLE.to_json()) if f"`{name}`" not in page}
    assert not missing
