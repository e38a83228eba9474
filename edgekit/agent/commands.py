"""Commands from the fleet: done once, answered always, remembered for a while.

MQTT's QoS 1 delivers at least once, and a fleet that got no reply asks again. A repeated id gets
the reply that is remembered, and nothing is done twice; the same id with other words is an error.
What is remembered is bounded by number and by bytes, so ids are to be unique and not reused.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgekit.wire.canonical import Json, canonical_json, sha256_hex
from edgekit.wire.errors import EdgekitError, TrustError, did_you_mean
from edgekit.wire.messages import MAX_CONTROL_BYTES, Command, Reply, parse_command
from edgekit.wire.strict import parse_object
from edgekit.wire.values import tidy

MAX_REMEMBERED = 256
MAX_REMEMBERED_BYTES = 1 << 20
MAX_ERROR = 500

Handler = Callable[[Mapping[str, Json]], Json]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Known:
    digest: str
    reply: bytes | None


class Commands:
    """Reads commands and does them. Of its methods, :meth:`run` may be called from any thread.

    Args:
        handlers: Name to what does it: takes the arguments, returns the result. An
            :class:`EdgekitError` it raises becomes the reply's error with its hint.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = {"ping": _ping, **handlers}
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._bytes = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The commands that there are."""
        return tuple(sorted(self._handlers))

    def accept(self, payload: bytes) -> Command | bytes | None:
        """Read a command that came over the network.

        Args:
            payload: Whatever was sent.

        Returns:
            A command to :meth:`run`, whose reply goes to :meth:`remember`; or the reply that can be
            given at once; or None where it is being done already.

        Raises:
            TrustError: Not a command, and without a readable id that an error could be sent to.
        """
        try:
            command = parse_command(payload)
        except TrustError as error:
            return _refusal(payload, error)
        known = self._known.get(command.id)
        digest = sha256_hex(command.to_bytes())
        if known is not None and known.digest != digest:
            return failed(command.id, "the id was used for another command", "take a new id")
        if known is not None:
            return known.reply
        if command.name not in self._handlers:
            close = did_you_mean(command.name, self._handlers)
            hint = f"did you mean {close}?" if close else f"there are: {', '.join(self.names)}"
            return failed(command.id, f"no command is named {command.name}", hint)
        self._known[command.id] = _Known(digest, None)
        self._forget()
        return command

    def run(self, command: Command) -> bytes:
        """Do a command; never raises.

        Returns:
            The reply.
        """
        try:
            result = tidy({"result": self._handlers[command.name](command.args)}).get("result")
            reply = Reply(command.id, True, result).to_bytes()
        except EdgekitError as error:
            return failed(command.id, str(error), error.hint or "")
        except Exception as error:  # handlers are other people's code; the link must outlive them
            log.exception("the command %s failed", command.name)
            return failed(command.id, f"{type(error).__name__}: {error}", "see the agent's log")
        if len(reply) > MAX_CONTROL_BYTES:
            return failed(
                command.id, f"the result is over {MAX_CONTROL_BYTES} bytes", "ask for less"
            )
        return reply

    def remember(self, command_id: str, reply: bytes) -> None:
        """Keep a reply for when the id comes again."""
        known = self._known.get(command_id)
        if known is not None and known.reply is None:
            self._known[command_id] = _Known(known.digest, reply)
            self._bytes += len(reply)
            self._forget()

    def forget(self, command_id: str) -> None:
        """Drop an id whose command could not be begun, so that it may come again."""
        known = self._known.pop(command_id, None)
        self._bytes -= len(known.reply or b"") if known else 0

    def _forget(self) -> None:
        while len(self._known) > MAX_REMEMBERED or self._bytes > MAX_REMEMBERED_BYTES:
            self.forget(next(iter(self._known)))


def failed(command_id: str, error: str, hint: str = "") -> bytes:
    """Return the reply that says why a command was not done."""
    texts = tidy({"error": error[:MAX_ERROR], "hint": hint[:MAX_ERROR]})
    plain = {key: " ".join(str(text).split()) for key, text in texts.items()}
    return Reply(command_id, False, **plain).to_bytes()


def _refusal(payload: bytes, error: TrustError) -> bytes:
    """Return an error reply if the id can be read, else raise."""
    document = parse_object(payload, "command", most_bytes=MAX_CONTROL_BYTES)
    try:
        named = canonical_json({"id": document.get("id"), "name": "x", "args": {}})
    except ValueError:  # NaN, or half of a surrogate pair
        raise error from None
    return failed(parse_command(named).id, str(error), "docs/mqtt.md has the form of a command")


def _ping(args: Mapping[str, Json]) -> Json:
    return {"pong": args.get("echo")}
