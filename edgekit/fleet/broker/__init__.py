"""The fleet's broker: who may connect, who may say what, and the process itself."""

from edgekit.fleet.broker.accounts import Role, credentials

__all__ = ["Role", "credentials"]
