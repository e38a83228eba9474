"""Taking a deployment away."""

from __future__ import annotations

from pathlib import PurePosixPath

from edgekit.deploy.decide import choose_way
from edgekit.deploy.events import Board


def uninstall(
    board: Board, host: str, prefix: PurePosixPath, *, service: bool, user: str, purge: bool
) -> list[str]:
    """Take a deployment away.

    Args:
        board: Carries requests.
        host: The board's name in messages.
        prefix: The deployment's folder.
        service: Whether systemd was to run the agent, where it is there.
        user: The service's user.
        purge: The agent's own folder, too.

    Returns:
        What was removed.

    Raises:
        DeviceError: The board cannot be reached, or something cannot be removed.
    """
    probe = board.call({"do": "probe", "prefix": str(prefix)})
    way = choose_way(probe, prefix, host, service=service)
    board.as_root = way.as_root
    place = {"prefix": str(prefix), "config": str(way.config), "state_dir": str(way.state_dir)}
    found = board.call({"do": "look", **place})
    request = {"do": "remove", **place, "user": user if way.service else None, "purge": purge}
    result = board.call(request | {"state_dir": found["state_dir"]})
    return [str(name)[:300] for name in result["removed"]]
