"""Messages: what was written is read, what is hostile is refused, what is newer is survived."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.wire.canonical import canonical_json
from edgekit.wire.desired import MAX_ORDER_BYTES, Desired, open_desired, sign_desired
from edgekit.wire.errors import TrustError
from edgekit.wire.messages import (
    MAX_MESSAGE_BYTES,
    Ack,
    Batch,
    Command,
    Hello,
    Message,
    Reply,
    Reported,
    State,
    acks_for,
    parse_ack,
    parse_batch,
    parse_command,
    parse_hello,
    parse_message,
    parse_reply,
    parse_reported,
    parse_state,
)
from edgekit.wire.signing import generate_key
from edgekit.wire.values import check_value, tidy

BOOT = "0123456789abcdef"
SHA = "ab" * 32
MESSAGE = Message(BOOT, 7, 1760000000.5, "sample", {"cpu_share": 0.25, "models": {"a": [1, None]}})
ROUND_TRIPS = [
    (parse_message, MESSAGE),
    (parse_batch, Batch((MESSAGE, Message(BOOT, 8, 0.0, "event", {})))),
    (parse_ack, Ack(BOOT, 3, 9)),
    (parse_hello, Hello(BOOT, 1.0, "0.1.0", "rpi5", "aarch64", ("ping",), {"python": "3.11.2"})),
    (parse_state, State("offline", BOOT, 1.0, "lost")),
    (
        parse_reported,
        Reported(BOOT, 1.0, {"ocr": SHA}, {"ocr": 3}, "trial", "o-1", "why", {"p95_ms": 4.5}),
    ),
    (parse_reported, Reported(BOOT, 1.0, {})),
    (parse_command, Command("c-1", "ping", {"n": 3})),
    (parse_reply, Reply("c-1", True, {"pong": [1, "x"]})),
    (parse_reply, Reply("c-1", False, error="no", hint="ask again")),
]
PARSERS = sorted({parse for parse, _ in ROUND_TRIPS}, key=lambda parse: parse.__name__)
REPORTS = [(p, m) for p, m in ROUND_TRIPS if p is not parse_command]


@pytest.mark.parametrize(("parse", "message"), ROUND_TRIPS)
def test_what_was_written_is_read(parse, message) -> None:
    assert parse(message.to_bytes()) == message


def test_an_ack_has_the_documented_fields() -> None:
    assert json.loads(Ack(BOOT, 3, 9).to_bytes()) == {"boot_id": BOOT, "from": 3, "to": 9}


@pytest.mark.parametrize(("parse", "message"), REPORTS)
def test_reports_of_newer_writers_are_survived(parse, message) -> None:
    document = json.loads(message.to_bytes()) | {"new_field": {"x": 1}}
    assert parse(json.dumps(document).encode()) == message


def test_a_command_with_an_unknown_field_is_refused() -> None:
    document = json.loads(Command("c", "ping").to_bytes()) | {"only_if": "idle"}
    with pytest.raises(TrustError, match="unknown field 'only_if'"):
        parse_command(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("boot_id", "0123", "not of the form"),
        ("boot_id", "0123456789ABCDEF", "not of the form"),
        ("seq", -1, "within"),
        ("seq", 1.0, "integer"),
        ("seq", True, "integer"),
        ("seq", 2**53, "within"),
        ("time_s", -1, "within"),
        ("time_s", "now", "number"),
        ("kind", "trace", "one of"),
        ("values", [], "object"),
        ("values", {"a": 10**400}, "out of bounds"),
        ("values", {"a": "\x1b[2J"}, "printed"),
        ("values", {"\ud800": 1}, "printed"),
        ("values", {"a": [[[[[[[[[1]]]]]]]]]}, "nested deeper"),
        ("values", {"a": "x" * 4001}, "too long"),
    ],
)
def test_a_wrong_message_is_refused(field: str, value: object, problem: str) -> None:
    document = MESSAGE.to_json() | {field: value}
    with pytest.raises(TrustError, match=problem):
        parse_message(json.dumps(document).encode())


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(constant: str) -> None:
    data = MESSAGE.to_bytes().replace(b"0.25", constant.encode())
    with pytest.raises(TrustError, match="out of bounds"):
        parse_message(data)


def test_a_large_message_is_refused() -> None:
    with pytest.raises(TrustError, match=f"over {MAX_MESSAGE_BYTES} bytes"):
        parse_message(b" " * MAX_MESSAGE_BYTES + MESSAGE.to_bytes())


def test_an_ack_does_not_end_before_it_begins() -> None:
    with pytest.raises(TrustError, match="within 5"):
        parse_ack(b'{"boot_id":"0123456789abcdef","from":5,"to":4}')


@pytest.mark.parametrize("parse", PARSERS)
@settings(max_examples=150)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(parse, data: bytes) -> None:
    try:
        read = parse(data)
    except TrustError:
        return
    assert parse(read.to_bytes()) == read


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@pytest.mark.parametrize(("parse", "message"), ROUND_TRIPS)
@settings(max_examples=100)
@given(data=st.data())
def test_any_value_in_any_field_is_read_or_refused(parse, message, data) -> None:
    document = json.loads(message.to_bytes())
    field = data.draw(st.sampled_from(sorted(document)))
    document[field] = data.draw(_JSON)
    try:
        read = parse(json.dumps(document).encode())
    except TrustError:
        return
    # Whatever was read can be written and read again.
    assert parse(read.to_bytes()) == read


@given(st.dictionaries(st.text(max_size=5), _JSON, max_size=6))
def test_tidy_values_are_taken_by_every_reader(values) -> None:
    tidied = tidy(values)
    check_value(tidied, 8, "values")
    message = Message(BOOT, 0, 0.0, "event", tidied)
    assert parse_message(message.to_bytes()) == message


def test_tidy_leaves_out_what_is_no_number_and_keeps_places_in_lists() -> None:
    values = {
        "a": math.nan,
        "b": [1, math.inf, 3],
        "c": (1, 2),
        "d": b"raw",
        "e": "\x1b[2J",
        "f": 1,
    }
    assert tidy(values) == {"b": [1, None, 3], "c": [1, 2], "e": "?[2J", "f": 1}


def test_acks_do_not_reach_across_gaps() -> None:
    other = "f" * 16
    messages = [
        Message(boot, seq, 0.0, "sample", {})
        for boot, seq in [(BOOT, 4), (BOOT, 3), (BOOT, 6), (other, 7), (BOOT, 3), (other, 8)]
    ]
    assert acks_for(messages) == (Ack(BOOT, 3, 4), Ack(BOOT, 6, 6), Ack(other, 7, 8))


ORDER = Desired(SHA, "https://fleet.example/b/1.ekb", 1234, 3, "o-1", 2_000_000_000, "ocr")


def test_an_order_is_opened_by_the_key_that_signed_it() -> None:
    key = generate_key()
    data = sign_desired(ORDER, key)
    assert open_desired(data, [generate_key().public, key.public], now_s=1.9e9) == ORDER
    assert set(json.loads(data)) == {"key_id", "signature", "signed"}


def test_an_order_by_a_stranger_is_refused() -> None:
    with pytest.raises(TrustError, match="not trusted here"):
        open_desired(sign_desired(ORDER, generate_key()), [generate_key().public], now_s=0)


def test_an_order_that_was_changed_is_refused() -> None:
    key = generate_key()
    data = sign_desired(ORDER, key).replace(b'"serial":3', b'"serial":4')
    with pytest.raises(TrustError, match="signature does not hold"):
        open_desired(data, [key.public], now_s=0)


def test_an_order_expires() -> None:
    key = generate_key()
    data = sign_desired(ORDER, key)
    open_desired(data, [key.public], now_s=ORDER.expires - 0.001)
    with pytest.raises(TrustError, match="has expired"):
        open_desired(data, [key.public], now_s=ORDER.expires)


def test_an_order_for_another_device_is_refused() -> None:
    key = generate_key()
    order = Desired(SHA, ORDER.url, 1, 1, "o", 10, "ocr", device="north/cam-01")
    data = sign_desired(order, key)
    assert open_desired(data, [key.public], now_s=0, device="north/cam-01") == order
    with pytest.raises(TrustError, match="is for north/cam-01"):
        open_desired(data, [key.public], now_s=0, device="north/cam-02")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "file:///etc/passwd"),
        ("url", "https://host/a b"),
        ("url", "javascript:alert(1)"),
        ("bundle_sha256", "AB" * 32),
        ("size_bytes", 0),
        ("size_bytes", 2**40),
        ("serial", -1),
        ("order_id", "../x"),
        ("expires", 1.5),
        ("device", "north"),
        ("model", "../x"),
    ],
)
def test_a_wrong_order_is_not_even_signed(field: str, value: object) -> None:
    with pytest.raises(TrustError):
        sign_desired(Desired(**(vars(ORDER) | {field: value})), generate_key())


def test_a_signature_over_another_schema_is_no_order() -> None:
    key = generate_key()
    signed = ORDER.to_json() | {"schema": "edgekit.bundle/1"}
    data = canonical_json(
        {
            "key_id": key.key_id,
            "signature": key.sign(canonical_json(signed)).hex(),
            "signed": signed,
        }
    )
    with pytest.raises(TrustError, match=r"edgekit.desired/1 is expected"):
        open_desired(data, [key.public], now_s=0)


def test_an_order_has_one_spelling_and_a_bound() -> None:
    key = generate_key()
    data = sign_desired(ORDER, key)
    with pytest.raises(TrustError, match="canonical"):
        open_desired(data.replace(b":", b": ", 1), [key.public], now_s=0)
    with pytest.raises(TrustError, match=f"over {MAX_ORDER_BYTES}"):
        open_desired(data + b" " * MAX_ORDER_BYTES, [key.public], now_s=0)
