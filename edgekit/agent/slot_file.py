"""``state.json``: the slots of all models in one file, replaced whole, even on a full disk."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path

from edgekit.agent.disk import Disk, FullDiskError, explaining, write_file
from edgekit.runtime.trial_state import State, parse_state
from edgekit.wire.canonical import canonical_json
from edgekit.wire.errors import DeviceError, TrustError
from edgekit.wire.strict import Fields, parse_object, require_canonical

log = logging.getLogger(__name__)

SCHEMA = "edgekit.slots/1"
STATE_FILE = "state.json"
DAMAGED_FILE = "state.json.damaged"
MAX_STATE_BYTES = 256 * 1024


class SlotFile:
    """The file and its neighbours: ``state.json.new`` while it is written, and ``reserve``.

    A damaged file (a worn card) is put aside and all slots are new, as after an installation: a
    device that starts is given its orders again, one that does not start is lost.

    Attributes:
        states: The slots by the model's name, as the file has them.
        damage: What was wrong with the file that was put aside; empty where none was.

    Raises:
        DeviceError: The file is another version's, or the disk fails.
    """

    def __init__(self, root: Path, disk: Disk) -> None:
        self._path = root / STATE_FILE
        self._beside = root / f"{STATE_FILE}.new"
        self._reserve = root / "reserve"
        self._disk = disk
        self.damage = ""
        self.states: Mapping[str, State] = {}
        try:
            self.states = read_states(root)
        except TrustError as error:
            aside = root / DAMAGED_FILE
            with explaining("the damaged state cannot be put aside", aside):
                disk.rename(self._path, aside)
                disk.sync_folder(root)
            log.error("%s is damaged (%s) and now %s; all slots are new", STATE_FILE, error, aside)  # noqa: TRY400
            self.damage = str(error)

    def replace(self, states: Mapping[str, State]) -> None:
        """Make these the states that count.

        Raises:
            FullDiskError: No space, not even the reserve; the old states stand.
            DeviceError: The disk fails.
        """
        data = encode_states(states)
        if decode_states(data, STATE_FILE) != states:
            raise DeviceError("a state that cannot be read back is not written")
        try:
            self._replace(data, states)
        except FullDiskError:
            if not self._reserve.exists():
                raise
            with explaining("the reserve cannot be freed", self._reserve):
                self._disk.unlink(self._reserve)
            self._replace(data, states)

    def keep_reserve(self) -> None:
        """Set space aside while there is some: a revert must not fail because of a full disk."""
        if not self._reserve.exists():
            try:
                write_file(self._disk, self._reserve, bytes(MAX_STATE_BYTES))
            except OSError:
                with contextlib.suppress(OSError):
                    self._disk.unlink(self._reserve)

    def _replace(self, data: bytes, states: Mapping[str, State]) -> None:
        disk = self._disk
        with explaining("the state is not written; the old one stands", self._path):
            try:
                if self._beside.exists():
                    disk.unlink(self._beside)
                write_file(disk, self._beside, data)
                disk.rename(self._beside, self._path)
            except OSError:
                with contextlib.suppress(OSError):
                    disk.unlink(self._beside)
                raise
        self.states = dict(states)
        with explaining("the state is written, but may not outlive a power cut", self._path):
            disk.sync_folder(self._path.parent)


def read_states(root: Path) -> dict[str, State]:
    """Read the slots of all models without opening them, as ``edgekit agent status`` does.

    Args:
        root: The folder of the slots.

    Raises:
        TrustError: ``state.json`` is not what an agent writes.
        DeviceError: It cannot be read, or is another version's.
    """
    path = root / STATE_FILE
    try:
        with path.open("rb") as file:
            data = file.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DeviceError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return decode_states(data, str(path))


def encode_states(states: Mapping[str, State]) -> bytes:
    """Return the content of ``state.json``."""
    models = {model: state.to_json() for model, state in states.items()}
    return canonical_json({"schema": SCHEMA, "models": models})


def decode_states(data: bytes, where: str) -> dict[str, State]:
    """Read the content of ``state.json``.

    Raises:
        TrustError: Not exactly what :func:`encode_states` writes.
        DeviceError: Another version's.
    """
    document = parse_object(data, where, most_bytes=MAX_STATE_BYTES)
    require_canonical(data, document, where)
    fields = Fields(document, where)
    schema = fields.text("schema")
    if schema != SCHEMA:
        hint = f"install the edgekit that wrote {schema[:40]!r}"
        raise DeviceError(f"not a document of {SCHEMA}", hint=hint, where=where)
    models = fields.object("models")
    fields.close()
    return {model: parse_state(models.mapping(model), where) for model in models.names()}
