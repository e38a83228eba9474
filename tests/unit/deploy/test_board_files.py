"""Files that come over: whole and right, or not there."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.deploy.board.channel import BoardError, Channel, printable
from edgekit.deploy.board.environment import environment_path
from edgekit.deploy.board.files import alone, file_path, have, put

DATA = bytes(range(256)) * 8192  # 2 MiB
SHA256 = hashlib.sha256(DATA).hexdigest()


def item(**changed: Any) -> dict[str, Any]:
    return {"name": "a.whl", "sha256": SHA256, "size_bytes": len(DATA)} | changed


def send(prefix: Path, data: bytes, **changed: Any) -> list[dict[str, Any]]:
    sink = io.BytesIO()
    request = {"prefix": str(prefix), "files": [item(**({"offset": 0} | changed))]}
    put(request, Channel(io.BytesIO(data), sink))
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def there(prefix: Path) -> int:
    found: int = have({"prefix": str(prefix), "files": [item()]})["have"][0]
    return found


def test_a_file_comes_over_whole_and_says_how_far_it_is(tmp_path: Path) -> None:
    events = send(tmp_path, DATA)
    assert [event["done"] for event in events] == [1 << 20, 1 << 20]
    assert file_path(tmp_path, SHA256, "a.whl").read_bytes() == DATA
    assert there(tmp_path) == len(DATA)


def test_it_goes_on_from_where_it_broke(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="the connection ended"):
        send(tmp_path, DATA[:1_000_000])
    had = there(tmp_path)
    assert had == 1_000_000
    send(tmp_path, DATA[had:], offset=had)
    assert there(tmp_path) == len(DATA)


def test_what_came_over_damaged_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="damaged"):
        send(tmp_path, b"x" + DATA[1:])
    assert there(tmp_path) == 0
    assert not file_path(tmp_path, SHA256, "a.whl").exists()


@pytest.mark.parametrize("name", ["../a.whl", "", "a/b.whl", "a\nb", "-rf"])
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BoardError):
        file_path(tmp_path, SHA256, name)
    with pytest.raises(BoardError):
        file_path(tmp_path, "../" + SHA256, "a.whl")
    with pytest.raises(BoardError):
        environment_path(tmp_path, f"../{name}")


def test_two_deployments_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.deploy.board.files._LOCK_S", 0.3)
    with (
        alone(tmp_path),
        pytest.raises(BoardError, match="another deployment is at work"),
        alone(tmp_path),
    ):
        pass
    with alone(tmp_path):
        pass


def test_a_line_of_a_program_cannot_repaint_a_terminal() -> None:
    assert printable("\x1b[2Jhello\r\x00 there\u202e\n") == "[2Jhello   there"
    assert len(printable("x" * 5000)) == 300
