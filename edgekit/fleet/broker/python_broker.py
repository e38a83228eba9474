"""amqtt as the fleet's broker, where no mosquitto is installed: ``python -m … HOME``.

On loopback alone: it bounds neither packets nor what waits for a client. amqtt 0.12 lets a client
into another's session and hands a new one what others have subscribed to; what is overridden here
keeps each account to its own, so a session is its connection's and is named by its account.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

from amqtt.broker import Action, Broker
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler

from edgekit.fleet.broker.access import may_hear, may_publish, may_subscribe
from edgekit.fleet.broker.accounts import is_password, read_passwords
from edgekit.fleet.home import FleetHome
from edgekit.fleet.settings import Settings, load_settings
from edgekit.wire.errors import EdgekitError

_log = logging.getLogger(__name__)


class Guarded(Broker):  # type: ignore[misc]
    """A broker where everybody has an account, and the rights of it.

    Args:
        home: The fleet, with its password file.
        settings: Its settings.
    """

    def __init__(self, home: FleetHome, settings: Settings) -> None:
        bind = f"{settings.broker_host}:{settings.broker_port}"
        super().__init__({"listeners": {"default": {"type": "tcp", "bind": bind}}, "plugins": {}})
        self._home = home
        self._fleet = settings.name
        self._hashes = read_passwords(home)

    async def reload(self) -> None:
        """Read the accounts anew, and hang up on those that are gone or have another password."""
        hashes = read_passwords(self._home)
        gone = {name for name, hashed in self._hashes.items() if hashes.get(name) != hashed}
        self._hashes = hashes
        for session, handler in list(self._sessions.values()):
            if session.username in gone and session.transitions.is_connected():
                await handler.handle_connection_closed()

    def knows(self, session: Any) -> bool:  # noqa: ANN401 - amqtt's
        """Tell whether a session's name and password are an account's, and its will may be said."""
        hashed = self._hashes.get(session.username or "")
        if hashed is None or not is_password(session.password or "", hashed):
            return False
        will = session.will_topic if session.will_flag else None
        return will is None or may_publish(self._fleet, session.username, will)

    async def _initialize_client_session(
        self,
        reader: Any,  # noqa: ANN401 - amqtt's
        writer: Any,  # noqa: ANN401
        _address: str,
        _port: int,
    ) -> tuple[Any, Any]:
        handler, session = await BrokerProtocolHandler.init_from_connect(
            reader, writer, self.plugins_manager
        )
        own = session.client_id if self.knows(session) else ""
        session.client_id = f"{session.username}/{own or secrets.token_hex(8)}"
        session.clean_session, session.parent = True, 0
        before = self._sessions.get(session.client_id)
        if before is not None and before[0].transitions.is_connected():
            await before[1].handle_connection_closed()
            await asyncio.sleep(0.05)  # its will comes before what this connection says
        await self._delete_session(session.client_id)
        return handler, session

    async def _authenticate(self, session: Any, _: Any) -> bool:  # noqa: ANN401
        return self.knows(session)

    async def _topic_filtering(self, session: Any, topic: str, action: Action) -> bool:  # noqa: ANN401
        if session is None or session.username not in self._hashes:
            return False
        asked = {Action.PUBLISH: may_publish, Action.SUBSCRIBE: may_subscribe}
        return asked.get(action, may_hear)(self._fleet, session.username, topic)

    async def _publish_retained_messages_for_subscription(
        self,
        subscription: tuple[str, int],
        session: Any,  # noqa: ANN401
    ) -> None:
        holders = self._subscriptions.get(subscription[0], ())
        if any(holder is session for holder, _ in holders):
            await super()._publish_retained_messages_for_subscription(subscription, session)


async def serve(home: FleetHome) -> None:
    """Serve until SIGTERM or Ctrl-C; SIGHUP reads the accounts anew.

    Args:
        home: The fleet.

    Raises:
        ConfigError: Its settings or accounts cannot be read.
    """
    broker, stop, reload = Guarded(home, load_settings(home)), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    await broker.start()
    waiting = asyncio.create_task(stop.wait())
    while not stop.is_set():
        hears = asyncio.create_task(reload.wait())
        await asyncio.wait((waiting, hears), return_when=asyncio.FIRST_COMPLETED)
        if reload.is_set():
            reload.clear()
            try:
                await broker.reload()
            except EdgekitError as error:
                _log.warning("the accounts stay as they were: %s", error)
        hears.cancel()
    await broker.shutdown()


def main(argv: list[str]) -> int:
    """Run the broker; return the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    # It logs each wrong password and topic, and packets with them.
    logging.getLogger("amqtt").setLevel(logging.ERROR)
    try:
        asyncio.run(serve(FleetHome.open(Path(argv[0]))))
    except EdgekitError as error:
        _log.error("%s %s", error, error.hint or "")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
