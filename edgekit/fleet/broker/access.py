"""Who may say and hear what, as functions: the rights that :func:`.accounts.rights` writes."""

from __future__ import annotations

from edgekit.wire.topics import PREFIX

_LEAVES = frozenset({"telemetry", "state", "hello", "reply", "reported"})
_OWN = "."  # in front of the names of the fleet's own parts


def may_publish(fleet: str, user: str, topic: str) -> bool:
    """Tell whether an account may publish to a topic."""
    root = f"{PREFIX}/{fleet}/"
    if user == ".alerts" and topic.startswith("edgekit-alerts/"):
        return True
    if not topic.startswith(root):
        return False
    if user in {".web", ".alerts"}:
        return True
    device, _, leaf = topic.removeprefix(root).partition("/")
    if user == ".ingest":
        return leaf == "ack"
    return device == user and (leaf in _LEAVES or leaf.startswith("output/"))


def may_hear(fleet: str, user: str, topic: str) -> bool:
    """Tell whether an account may be given a message of this topic."""
    root = f"{PREFIX}/{fleet}/"
    return topic.startswith(root if user.startswith(_OWN) else f"{root}{user}/")


def may_subscribe(fleet: str, user: str, topic_filter: str) -> bool:
    """Tell whether an account may subscribe to a filter; a device, below its own topics alone."""
    return user.startswith(_OWN) or topic_filter.startswith(f"{PREFIX}/{fleet}/{user}/")
