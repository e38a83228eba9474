"""Kill a device at a point of its life, open its slots again, and look."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import traceback
from pathlib import Path

from edgekit.agent.disk import Disk
from edgekit.agent.slots import read_states
from edgekit.runtime.trial_state import Phase, State
from slot_crashes.disks import ForgetfulDisk, Killed, KillingDisk, Point, RecordingDisk
from slot_crashes.story import LAST, MODEL, Life, order_of

EXIT_KILLED = 137
EXIT_LIVED = 0


class RecordedLife:
    """The story as it goes where nothing kills it.

    Args:
        base: An empty folder.
        releases: Bundles by number.
    """

    def __init__(self, base: Path, releases: dict[int, bytes]) -> None:
        root = base / "slots"
        disk = _StateRecorder(root)
        life = Life(root, releases, disk)
        life.start()
        life.live()
        life.slots.close()
        self.releases = releases
        self.points: list[Point] = disk.points
        self.states: list[dict[str, State]] = [{}, *disk.states]
        self.end = life.state


class _StateRecorder(RecordingDisk):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.states: list[dict[str, State]] = []

    def at_point(self, name: str, path: Path) -> None:
        super().at_point(name, path)
        if len(self.states) < self.points[-1].renamed:
            self.states.append(read_states(path.parent))


def kill_process(recorded: RecordedLife, at: int, base: Path) -> None:
    """End a child process at a point with ``os._exit``, then look at what it left.

    Raises:
        AssertionError: The device is not as it was before or after the commit under way.
    """
    root = base / "slots"
    child = os.fork()
    if child == 0:
        try:
            disk = KillingDisk(at, lambda: os._exit(EXIT_KILLED))
            life = Life(root, recorded.releases, disk)
            life.start()
            life.live()
            os._exit(EXIT_LIVED)
        except BaseException:  # noqa: BLE001 - a child may not come back into the parent's code
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    expect(os.waitstatus_to_exitcode(status) == EXIT_KILLED, recorded.points[at])
    point = recorded.points[at]
    look(recorded, root, recorded.states[point.renamed : point.renamed + 1])


def cut_power(recorded: RecordedLife, at: int, seed: int, base: Path) -> None:
    """Cut the power at a point, keep what luck decides, then look.

    Raises:
        AssertionError: See :func:`kill_process`.
    """
    before, after = base / "before", base / "after"
    before.mkdir()
    after.mkdir()
    disk = ForgetfulDisk(before, at)
    life: Life | None = None
    with contextlib.suppress(Killed):
        life = Life(before / "slots", recorded.releases, disk)
        life.start()
        life.live()
    if life is not None:
        life.slots.close()
    disk.remains(after, random.Random(seed))  # noqa: S311 - luck, not secrets
    shutil.rmtree(before)
    point = recorded.points[at]
    look(recorded, after / "slots", recorded.states[point.synced : point.renamed + 1])


def look(recorded: RecordedLife, root: Path, possible: list[dict[str, State]]) -> None:
    """Check what a crash has left, start the device again, and see it take a new bundle.

    Args:
        recorded: The story.
        root: The folder of the slots.
        possible: The states that may be there.

    Raises:
        AssertionError: They are not there, or a named bundle is not whole, or the device is stuck.
    """
    left = read_states(root)
    expect(left in possible, f"{left} is none of {possible}")
    life = Life(root, recorded.releases, Disk())
    try:
        state = life.slots.state(MODEL)
        for sha256 in (state.current, state.fallback, state.next):
            if sha256 is not None:
                life.slots.open(MODEL, sha256).close()
        life.start()
        allowed = {state.current, state.fallback} if state.phase is Phase.TRIAL else {state.current}
        expect(life.serves in allowed, f"{life.serves} serves, after {state}")
        expect(life.serves == life.state.current, f"{life.serves} serves, in {life.state}")
        life.chapter(LAST)
        last = order_of(LAST.release, recorded.releases[LAST.release]).sha256
        expect((life.state.phase, life.serves) == (Phase.CONFIRMED, last), life.state)
        life.slots.collect()
        names = sorted(path.name for path in root.iterdir())
        expect(names == ["bundles", "incoming", "lock", "reserve", "state.json"], names)
        bundles = {path.name for path in (root / "bundles").iterdir()}
        expect(bundles == life.state.held, f"{bundles} in {life.state}")
        expect(not list((root / "incoming").iterdir()), "something is left of a download")
    finally:
        life.slots.close()


def expect(holds: bool, what: object) -> None:
    """Raise an AssertionError that says what is not as it must be."""
    if not holds:
        raise AssertionError(what)
