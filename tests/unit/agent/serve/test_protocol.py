"""What the fast lane reads, and what it leaves to h11."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.agent.serve.protocol import MAX_HEAD_BYTES, plain_request

LINE = b"POST /infer/digits-cnn HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"
LENGTH = b"Content-Length: 5\r\n"


def test_a_plain_request_is_read() -> None:
    request = plain_request(
        LINE + HOST + LENGTH + b"X-Empty:\r\nAuthorization: \t Bearer a b \r\n\r\nhello"
    )
    assert request is not None
    assert (request.method, request.path, request.body) == ("POST", "/infer/digits-cnn", b"hello")
    assert request.headers == {
        b"host": b"localhost",
        b"content-length": b"5",
        b"x-empty": b"",
        b"authorization": b"Bearer a b",
    }


@pytest.mark.parametrize(
    "data",
    [
        LINE + HOST + LENGTH + b"\r\nhell",
        LINE + HOST + LENGTH + b"\r\nhello!",
        LINE + HOST + LENGTH + LENGTH + b"\r\nhello",
        LINE + HOST + HOST + LENGTH + b"\r\nhello",
        LINE + LENGTH + b"\r\nhello",
        LINE + HOST + b"\r\nhello",
        LINE + HOST + b"Content-Length: +5\r\n\r\nhello",
        LINE + HOST + b"Content-Length: 0000000005\r\n\r\nhello",
        LINE + HOST + b"Content-Length: \xb2\r\n\r\nhe",
        LINE + HOST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\nhello",
        LINE + HOST + LENGTH + b"Expect: 100-continue\r\n\r\nhello",
        LINE + HOST + LENGTH + b"Upgrade: websocket\r\n\r\nhello",
        LINE + HOST + LENGTH + b"Connection: close\r\n\r\nhello",
        LINE + HOST + LENGTH + b"X : y\r\n\r\nhello",
        LINE + HOST + LENGTH + b" folded\r\n\r\nhello",
        LINE + HOST + LENGTH + b"X: a\x00b\r\n\r\nhello",
        LINE + HOST + LENGTH + b"X: \xe9\r\n\r\nhello",
        LINE + HOST + LENGTH + b"X: a\nY: b\r\n\r\nhello",
        LINE + HOST + LENGTH + b"X: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\nhello",
        LINE + HOST + LENGTH + b"".join(b"X%d: y\r\n" % i for i in range(60)) + b"\r\nhello",
        LINE.replace(b"POST", b"post") + HOST + LENGTH + b"\r\nhello",
        LINE.replace(b"1.1", b"1.0") + HOST + LENGTH + b"\r\nhello",
        LINE.replace(b"digits-cnn", b"digits%2dcnn") + HOST + LENGTH + b"\r\nhello",
        LINE.replace(b"digits-cnn", b"digits-cnn?a=1") + HOST + LENGTH + b"\r\nhello",
        LINE.replace(b"/infer/", b"/live/") + HOST + LENGTH + b"\r\nhello",
        b"",
    ],
)
def test_everything_else_is_left_to_h11(data: bytes) -> None:
    assert plain_request(data) is None


@given(st.binary(max_size=60), st.integers(0, 80), st.integers(0, 3))
@settings(max_examples=500, deadline=None)
def test_whatever_is_changed_the_body_is_as_long_as_stated(
    noise: bytes, place: int, cut: int
) -> None:
    data = LINE + HOST + LENGTH + b"\r\nhello"
    request = plain_request(data[:place] + noise + data[place + cut :])
    if request is not None:
        assert int(request.headers[b"content-length"]) == len(request.body)
        assert request.method == "POST"
