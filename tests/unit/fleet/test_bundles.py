"""Bundles are put aside whole or not at all, and served by their digest alone."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from edgekit.fleet.bundles import (
    BundleApp,
    _range,
    bundle_path,
    bundle_url,
    put_bundle,
    read_offer,
)
from edgekit.toolchain.pack import write_bundle
from edgekit.wire.canonical import sha256_hex
from edgekit.wire.errors import TrustError, UsageError
from edgekit.wire.manifest import Requirement
from edgekit.wire.signing import generate_key

DATA = bytes(range(256)) * 5000
NAME = sha256_hex(DATA)


class Served:
    """A folder behind a real HTTP server."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        app = Starlette(routes=[Mount("/bundles", BundleApp(folder, **options))])
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True
        )
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def get(
        self, path: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(  # noqa: S310 - our own
            self.base + path, headers=headers or {}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture
def served(tmp_path) -> Iterator[Served]:
    folder = tmp_path / "bundles"
    folder.mkdir()
    bundle_path(folder, NAME).write_bytes(DATA)
    (tmp_path / "secret").write_text("secret")
    made = Served(folder)
    yield made
    made.stop()


def test_a_bundle_is_served_whole_and_from_where_one_stopped(served):
    url = bundle_url("", NAME)
    status, headers, body = served.get(url)
    assert (status, body, headers["etag"]) == (200, DATA, f'"{NAME}"')
    for first in (0, 1, 262_143, 262_144, len(DATA) - 1):
        status, headers, body = served.get(url, {"Range": f"bytes={first}-"})
        assert (status, body) == (206, DATA[first:])
        assert headers["content-range"] == f"bytes {first}-{len(DATA) - 1}/{len(DATA)}"
    assert served.get(url, {"Range": "bytes=-5"})[2] == DATA[-5:]
    assert served.get(url, {"Range": "bytes=3-7"})[2] == DATA[3:8]
    status, headers, _ = served.get(url, {"Range": f"bytes={len(DATA)}-"})
    assert (status, headers["content-range"]) == (416, f"bytes */{len(DATA)}")
    assert served.get(url, {"Range": "bytes=1-2", "If-Range": '"x"'})[0] == 200
    status, headers, body = served.get(url, method="HEAD")
    assert (status, headers["content-length"], body) == (200, str(len(DATA)), b"")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/../secret",
        "/%2e%2e/secret",
        f"/{NAME}",
        f"/{NAME.upper()}.ekb",
        f"/x/{NAME}.ekb",
        f"/{NAME}.ekb/",
        f"/{NAME}.ekb%00",
        f"/.{NAME}.part",
        f"/{'0' * 64}.ekb",
    ],
)
def test_nothing_else_is_there(served, path):
    assert served.get(f"/bundles{path}")[0] == 404


def test_a_link_leads_nowhere(served):
    (served.folder / f"{'1' * 64}.ekb").symlink_to(served.folder.parent / "secret")
    (served.folder / f"{'2' * 64}.ekb").mkdir()
    assert served.get(f"/bundles/{'1' * 64}.ekb")[0] == 404
    assert served.get(f"/bundles/{'2' * 64}.ekb")[0] == 404


def test_only_reading_is_allowed(served):
    assert served.get(bundle_url("", NAME), method="DELETE")[0] == 405
    assert served.get(bundle_url("", NAME), method="PUT")[0] == 405


def test_one_too_many_is_told_to_come_again(tmp_path):
    bundle_path(tmp_path, NAME).write_bytes(DATA * 40)
    served = Served(tmp_path, max_downloads=1)
    with socket.create_connection(("127.0.0.1", served.socket.getsockname()[1])) as slow:
        slow.sendall(f"GET {bundle_url('', NAME)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert slow.recv(10)
        status, headers, _ = served.get(bundle_url("", NAME))
        assert (status, headers["retry-after"]) == (503, "10")
    deadline = time.monotonic() + 10
    while served.get(bundle_url("", NAME), method="HEAD")[0] != 200:
        assert time.monotonic() < deadline, "the place is free again"
        time.sleep(0.05)
    served.stop()


def test_a_device_that_takes_nothing_is_hung_up_on(tmp_path):
    bundle_path(tmp_path, NAME).write_bytes(DATA)
    app = BundleApp(tmp_path, max_downloads=1, stall_s=0.05)
    scope = {"type": "http", "method": "GET", "path": f"/{NAME}.ekb", "headers": []}

    async def never(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        asyncio.run(app(scope, never, never))  # type: ignore[arg-type]
    assert app._free == 1


def test_a_bundle_is_verified_and_put_aside_once(tmp_path, small_bundle):
    folder = tmp_path / "bundles"
    keys = [small_bundle.private_key.public]
    offer = put_bundle(folder, small_bundle.path, keys)
    assert (offer.model, offer.target, offer.serial) == ("small-conv", "rpi5", 1)
    assert offer.p95_limit_ms is None
    place = bundle_path(folder, offer.sha256)
    assert place.read_bytes() == small_bundle.path.read_bytes()
    before = place.stat().st_mtime_ns
    assert put_bundle(folder, small_bundle.path, keys) == offer
    assert place.stat().st_mtime_ns == before
    assert [path.name for path in folder.iterdir()] == [place.name]
    assert read_offer(place, None) == dataclasses.replace(offer, signed_by="")


def test_a_damaged_offer_is_replaced(tmp_path, small_bundle):
    keys = [small_bundle.private_key.public]
    offer = put_bundle(tmp_path, small_bundle.path, keys)
    bundle_path(tmp_path, offer.sha256).write_bytes(b"half")
    put_bundle(tmp_path, small_bundle.path, keys)
    assert read_offer(bundle_path(tmp_path, offer.sha256), keys) == offer


def test_what_nobody_trusted_has_signed_is_not_offered(tmp_path, small_bundle):
    with pytest.raises(TrustError):
        put_bundle(tmp_path, small_bundle.path, [generate_key("other").public])
    with pytest.raises(UsageError, match="no such bundle"):
        put_bundle(tmp_path, tmp_path / "none.ekb", [])
    assert list(tmp_path.iterdir()) == []


def test_the_contracts_limit_is_read(tmp_path, small_bundle):
    contract = tuple(
        Requirement(metric="latency_p95_ms", minimum=None, maximum=limit, vs=vs)
        for limit, vs in ((25.0, "absolute"), (20.0, "absolute"), (1.0, "fp32"))
    )
    path = tmp_path / "b.ekb"
    manifest = dataclasses.replace(small_bundle.manifest, contract=contract)
    write_bundle(path, manifest, small_bundle.members, small_bundle.private_key)
    assert read_offer(path, [small_bundle.private_key.public]).p95_limit_ms == 20.0


@given(st.integers(1, 1000), st.text("0123456789-, bytes=", max_size=20))
def test_any_range_is_within_the_file_or_refused(size, text):
    found = _range({b"range": text.encode()}, size, b"e")
    if found is not None:
        first, last, status = found
        assert 0 <= first <= last < size
        assert status in {200, 206}
        assert status == 206 or (first, last) == (0, size - 1)


@given(st.integers(1, 1000), st.integers(0, 1100))
def test_an_open_range_is_the_rest(size, first):
    found = _range({b"range": f"bytes={first}-".encode()}, size, b"e")
    assert found == ((first, size - 1, 206) if first < size else None)
