"""Who may do what: users, their sessions in browsers, and tokens for programs.

Of passwords, sessions and tokens only hashes are kept. Roles build on each other: a viewer sees, an
operator also silences alerts and calls orders back, an admin also manages users and sees the audit
log.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import sqlalchemy as sa

from edgekit.fleet.store.schema import sessions, tokens, users
from edgekit.fleet.web.passwords import check_password, hash_password
from edgekit.wire.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from sqlalchemy import Engine

SESSION_S = 7 * 86_400.0
TOKEN_PREFIX = "edgekit_"  # noqa: S105 - so that a token is known where it leaks
FIRST_ADMIN = "admin"
_USED_S = 60.0
_MOST_TOKENS = 100
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}", re.ASCII)


class Role(IntEnum):
    """What somebody may do; a higher one may do all that a lower one may."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """As it is kept and shown."""
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> Role:
        """Read a role.

        Raises:
            UsageError: There is none of this name.
        """
        names = [role.word for role in cls]
        if word not in names:
            near = did_you_mean(word, names)
            hint = f"did you mean {near}?" if near else ", ".join(names)
            raise UsageError(f"no role is named {word[:40]!r}", hint=hint)
        return cls[word.upper()]


@dataclass(frozen=True)
class Identity:
    """Who asks.

    Attributes:
        user: Name.
        role: What they may do now.
        csrf: Secret of the session's forms; empty for a token.
        key: Hash of the session; empty for a token.
    """

    user: str
    role: Role
    csrf: str = ""
    key: str = ""


@dataclass(frozen=True)
class UserRow:
    """A user; ``has_password`` is false for one who comes in by token alone."""

    name: str
    role: str
    created_s: float
    has_password: bool


@dataclass(frozen=True)
class TokenRow:
    """A token for programs, without its secret."""

    id: str
    name: str
    user: str
    role: str
    created_s: float
    expires_s: float | None
    used_s: float | None


class Accounts:
    """Users, sessions and tokens of a fleet.

    Args:
        engine: Of the store.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def set_user(self, name: str, role: Role, password: str | None, now_s: float) -> None:
        """Make a user, or give one another role or password; old sessions end then.

        Args:
            name: Small letters, digits and ``._@-``.
            role: What they may do.
            password: None leaves it as it is, or makes a user without one.
            now_s: Unix time.

        Raises:
            UsageError: The name or the password will not do, or nobody would be admin any more.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(f"no user can be named {name[:80]!r}", hint="small letters and digits")
        kept = None if password is None else hash_password(password, secrets.token_bytes)
        with self._engine.begin() as connection:
            row = self._row(connection, name)
            if row is None:
                values = {"name": name, "role": role.word, "password": kept or ""}
                connection.execute(
                    sa.insert(users).values(**values, created_s=now_s, disabled=False)
                )
                return
            if role is not Role.ADMIN and row.role == Role.ADMIN.word:
                self._keep_an_admin(connection, name)
            changed = {"role": role.word} | ({} if kept is None else {"password": kept})
            connection.execute(sa.update(users).where(users.c.name == name).values(**changed))
            if kept is not None:
                connection.execute(sa.delete(sessions).where(sessions.c.user == name))

    def set_password(self, name: str, password: str) -> None:
        """Give a user another password; their sessions end, their role stays.

        Raises:
            UsageError: The password will not do.
        """
        kept = hash_password(password, secrets.token_bytes)
        with self._engine.begin() as connection:
            connection.execute(sa.update(users).where(users.c.name == name).values(password=kept))
            connection.execute(sa.delete(sessions).where(sessions.c.user == name))

    def remove_user(self, name: str) -> None:
        """Remove a user, with their sessions and tokens.

        Raises:
            UsageError: There is none of this name, or nobody would be admin any more.
        """
        with self._engine.begin() as connection:
            row = self._row(connection, name)
            if row is None:
                raise UsageError(f"no user is named {name[:80]!r}")
            if row.role == Role.ADMIN.word:
                self._keep_an_admin(connection, name)
            connection.execute(sa.delete(sessions).where(sessions.c.user == name))
            connection.execute(sa.delete(tokens).where(tokens.c.user == name))
            connection.execute(sa.delete(users).where(users.c.name == name))

    def users(self) -> Sequence[UserRow]:
        """Return all users, by name."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(users).order_by(users.c.name))
            return [UserRow(row.name, row.role, row.created_s, bool(row.password)) for row in found]

    def check(self, name: str, password: str) -> bool:
        """Tell whether somebody may log in; takes a tenth of a second whatever the answer."""
        with self._engine.connect() as connection:
            row = self._row(connection, name)
        is_right = check_password(password, row.password if row is not None else "")
        return is_right and row is not None and not row.disabled

    def log_in(self, user: str, now_s: float) -> str:
        """Begin a session of a user who was checked; return the secret of its cookie."""
        secret = secrets.token_urlsafe(32)
        with self._engine.begin() as connection:
            connection.execute(sa.delete(sessions).where(sessions.c.expires_s < now_s))
            connection.execute(
                sa.insert(sessions).values(
                    hash=_hash(secret),
                    user=user,
                    csrf=secrets.token_urlsafe(24),
                    created_s=now_s,
                    expires_s=now_s + SESSION_S,
                )
            )
        return secret

    def first_login(self, now_s: float) -> str:
        """Begin a session of the admin, who is made where there is none yet."""
        with self._engine.connect() as connection:
            row = self._row(connection, FIRST_ADMIN)
        if row is None:
            self.set_user(FIRST_ADMIN, Role.ADMIN, None, now_s)
        return self.log_in(FIRST_ADMIN, now_s)

    def log_out(self, key: str) -> None:
        """End a session."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(sessions).where(sessions.c.hash == key))

    def session(self, secret: str, now_s: float) -> Identity | None:
        """Return whose session a cookie is of; None where it is of none."""
        return self.session_of(_hash(secret), now_s)

    def session_of(self, key: str, now_s: float) -> Identity | None:
        """Return whose session this is, by its hash; None where it has ended."""
        s, u = sessions.c, users.c
        joined = sessions.join(users, u.name == s.user)
        query = sa.select(s.csrf, u.name, u.role).select_from(joined)
        query = query.where(s.hash == key, s.expires_s > now_s, u.disabled.is_(False))
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else Identity(row.name, Role.of(row.role), row.csrf, key)

    def add_token(
        self, user: Identity, name: str, role: Role, lifetime_s: float | None, now_s: float
    ) -> str:
        """Make a token and return it; it is never shown again.

        Args:
            user: Whose it is.
            name: What it is for.
            role: What it may do; no more than its user.
            lifetime_s: None for one that does not end.
            now_s: Unix time.

        Raises:
            UsageError: Its role is above the user's, or there are too many.
        """
        if role > user.role:
            raise UsageError(f"a {user.role.word} makes no token for {role.word}")
        if not 0 < len(name.strip()) <= 64:  # noqa: PLR2004 - what a table shows
            raise UsageError("a token needs a name", hint="what it is for: grafana")
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        with self._engine.begin() as connection:
            count = sa.select(sa.func.count()).where(tokens.c.user == user.user)
            if int(connection.scalar(count) or 0) >= _MOST_TOKENS:
                raise UsageError(f"{_MOST_TOKENS} tokens are the most", hint="remove some")
            connection.execute(
                sa.insert(tokens).values(
                    id=secrets.token_hex(4),
                    name=name.strip(),
                    user=user.user,
                    role=role.word,
                    hash=_hash(secret),
                    created_s=now_s,
                    expires_s=None if lifetime_s is None else now_s + lifetime_s,
                )
            )
        return secret

    def tokens(self, user: str | None = None) -> Sequence[TokenRow]:
        """Return tokens, the newest first: of one user, or of all."""
        columns = [c for c in tokens.c if c.name != "hash"]
        query = sa.select(*columns).order_by(tokens.c.created_s.desc(), tokens.c.id)
        if user is not None:
            query = query.where(tokens.c.user == user)
        with self._engine.connect() as connection:
            return [TokenRow(**row) for row in connection.execute(query).mappings()]

    def remove_token(self, token_id: str, user: str | None = None) -> None:
        """Take a token back; with a user, only one of theirs.

        Raises:
            UsageError: There is none.
        """
        statement = sa.delete(tokens).where(tokens.c.id == token_id)
        if user is not None:
            statement = statement.where(tokens.c.user == user)
        with self._engine.begin() as connection:
            if not connection.execute(statement).rowcount:
                raise UsageError(f"no token has the id {token_id[:40]!r}")

    def token(self, secret: str, now_s: float) -> Identity | None:
        """Return whose token this is; None where it is nobody's, or has ended."""
        t, u = tokens.c, users.c
        joined = tokens.join(users, u.name == t.user)
        query = sa.select(t.id, t.used_s, t.role, u.name, u.role.label("most")).select_from(joined)
        query = query.where(
            t.hash == _hash(secret),
            sa.or_(t.expires_s.is_(None), t.expires_s > now_s),
            u.disabled.is_(False),
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        if row.used_s is None or now_s - row.used_s > _USED_S:
            with self._engine.begin() as connection:
                connection.execute(sa.update(tokens).where(t.id == row.id).values(used_s=now_s))
        # A user who has lost a role has lost it for their tokens, too.
        return Identity(row.name, min(Role.of(row.role), Role.of(row.most)))

    def _row(self, connection: sa.Connection, name: str) -> sa.Row[tuple[object, ...]] | None:
        return connection.execute(sa.select(users).where(users.c.name == name)).first()

    def _keep_an_admin(self, connection: sa.Connection, name: str) -> None:
        others = sa.select(sa.func.count()).where(
            users.c.role == Role.ADMIN.word, users.c.disabled.is_(False), users.c.name != name
        )
        if not connection.scalar(others):
            raise UsageError("the last admin stays", hint="make another one first")


def _hash(secret: str) -> str:
    # The secrets are 256 random bits: there is nothing to guess that a slow hash would protect.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
