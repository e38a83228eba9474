"""The registry: which devices a fleet has, their labels, and their identities at its broker.

A device's identity is its name and a random password, of which the fleet keeps a hash. What the
device needs goes into a folder of its own: its settings, the password, the broker's authority.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.fleet.broker.accounts import (
    hash_password,
    locked,
    new_password,
    read_passwords,
    with_roles,
    write_passwords,
)
from edgekit.fleet.broker.authority import CA_FILE, public_name
from edgekit.fleet.home import FleetHome, write_private
from edgekit.fleet.settings import Settings
from edgekit.wire.errors import ConfigError, TrustError, UsageError, did_you_mean
from edgekit.wire.signing import PublicKey
from edgekit.wire.topics import check_name

if TYPE_CHECKING:
    from sqlalchemy import Engine

Forget = Callable[[Sequence[str]], object]
MAX_LABELS = 64
MAX_CSV_BYTES = 16 << 20
MAX_DEVICES = 100_000
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", re.ASCII)
_MAX_VALUE = 128
PASSWORD_FILE = "broker.password"  # noqa: S105 - the name of a file


@dataclass(frozen=True)
class NewDevice:
    """A device to be registered.

    Attributes:
        name: Its name, also at the broker.
        labels: By which it is chosen.
        target: The board: ``rpi5``.
    """

    name: str
    target: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Registered:
    """A device of the fleet.

    Attributes:
        name: Its name.
        labels: By which it is chosen.
        added_s: Unix time of its registration.
    """

    name: str
    labels: Mapping[str, str]
    added_s: float


class Registry:
    """Adds, changes and removes devices.

    Args:
        home: The fleet.
        settings: Its settings.
        engine: Of its store.
        trusted: Keys that a device shall trust.
        reload: Tells the broker that accounts have changed.
        forget: Clears what the broker keeps of devices that are no more.
        clock: Returns Unix time in seconds.
        user: For the audit log.
    """

    def __init__(
        self,
        home: FleetHome,
        settings: Settings,
        engine: Engine,
        trusted: Sequence[PublicKey],
        reload: Callable[[], object],
        forget: Forget,
        clock: Callable[[], float],
        user: str = "cli",
    ) -> None:
        self._home = home
        self._settings = settings
        self._engine = engine
        self._trusted = tuple(trusted)
        self._reload = reload
        self._forget = forget
        self._clock = clock
        self._user = user

    def add(self, new: Sequence[NewDevice], out: Path) -> list[Path]:
        """Register devices, all or none, and write what each needs into a folder below ``out``.

        Args:
            new: The devices.
            out: The folder.

        Returns:
            The devices' settings.

        Raises:
            UsageError: One is registered already, or its folder is there already.
            TrustError: A name is not plain.
            ConfigError: A file cannot be written.
        """
        import sqlalchemy as sa

        from edgekit.fleet.store.schema import audit, devices

        now_s = self._clock()
        with locked(self._home):
            self._check(new, out)
            passwords = {one.name: new_password() for one in new}
            made: list[Path] = []
            try:
                for one in new:
                    _make_folder(out / one.name)
                    made.append(out / one.name)
                    self._write(one, passwords[one.name], made[-1])
                hashes = {name: hash_password(password) for name, password in passwords.items()}
                with self._accounts() as known, self._engine.begin() as connection:
                    for one in new:
                        row = {"labels": dict(one.labels), "added_s": now_s, "removed_s": None}
                        connection.execute(sa.delete(devices).where(devices.c.name == one.name))
                        connection.execute(sa.insert(devices).values(name=one.name, **row))
                        connection.execute(
                            sa.insert(audit).values(self._audit("device.add", one.name, now_s))
                        )
                    write_passwords(self._home, with_roles(self._home, known | hashes))
            except BaseException:
                for folder in made:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
        self._reload()
        return [folder / "agent.json" for folder in made]

    def registered(self) -> list[Registered]:
        """Return all devices by name."""
        import sqlalchemy as sa

        from edgekit.fleet.store.schema import devices

        query = sa.select(devices).where(devices.c.removed_s.is_(None)).order_by(devices.c.name)
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [Registered(row["name"], row["labels"], row["added_s"]) for row in rows]

    def label(
        self, name: str, given: Mapping[str, str], removed: Sequence[str] = ()
    ) -> Mapping[str, str]:
        """Change a device's labels.

        Args:
            name: Of the device.
            given: Labels to set.
            removed: Keys to take away.

        Returns:
            All its labels.

        Raises:
            UsageError: It is not registered, or a label is none.
        """
        from edgekit.fleet.store.writes import add_audit, set_labels

        with locked(self._home):
            found = {one.name: one.labels for one in self.registered()}.get(name, {})
            labels = {**found, **given}
            labels = {key: value for key, value in labels.items() if key not in removed}
            set_labels(self._engine, name, check_labels(labels))
            detail = " ".join(f"{key}={value}" for key, value in labels.items())
            add_audit(self._engine, self._user, "device.label", name, detail, self._clock())
        return labels

    def remove(self, names: Sequence[str]) -> None:
        """Take devices out of the fleet; the broker hangs up on them.

        Raises:
            UsageError: One is not registered; then none is removed.
        """
        from edgekit.fleet.store.writes import add_audit, remove_device

        with locked(self._home):
            known = {one.name for one in self.registered()}
            for name in names:
                if name not in known:
                    near = did_you_mean(name, known)
                    hint = f"did you mean {near}?" if near else "`edgekit fleet device list`"
                    raise UsageError(f"no device is named {name[:80]!r}", hint=hint)
            hashes = read_passwords(self._home)
            kept = {name: value for name, value in hashes.items() if name not in set(names)}
            # First what lets them in: half done must not mean that they still come.
            write_passwords(self._home, with_roles(self._home, kept))
            self._reload()
            for name in dict.fromkeys(names):
                remove_device(self._engine, name, self._clock())
                add_audit(self._engine, self._user, "device.remove", name, "", self._clock())
            # Before anybody can register one of these names again.
            self._forget(list(dict.fromkeys(names)))

    def _check(self, new: Sequence[NewDevice], out: Path) -> None:
        known = {one.name for one in self.registered()}
        seen: set[str] = set()
        for one in new:
            check_name(one.name, "device")
            check_labels(one.labels)
            if one.name in known or one.name in seen:
                raise UsageError(
                    f"a device is named {one.name} already",
                    hint=f"`edgekit fleet device remove {one.name}` takes it away",
                )
            if (out / one.name).exists():
                raise UsageError(
                    "the device's folder is there already",
                    hint="--output names another one",
                    where=str(out / one.name),
                )
            seen.add(one.name)

    def _write(self, device: NewDevice, password: str, folder: Path) -> None:
        settings = self._settings
        broker: dict[str, object] = {"host": settings.broker_host, "port": settings.broker_port}
        if settings.broker_listen:
            broker = {"host": public_name(settings), "port": settings.broker_tls_port}
            broker["tls"] = {"ca_file": CA_FILE}
            write_private(folder / CA_FILE, self._authority())
        document = {
            "schema": "edgekit.agent/1",
            "fleet": settings.name,
            "device": device.name,
            "target": device.target,
            "state_dir": "state",
            "trusted_keys": [key.to_pem().decode() for key in self._trusted],
            "broker": {**broker, "username": device.name, "password_file": PASSWORD_FILE},
        }
        write_private(folder / PASSWORD_FILE, password.encode())
        write_private(folder / "agent.json", (json.dumps(document, indent=2) + "\n").encode())

    def _authority(self) -> bytes:
        path = self._home.broker / CA_FILE
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(
                "the broker has no authority yet for TLS",
                hint="start `edgekit fleet up` first: it makes one",
                where=str(path),
            ) from error

    def _audit(self, action: str, subject: str, now_s: float) -> dict[str, object]:
        return {
            "user": self._user,
            "action": action,
            "subject": subject,
            "detail": "",
            "at_s": now_s,
        }

    @contextmanager
    def _accounts(self) -> Iterator[dict[str, str]]:
        """Have the hashes; written back as they were where the body fails."""
        before = read_passwords(self._home)
        try:
            yield before
        except BaseException:
            write_passwords(self._home, before)
            raise


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise ConfigError(
            f"the device's folder cannot be made: {error.strerror}", where=str(folder)
        ) from error


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels if a device may have them.

    Raises:
        UsageError: A key is not plain, a value is long or not printable, or they are too many.
    """
    if len(labels) > MAX_LABELS:
        raise UsageError(f"a device has at most {MAX_LABELS} labels")
    for key, value in labels.items():
        if not _LABEL.fullmatch(key):
            raise UsageError(f"{key[:80]!r} is no key of a label", hint="site=roof")
        if not 1 <= len(value) <= _MAX_VALUE or not value.isprintable():
            raise UsageError(
                f"the value of {key} is no label",
                hint=f"1 to {_MAX_VALUE} printable characters",
            )
    return dict(labels)


def read_csv(path: Path, target: str) -> list[NewDevice]:
    """Read devices from a CSV file: ``name``, perhaps ``target``, every other column a label.

    Args:
        path: The file; UTF-8.
        target: Of rows that name none.

    Raises:
        UsageError: It cannot be read; all bad lines are named.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CSV_BYTES + 1)
        if len(data) > MAX_CSV_BYTES:
            raise UsageError("the file is too large", where=str(path))
        text = data.decode("utf-8-sig")
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        raise UsageError(f"cannot read it: {reason}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UsageError("the file is not UTF-8", where=str(path)) from error
    return parse_csv(text, target, str(path))


def parse_csv(text: str, target: str, where: str) -> list[NewDevice]:
    """Read devices from the text of a CSV file; see :func:`read_csv`.

    Raises:
        UsageError: All bad lines are named.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found: dict[str, NewDevice] = {}
    problems: list[str] = []
    try:
        head = [cell.strip() for cell in next(reader, [])]
        if "name" not in head or len(set(head)) != len(head):
            raise UsageError(
                "the first line must name the columns, each once, and `name` among them",
                hint="name,target,site,kind",
                where=f"{where}:1",
            )
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            try:
                one = _row(head, row, target)
            except (UsageError, TrustError) as error:
                problems.append(f"line {reader.line_num}: {error.message}")
                continue
            if one.name in found:
                problems.append(f"line {reader.line_num}: {one.name} stands here twice")
            found[one.name] = one
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: {error}")
    if len(found) > MAX_DEVICES:
        problems.append(f"more than {MAX_DEVICES} devices")
    if problems:
        more = len(problems) - 10
        shown = "; ".join(problems[:10]) + (f"; and {more} more" if more > 0 else "")
        raise UsageError(shown, hint="nothing was imported", where=where)
    if not found:
        raise UsageError("no device stands in the file", where=where)
    return list(found.values())


def _row(head: Sequence[str], row: Sequence[str], target: str) -> NewDevice:
    if len(row) != len(head):
        raise UsageError(f"{len(row)} cells in place of {len(head)}")
    cells = {key: cell.strip() for key, cell in zip(head, row, strict=True)}
    name = check_name(cells.pop("name"), "device")
    own = cells.pop("target", "") or target
    if not own:
        raise UsageError("no target", hint="--target or a column of this name")
    labels = {key: value for key, value in cells.items() if value}
    return NewDevice(name, own, check_labels(labels))
