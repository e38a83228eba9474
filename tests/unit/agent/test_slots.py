"""Slots: what gets in, what stays, and what a crash or a full disk leaves.

``make bench-agent_slots`` runs all crash points; here is a sample of them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.agent.disk import Disk, FullDiskError
from edgekit.agent.lifecycle import Lifecycle, latency_p95_max_ms
from edgekit.agent.slots import Limits, Trust, open_slots, read_states
from edgekit.runtime import trial_events as on
from edgekit.runtime.trial_state import Phase, Release, State
from edgekit.toolchain.pack import write_bundle
from edgekit.wire import manifest as manifest_module
from edgekit.wire.errors import DeviceError, EdgekitError, TrustError
from edgekit.wire.measurement import Requirement
from edgekit.wire.signing import generate_key

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def crashes():
    """The folder of the benchmark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        for name in ("disks", "story", "trials"):
            importlib.import_module(f"slot_crashes.{name}")
        yield importlib.import_module("slot_crashes")


@pytest.fixture(scope="module")
def releases(crashes, tmp_path_factory):
    story = crashes.story
    numbers = [chapter.release for chapter in (*story.STORY, story.LAST)]
    return story.make_releases(tmp_path_factory.mktemp("releases"), numbers)


@pytest.fixture(scope="module")
def recorded(crashes, releases, tmp_path_factory):
    return crashes.trials.RecordedLife(tmp_path_factory.mktemp("recorded"), releases)


@pytest.fixture
def life(crashes, releases, tmp_path):
    """A device with release 1 confirmed."""
    life = crashes.story.Life(tmp_path / "slots", releases, Disk())
    life.start()
    life.chapter(crashes.story.Chapter(1))
    assert life.state.phase is Phase.CONFIRMED
    yield life
    life.slots.close()


def sha256_of(data):
    return hashlib.sha256(data).hexdigest()


def whole(data, chunk=1000):
    return lambda offset: [data[at : at + chunk] for at in range(offset, len(data), chunk)]


def test_the_story_has_over_500_crash_points_and_ends_as_it_should(recorded):
    assert len(recorded.points) >= 500
    assert recorded.end.confirmed.serial == 8
    assert recorded.end.previous.serial == 5
    reasons = " / ".join(refusal.reason for refusal in recorded.end.refused)
    for part in ("hung", "self-test", "ended 2 times in trial", "took over 50 ms"):
        assert part in reasons
    phases = {state[crashes_model(recorded)].phase for state in recorded.states if state}
    assert phases == set(Phase) - {Phase.IDLE}


def crashes_model(recorded):
    return next(iter(recorded.states[-1]))


@pytest.mark.parametrize("part", range(4))
def test_a_process_that_is_killed_leaves_the_old_bundle_or_the_new_one(
    crashes, recorded, tmp_path, part
):
    for at in range(part * 7, len(recorded.points), 4 * 7):
        folder = tmp_path / str(at)
        folder.mkdir()
        crashes.trials.kill_process(recorded, at, folder)


@pytest.mark.parametrize("part", range(4))
def test_a_power_cut_leaves_the_old_bundle_or_the_new_one(crashes, recorded, tmp_path, part):
    for at in range(part * 5, len(recorded.points), 4 * 5):
        folder = tmp_path / str(at)
        folder.mkdir()
        crashes.trials.cut_power(recorded, at, at, folder)


@pytest.mark.parametrize("forgotten", ["sync", "sync_folder"])
def test_a_store_that_forgets_to_sync_is_caught(
    crashes, recorded, tmp_path, monkeypatch, forgotten
):
    """The harness itself: without one kind of sync, some power cut loses a bundle."""

    def nothing(disk, target):
        path = disk.paths[target] if isinstance(target, int) else target
        disk.at_point("before nothing", path)
        disk.at_point("after nothing", path)

    monkeypatch.setattr(crashes.disks.ForgetfulDisk, forgotten, nothing)
    caught = 0
    for at in range(0, len(recorded.points), 9):
        folder = tmp_path / str(at)
        folder.mkdir()
        try:
            crashes.trials.cut_power(recorded, at, at, folder)
        except (AssertionError, EdgekitError):
            caught += 1
    assert caught > 10


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_full_or_failing_disk_leaves_what_serves_and_says_so(
    crashes, releases, tmp_path, number, caplog
):
    story = crashes.story
    for at in range(0, 60, 4):
        caplog.clear()
        root = tmp_path / f"slots-{at}"
        life = story.Life(root, releases, Disk())
        life.start()
        life.chapter(story.Chapter(1))
        life.slots.close()
        disk = crashes.disks.FullDisk(at, number)
        life = story.Life(root, releases, disk)
        life.start()
        old = life.serves
        life.chapter(story.Chapter(2))
        assert life.serves in (old, life.state.current)
        life.slots.open(story.MODEL, life.serves).close()
        if disk.failed:
            said = caplog.text + " ".join(report.reason for report in life.reports)
            words = {errno.ENOSPC: "disk is full", errno.EIO: "failing", errno.EROFS: "written"}
            assert words[number] in said or "input/output error" in said.lower()
        disk.full = False
        life.lifecycle.tick({})
        life.chapter(story.LAST)
        assert (life.state.phase, life.state.confirmed.serial) == (Phase.CONFIRMED, 99)
        assert life.slots.states[story.MODEL].confirmed == life.state.confirmed
        life.slots.close()
        assert [path.name for path in (root / "incoming").iterdir()] == []


def test_one_failed_operation_is_made_up_for(crashes, releases, tmp_path):
    story = crashes.story
    for at in range(0, 110, 3):
        disk = crashes.disks.FullDisk(at, errno.EIO, once=True)
        try:
            life = story.Life(tmp_path / f"slots-{at}", releases, disk)
        except DeviceError:
            continue  # the very first folders could not be made
        life.start()
        # The last order comes twice: what is fetched while the disk fails is dropped.
        life.live((story.Chapter(1), story.Chapter(2), story.LAST, story.LAST))
        assert life.state.confirmed.serial == 99
        assert life.serves == life.state.current
        life.slots.close()


def test_a_revert_fits_on_a_full_disk(crashes, releases, tmp_path):
    class Full(Disk):
        """Takes a new file only while the reserve is not there."""

        full = False

        def create(self, path):
            if self.full and (path.parent / "reserve").exists():
                raise OSError(errno.ENOSPC, "full")
            return super().create(path)

    story, disk = crashes.story, Full()
    life = story.Life(tmp_path / "slots", releases, disk)
    life.start()
    life.chapter(story.Chapter(1))
    disk.full = True
    life.slots.commit(story.MODEL, replace(life.state, reason="on a full disk"))
    assert read_states(life.slots.root)[story.MODEL].reason == "on a full disk"
    assert not (life.slots.root / "reserve").exists()
    disk.full = False
    life.slots.collect()
    assert (life.slots.root / "reserve").exists()
    life.slots.close()


def test_a_bundle_that_fails_serves_no_longer_even_where_nothing_can_be_written(
    crashes, releases, tmp_path
):
    story = crashes.story
    life = story.Life(tmp_path / "slots", releases, Disk())
    life.start()
    life.chapter(story.Chapter(1))
    old = life.serves
    failing = crashes.disks.FullDisk(10**9, errno.EIO)
    life.slots.close()
    life = story.Life(tmp_path / "slots", releases, failing)
    life.start()
    order = story.order_of(3, releases[3])
    life.lifecycle.handle(story.MODEL, on.OrderReceived(order))
    while life.state.phase is not Phase.TRIAL:
        life._do_work(story.Chapter(3), order, cut=False)
        life.lifecycle.tick({})
    assert life.serves == order.sha256
    failing._left = 0
    life.lifecycle.tick({story.MODEL: on.Tick(oldest_request_s=99.0)})
    assert life.serves == old
    assert read_states(life.slots.root)[story.MODEL].phase is Phase.TRIAL
    # A process that starts now cannot count its start: what is on trial does not start.
    again = Lifecycle(life.slots, life, lambda: on.Instant(0.0, 0.0), story.RULES)
    life.serves = None
    again.start()
    assert life.serves == old
    failing.full = False
    life.lifecycle.tick({})
    assert read_states(life.slots.root)[story.MODEL].phase is Phase.REVERTED
    life.slots.close()


def test_nothing_but_the_true_bundle_gets_in(crashes, life, releases, tmp_path):
    story = crashes.story
    genuine = story._manifest(2)
    strange = generate_key("stranger")

    def refused(manifest, words, key=story.KEY):
        path = tmp_path / "strange.ekb"
        path.unlink(missing_ok=True)
        write_bundle(path, manifest, {"model.onnx": b"x"}, key)
        data = path.read_bytes()
        life.slots.receive(sha256_of(data), len(data), whole(data))
        with pytest.raises(TrustError, match=words):
            life.slots.accept(story.MODEL, sha256_of(data))
        assert not life.slots.path(sha256_of(data)).exists()
        assert [p.name for p in (life.slots.root / "incoming").iterdir()] == []

    refused(genuine, "not trusted here", strange)
    refused(replace(genuine, model="other"), "a bundle of other, not of small")
    target = genuine.target
    refused(replace(genuine, target=replace(target, name="rpi4")), "for target rpi4")
    refused(replace(genuine, target=replace(target, family="x")), "for the family x")
    refused(replace(genuine, serial=0), "serial 0 is lower than the installed 1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_module, "FORMAT", 2)
        path = tmp_path / "newer.ekb"
        write_bundle(path, genuine, {"model.onnx": b"x"}, story.KEY)
    data = path.read_bytes()
    life.slots.receive(sha256_of(data), len(data), whole(data))
    with pytest.raises(TrustError, match="newer edgekit"):
        life.slots.accept(story.MODEL, sha256_of(data))


def test_a_bundle_is_checked_again_whenever_it_is_opened(crashes, life, releases):
    model, slots = crashes.story.MODEL, life.slots
    path = slots.path(life.serves)
    good = path.read_bytes()
    for bad in (good[:-1], good + b"x", good[:500] + bytes([good[500] ^ 1]) + good[501:]):
        path.write_bytes(bad)
        with pytest.raises(TrustError):
            slots.open(model, life.serves)
    # Signed by the same key, but another bundle: an older release cannot be slipped in.
    path.write_bytes(releases[2])
    with pytest.raises(TrustError, match="not the file that its folder names"):
        slots.open(model, life.serves)
    path.write_bytes(good)
    with slots.open(model, life.serves) as bundle:
        assert bundle.read("model.onnx") == bytes([1]) * 9000
    path.unlink()
    with pytest.raises(DeviceError, match="not on this device"):
        slots.open(model, life.serves)


def test_a_serial_other_than_the_one_taken_is_refused(crashes, life):
    model, slots = crashes.story.MODEL, life.slots
    state = replace(life.state, confirmed=Release(life.serves, 2), floor_serial=2)
    slots.commit(model, state)
    with pytest.raises(TrustError, match="serial is not 2"):
        slots.open(model, life.serves)


def test_a_damaged_bundle_is_fetched_again(crashes, life, releases):
    slots, data = life.slots, releases[1]
    slots.path(life.serves).write_bytes(b"broken")
    slots.receive(life.serves, len(data), whole(data))
    slots.accept(crashes.story.MODEL, life.serves)
    slots.open(crashes.story.MODEL, life.serves).close()


def test_a_fetch_goes_on_where_it_stopped(life, releases):
    data = releases[2]
    asked = []

    def source(offset):
        asked.append(offset)
        yield data[offset : offset + 4000]
        if len(asked) == 1:
            raise ConnectionError("gone")
        yield data[offset + 4000 :]

    sha256 = sha256_of(data)
    with pytest.raises(ConnectionError):
        life.slots.receive(sha256, len(data), source)
    life.slots.receive(sha256, len(data), source)
    assert asked == [0, 4000]
    life.slots.receive(sha256, len(data), source)
    assert asked == [0, 4000]  # it is all there


def test_what_a_crash_has_torn_is_fetched_anew(life, releases):
    data = releases[2]
    partial = life.slots.root / "incoming" / sha256_of(data) / "bundle.ekb"
    partial.parent.mkdir()
    for left in (bytes(4000), data + b"more", bytes(len(data))):
        partial.write_bytes(left)
        life.slots.receive(sha256_of(data), len(data), whole(data))
        assert partial.read_bytes() == data


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"x" * 9000, lambda d: d[::-1]])
def test_bytes_that_are_not_the_bundle_are_not_kept(life, releases, change):
    data = releases[2]
    with pytest.raises(DeviceError, match="not the bundle that was ordered"):
        life.slots.receive(sha256_of(data), len(data), whole(change(data)))
    assert [p.name for p in (life.slots.root / "incoming").iterdir()] == []


def test_a_bundle_of_another_size_than_ordered_is_not_kept(life, releases):
    data = releases[2]
    with pytest.raises(DeviceError, match="not the bundle that was ordered"):
        life.slots.receive(sha256_of(data), len(data) + 1, whole(data))


def test_an_endless_source_is_stopped(life):
    taken = []

    def source(_offset):
        while True:
            taken.append(1)
            yield bytes(100)

    with pytest.raises(DeviceError):
        life.slots.receive("e" * 64, 1000, source)
    assert len(taken) == 11


@pytest.mark.parametrize(
    "limits", [Limits(max_bytes=30_000, spare_bytes=0), Limits(spare_bytes=1 << 60)]
)
def test_a_bundle_that_does_not_fit_is_not_begun(crashes, releases, tmp_path, limits):
    slots = open_slots(tmp_path / "slots", crashes.story.TRUST, limits=limits)
    data = releases[2]

    def source(offset):
        raise AssertionError("nothing may be fetched")

    with pytest.raises(FullDiskError, match="MiB more"):
        slots.receive(sha256_of(data), 40_000, source)
    slots.close()


def test_room_is_made_of_what_nobody_holds(crashes, releases, tmp_path):
    data = releases[2]
    limits = Limits(max_bytes=len(data) + 10, spare_bytes=0)
    slots = open_slots(tmp_path / "slots", crashes.story.TRUST, limits=limits)
    garbage = slots.root / "bundles" / ("d" * 64)
    garbage.mkdir()
    (garbage / "bundle.ekb").write_bytes(bytes(1000))
    slots.receive(sha256_of(data), len(data), whole(data))
    assert not garbage.exists()
    slots.close()


def test_only_a_fetch_under_way_keeps_what_has_come_in(crashes, life, releases):
    story, slots = crashes.story, life.slots
    coming = slots.root / "incoming" / sha256_of(releases[2])
    for folder in (coming, slots.root / "incoming" / life.serves):
        folder.mkdir()
        (folder / "bundle.ekb").write_bytes(b"a part")
    life.lifecycle.handle(story.MODEL, on.OrderReceived(story.order_of(2, releases[2])))
    assert life.state.phase is Phase.FETCHING
    assert slots.collect() == (life.serves,)
    assert coming.exists()
    life.lifecycle.handle(story.MODEL, on.OperatorReject("not now"))
    assert not coming.exists()
    assert slots.path(life.serves).exists()


def test_nothing_is_removed_before_the_disk_has_forgotten_its_name(crashes, releases, tmp_path):
    class Failing(Disk):
        fails = False

        def sync_folder(self, path):
            if self.fails and path.name == "slots":
                raise OSError(errno.EIO, "no")
            super().sync_folder(path)

    story, disk = crashes.story, Failing()
    life = story.Life(tmp_path / "slots", releases, disk)
    life.start()
    life.chapter(story.Chapter(1))
    disk.fails = True
    with pytest.raises(DeviceError, match="may not outlive a power cut"):
        life.slots.commit(story.MODEL, State())
    with pytest.raises(DeviceError, match="not all"):
        life.slots.collect()
    assert life.slots.path(life.serves).exists()
    disk.fails = False
    assert life.slots.collect() == (life.serves,)
    life.slots.close()


def test_a_state_that_names_what_is_not_there_is_not_written(crashes, life):
    state = replace(life.state, confirmed=Release("c" * 64, 9))
    with pytest.raises(DeviceError, match="not here"):
        life.slots.commit(crashes.story.MODEL, state)
    assert life.slots.state(crashes.story.MODEL).current == life.serves


def test_a_digest_is_no_path(life):
    for name in ("../../etc", "A" * 64, "", "a" * 63):
        with pytest.raises(DeviceError, match="not a digest"):
            life.slots.path(name)


def test_only_one_agent_has_the_slots(crashes, life):
    with pytest.raises(DeviceError, match="another agent"):
        open_slots(life.slots.root, crashes.story.TRUST)
    life.slots.close()
    open_slots(life.slots.root, crashes.story.TRUST).close()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"models":'])
def test_a_damaged_state_file_is_put_aside(tmp_path, content):
    (tmp_path / "state.json").write_bytes(content)
    with contextlib.closing(open_slots(tmp_path, Trust(()))) as slots:
        assert slots.damage
        assert slots.states == {}
        slots.commit("m", State(reason="new"))
    assert (tmp_path / "state.json.damaged").read_bytes() == content
    with contextlib.closing(open_slots(tmp_path, Trust(()))) as slots:
        assert not slots.damage
        assert slots.state("m").reason == "new"


def test_a_bundle_outlives_a_damaged_state_and_is_not_fetched_again(crashes, life):
    sha256 = life.serves
    life.slots.close()
    (life.slots.root / "state.json").write_bytes(b"\0" * 512)
    with contextlib.closing(open_slots(life.slots.root, crashes.story.TRUST)) as slots:
        assert slots.damage
        size_bytes = slots.path(sha256).stat().st_size
        slots.receive(sha256, size_bytes, lambda _: pytest.fail("it is here"))
        assert slots.accept(crashes.story.MODEL, sha256).serial > 0


def test_a_state_file_of_another_version_is_left_alone(tmp_path):
    content = b'{"models":{},"schema":"edgekit.slots/2"}'
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(DeviceError, match="not a document"):
        open_slots(tmp_path, Trust(()))
    assert (tmp_path / "state.json").read_bytes() == content
    # The lock is not kept.
    (tmp_path / "state.json").unlink()
    open_slots(tmp_path, Trust(())).close()


def test_several_models_share_one_file(crashes, life):
    life.slots.commit("other", State(reason="ours"))
    document = json.loads((life.slots.root / "state.json").read_bytes())
    assert set(document["models"]) == {crashes.story.MODEL, "other"}
    assert life.slots.state(crashes.story.MODEL).current == life.serves


def test_the_limit_of_a_trial_is_the_contracts(crashes):
    manifest = crashes.story._manifest(1)
    assert latency_p95_max_ms(manifest) == 50.0
    of_fp32 = Requirement("latency_p95_ms", maximum=1.0, vs="fp32")
    p50 = Requirement("latency_p50_ms", maximum=1.0)
    assert latency_p95_max_ms(replace(manifest, contract=(of_fp32, p50))) is None


@pytest.mark.parametrize("module", ["slots", "lifecycle", "selftest"])
def test_nothing_heavy_is_imported_with_the_slots(module):
    script = f"import sys, edgekit.agent.{module}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not {"numpy", "onnxruntime", "onnx", "click"} & set(done.stdout.split())


class Watched:
    """A life whose hands note what they are told to serve."""

    def __init__(self, life):
        self._life = life
        self.served = []

    def __getattr__(self, name):
        return getattr(self._life, name)

    def serve(self, _model, sha256):
        self.served.append(sha256)


class ReadOnly(Disk):
    """A card that has worn out: it reads, and takes nothing any more."""

    worn = False
    tries = 0

    def create(self, path):
        if self.worn:
            self.tries += 1
            raise OSError(errno.EROFS, "Read-only file system")
        return super().create(path)


@pytest.fixture
def worn(crashes, releases, tmp_path):
    """A device on whose card a trial is under way; the card is worn out from now on."""
    story, disk = crashes.story, ReadOnly()
    life = story.Life(tmp_path / "slots", releases, disk)
    life.start()
    life.chapter(story.Chapter(1))
    life.lifecycle.handle(story.MODEL, on.OrderReceived(story.order_of(2, releases[2])))
    while life.state.phase is not Phase.TRIAL:
        life._do_work(story.Chapter(2), story.order_of(2, releases[2]), cut=False)
        life.lifecycle.tick({})
    disk.worn = True
    yield life, disk, Watched(life)
    life.slots.close()


def test_an_order_that_comes_again_and_again_is_tried_once_a_tick_on_a_worn_card(
    crashes, releases, tmp_path
):
    story, disk = crashes.story, ReadOnly()
    life = story.Life(tmp_path / "slots", releases, disk)
    life.start()
    life.chapter(story.Chapter(1))
    disk.worn = True
    tries = []
    for _ in range(30):
        disk.tries = 0
        # The broker hands a retained order over at each connection.
        life.lifecycle.handle(story.MODEL, on.OrderReceived(story.order_of(2, releases[2])))
        life.lifecycle.tick({})
        tries.append(disk.tries)
    assert max(tries[5:]) <= max(tries[:5])
    disk.worn = False
    life.lifecycle.tick({})
    assert life.state.phase is Phase.FETCHING
    life.slots.close()


def test_what_serves_is_not_loaded_anew_at_every_tick_while_the_card_takes_nothing(crashes, worn):
    life, disk, hands = worn
    lifecycle = Lifecycle(life.slots, hands, life._clock, crashes.story.RULES)
    lifecycle.start()
    confirmed = life.state.fallback
    for _ in range(10):
        lifecycle.tick({})
    assert hands.served == [confirmed]
    disk.worn = False
    lifecycle.tick({})
    assert hands.served == [confirmed, life.state.order.sha256]


def test_ticks_do_not_pile_up_while_the_card_takes_nothing(crashes, worn):
    life, disk, hands = worn
    rules = replace(crashes.story.RULES, duration_s=1e6, max_duration_s=1e6, save_every_s=1)
    lifecycle = Lifecycle(life.slots, hands, life._clock, rules)
    disk.worn = False
    lifecycle.start()
    lifecycle.handle(crashes.story.MODEL, on.Started(life.state.order.sha256))
    disk.worn = True
    tries = []
    for _ in range(60):
        disk.tries = 0
        lifecycle.tick({})
        tries.append(disk.tries)
    assert max(tries[5:]) <= max(tries[:5])
