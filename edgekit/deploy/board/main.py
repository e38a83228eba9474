"""One request: read it, do it, say what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from edgekit.deploy.board.activate import activate, remove
from edgekit.deploy.board.channel import BoardError, Channel, Request
from edgekit.deploy.board.environment import make_environment, self_test
from edgekit.deploy.board.files import have, put
from edgekit.deploy.board.look import look, probe

# These end when the connection does. An upload ends by itself then; a switch goes on to its end.
_ENDS = ("environment", "self-test")


def main() -> int:
    """Serve the request on stdin."""
    channel = Channel(sys.stdin.buffer, sys.stdout.buffer)
    request = channel.request()
    if request["do"] in _ENDS:
        channel.end_with_connection()
    try:
        channel.send(result=_do(request, channel))
    except BoardError as error:
        channel.send(error=error.message, hint=error.hint, kind=error.kind, said=list(error.said))
    return 0


def _do(request: Request, channel: Channel) -> dict[str, Any]:
    plain: dict[str, Callable[[Request], dict[str, Any]]] = {
        "probe": probe,
        "look": look,
        "have": have,
        "self-test": self_test,
        "remove": remove,
    }
    telling: dict[str, Callable[[Request, Channel], dict[str, Any]]] = {
        "put": put,
        "environment": make_environment,
        "activate": activate,
    }
    name = request["do"]
    if name in telling:
        return telling[name](request, channel)
    return plain[name](request)
