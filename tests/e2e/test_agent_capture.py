"""The command capture and HTTPS, with a whole agent and a real broker."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.wire.messages import Command
from edgekit.wire.topics import topic

from ..agent_board import DEVICE, FLEET, MODEL, Board, sample_of, settings_for, until  # noqa: TID252
from ..agent_broker import Authority, Broker  # noqa: TID252
from ..agent_receiver import Receiver  # noqa: TID252

pytestmark = pytest.mark.mosquitto


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Broker(tmp_path / "broker") as broker:
        made = Receiver(broker.port, tmp_path / "store.db")
        made.port = broker.port
        yield made.start()
        made.stop()


@pytest.fixture
def board(tmp_path, small_bundle, receiver) -> Iterator[Board]:
    folder = tmp_path / "board"
    folder.mkdir()
    made = Board(folder, small_bundle.private_key, settings_for(small_bundle, receiver.port))
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


def ask(receiver: Receiver, number: str, **args: Any) -> None:
    command = Command(number, "capture", {"model": MODEL, "within_s": 20, **args})
    receiver.say(topic(FLEET, DEVICE, "command"), command.to_bytes())


def reply(receiver: Receiver, number: str) -> Any:
    told = [r for p, r in list(receiver.heard) if p.endswith("/reply")]
    return next((r for r in map(json.loads, told) if r["id"] == number), None)


def test_captured_inputs_are_kept_and_sent(board, receiver, small_bundle):
    board.settings["capture"] = {"allowed": True}
    board.start()
    until(board.confirmed)
    sample = sample_of(small_bundle)
    ask(receiver, "one", n=2, to="both")

    def answered():
        board.infer(sample)
        return reply(receiver, "one")

    result = until(answered)["result"]
    assert (result["kept"], result["published"]) == (2, 2)
    files = sorted(Path(result["folder"]).iterdir())
    assert [f.read_bytes() for f in files] == [sample, sample]
    place = topic(FLEET, DEVICE, "output", "capture")
    until(lambda: [p for t, p in receiver.heard if t == place] == [sample, sample])

    ask(receiver, "one", n=2, to="both")
    until(lambda: len(receiver.of("reply")) == 2)
    assert receiver.of("reply")[1]["result"] == result, "not done again"


def test_a_device_that_does_not_allow_it_keeps_its_inputs(board, receiver):
    board.start()
    until(board.serves)
    ask(receiver, "two")
    answer = until(lambda: reply(receiver, "two"))
    assert not answer["ok"]
    assert "allow" in answer["hint"]
    assert not (board.folder / "state" / "captures").exists()


def test_https(board, small_bundle, tmp_path):
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("board", ("localhost",))
    board.settings["http"] = {
        "port": 0,
        "host": "localhost",
        "tls": {"cert_file": str(certificate), "key_file": str(key)},
    }
    board.start()
    until(board.serves)
    url = board.status()["http"]
    assert url.startswith("https://localhost:")
    request = urllib.request.Request(f"{url}infer/{MODEL}", data=sample_of(small_bundle))  # noqa: S310
    trusted = ssl.create_default_context(cafile=authority.path)
    with urllib.request.urlopen(request, context=trusted) as answer:  # noqa: S310
        assert json.loads(answer.read())["outputs"]
    stranger = ssl.create_default_context(cafile=Authority(tmp_path / "other").path)
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(request, context=stranger)  # noqa: S310
    with pytest.raises(OSError):  # noqa: PT011 - reset or hung up, by the kernel's mood
        urllib.request.urlopen(url.replace("https", "http"), timeout=10)  # noqa: S310
    with urllib.request.urlopen(f"{url}v2/health/live", context=trusted) as answer:  # noqa: S310
        assert answer.status == 200


def test_a_certificate_that_cannot_be_read_is_a_mistake_in_the_settings(board, tmp_path):
    (tmp_path / "bad.pem").write_text("no certificate")
    bad = str(tmp_path / "bad.pem")
    board.settings["http"] = {"port": 0, "tls": {"cert_file": bad, "key_file": bad}}
    board.start()
    assert board.process is not None
    assert board.process.wait(60) == 3
    assert "http.tls.cert_file" in board.log()
