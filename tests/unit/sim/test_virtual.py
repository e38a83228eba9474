"""A simulated fleet under a virtual clock: what it says, what becomes of orders, what faults do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from edgekit.fleet.device_log import read_lines
from edgekit.runtime.batches import unpack
from edgekit.runtime.trial_state import Phase
from edgekit.sim.build import make_devices
from edgekit.sim.device import Plan, Publish, SimDevice, names
from edgekit.sim.faults import Fault
from edgekit.sim.virtual import VirtualRun, take_all
from edgekit.wire.canonical import Json
from edgekit.wire.desired import Desired, sign_desired
from edgekit.wire.errors import TrustError
from edgekit.wire.messages import (
    Command,
    Reply,
    parse_hello,
    parse_reply,
    parse_reported,
    parse_state,
)
from edgekit.wire.signing import PrivateKey
from edgekit.wire.topics import Leaf

KEY = PrivateKey(bytes(32))
SHA = "ab" * 32


class Store:
    """A fleet that remembers; for a while it may be deaf, or silent."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str, int]] = Counter()
        self.order: list[tuple[str, int]] = []
        self.values: list[tuple[str, dict[str, Any]]] = []
        self.times: list[tuple[str, float, float]] = []
        self.refused = 0
        self.reported: dict[str, list[str]] = {}
        self.states: list[tuple[str, str]] = []
        self.deaf = False

    def __call__(
        self, device: SimDevice, publish: Publish, now_s: float
    ) -> Iterable[tuple[Leaf, bytes]]:
        if publish.leaf == "reported":
            self.reported.setdefault(device.name, []).append(parse_reported(publish.payload).phase)
        elif publish.leaf == "state":
            self.states.append((device.name, parse_state(publish.payload).reason))
        elif publish.leaf == "hello":
            parse_hello(publish.payload)
        if publish.leaf != "telemetry" or self.deaf:
            return []
        try:
            batch = unpack(publish.payload)
        except TrustError:
            self.refused += 1
            return []
        for message in batch.messages:
            self.seen[device.name, message.boot_id, message.seq] += 1
            self.order.append((device.name, message.seq))
            self.values.append((message.kind, dict(message.values)))
            self.times.append((device.name, message.time_s, now_s))
        return take_all(device, publish, now_s)


def fleet(
    count: int = 4, faults: dict[Fault, float] | None = None, seed: int = 1, **plan: Any
) -> tuple[VirtualRun, Store]:
    store = Store()
    devices = make_devices(
        names(count),
        Plan(keys=(KEY.public,), **plan),
        faults or {},
        seed,
        lambda n: f"{n[4:]:0>16}",
    )
    return VirtualRun(devices, store), store


def send_order(run: VirtualRun, sha256: str = SHA, key: PrivateKey = KEY) -> None:
    for device in run.devices.values():
        order = Desired(
            bundle_sha256=sha256,
            url="https://fleet.example/b.ekb",
            size_bytes=4_000_000,
            serial=2,
            order_id="roll-1",
            expires=int(run.now_s) + 86_400,
            model=device.kind.model,
            device=f"fleet/{device.name}",
        )
        run.order(device.name, sign_desired(order, key))


def test_every_number_arrives_once_and_outboxes_are_empty_but_for_the_last_batch() -> None:
    run, store = fleet()
    summary = run.run(100)
    assert summary.messages == len(store.seen) == 400
    assert set(store.seen.values()) == {1}
    assert summary.held == 0
    assert summary.acked == 400


def test_a_seed_says_everything() -> None:
    faults = {Fault.OFFLINE: 0.5, Fault.MALFORMED: 0.5, Fault.HOT: 0.5}
    digests = []
    for seed in (1, 1, 2):
        run, _ = fleet(faults=faults, seed=seed)
        run.run(300)
        digests.append(run.digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_deaf_fleet_loses_nothing() -> None:
    run, store = fleet()
    store.deaf = True
    run.run(300)
    store.deaf = False
    summary = run.run(200)
    assert summary.held == 0
    assert summary.resent > 0
    assert len(store.seen) == summary.messages == 2000


def test_what_an_outbox_has_no_room_for_is_told() -> None:
    run, store = fleet(count=1, outbox_batches=5)
    store.deaf = True
    run.run(200)
    store.deaf = False
    summary = run.run(300)
    told = [v for kind, v in store.values if kind == "event" and v.get("name") == "drops"]
    drops = sum(told[-1]["boots"][0]["drops"].values())
    assert drops == summary.dropped > 0
    assert len(store.seen) + drops == summary.messages


def test_an_order_goes_through_all_phases() -> None:
    run, store = fleet(count=3)
    run.run(5)
    send_order(run)
    run.run(300)
    for name, device in run.devices.items():
        assert store.reported[name] == ["idle", "accepted", "staged", "trial", "confirmed"]
        serves = device.slots.serves
        assert serves is not None
        assert (serves.sha256, serves.serial) == (SHA, 2)
    events = [v["what"] for kind, v in store.values if kind == "event"]
    assert events.count("confirmed") == 3


@pytest.mark.parametrize("fault", [Fault.BAD_MODEL, Fault.SLOW])
def test_a_device_that_cannot_keep_the_contract_reverts(fault: Fault) -> None:
    run, store = fleet(count=4, faults={fault: 1.0})
    run.run(5)
    send_order(run)
    run.run(600)
    for name, device in run.devices.items():
        assert store.reported[name][-1] == "reverted"
        serves = device.slots.serves
        assert serves is not None
        assert serves.sha256 != SHA


def test_an_order_of_a_stranger_is_refused_and_told() -> None:
    run, store = fleet(count=1)
    run.run(5)
    send_order(run, key=PrivateKey(bytes(31) + b"\1"))
    run.run(60)
    assert store.reported["sim-00000"] == ["idle"]
    assert [v["what"] for kind, v in store.values if kind == "event"] == ["order-refused"]


def test_a_device_tells_its_log_as_the_agent_does() -> None:
    run, _ = fleet(count=2)
    run.run(5)
    send_order(run)
    run.run(300)
    device = run.devices["sim-00000"]

    def asked(**args: Json) -> Reply:
        command = Command("c-1", "logs", args).to_bytes()
        (said,) = device.receive("command", command, run.now_s)
        return parse_reply(said.payload)

    assert "logs" in parse_hello(device.connected(run.now_s)[1].payload).commands
    lines = read_lines(asked(lines=50).result, device.name)
    assert all(line.text.startswith("simulated: ") for line in lines)
    assert [line.time_s for line in lines] == sorted(line.time_s for line in lines)
    texts = [line.text for line in lines]
    assert f"simulated: {device.kind.model} {SHA[:12]}: confirmed" in texts
    assert texts[-1].startswith(f"simulated: {device.seq} messages made, {device.acked} acknow")
    assert len(read_lines(asked(lines=2).result, device.name)) == 2
    assert not asked(lines=0).ok
    device.receive("ack", b"no ack", run.now_s)
    (refused,) = [line for line in read_lines(asked().result, "") if line.level == "WARNING"]
    assert "refused on ack" in refused.text


def test_offline_devices_say_their_will_and_lose_nothing() -> None:
    run, store = fleet(count=1, faults={Fault.OFFLINE: 1.0})
    summary = run.run(119)
    assert summary.online == 1
    summary = run.run(300)
    assert summary.online == 0
    assert store.states[-1] == ("sim-00000", "lost")
    assert summary.held > 0
    summary = run.run(380)
    assert store.states[-1] == ("sim-00000", "connected")
    assert summary.held == 0
    assert len(store.seen) == summary.messages


def test_a_hot_device_waits_for_its_self_test_and_is_hotter() -> None:
    (cool_run, cool), (hot_run, hot) = fleet(count=1), fleet(count=1, faults={Fault.HOT: 1.0})
    cool_run.run(20)
    hot_run.run(20)
    temp = [
        next(v["vitals"]["temp_c"] for kind, v in s.values if kind == "sample") for s in (cool, hot)
    ]
    assert temp[1] > temp[0] + 15
    assert all(v["vitals"]["throttled"] for kind, v in hot.values if kind == "sample")


def test_a_wrong_clock_moves_times_and_nothing_else() -> None:
    run, store = fleet(count=1, faults={Fault.CLOCK_SKEW: 1.0})
    summary = run.run(60)
    assert all(abs(time_s - now_s) > 3600 for _, time_s, now_s in store.times)
    assert len(store.seen) == summary.messages


def test_flood_duplicate_reorder_and_malformed_are_what_they_say() -> None:
    counts = {}
    for fault in (Fault.FLOOD, Fault.DUPLICATE, Fault.REORDER, Fault.MALFORMED):
        run, store = fleet(count=1, faults={fault: 1.0})
        run.run(100)
        counts[fault] = (store, run.summary)
    flood, duplicate, reorder, malformed = counts.values()
    assert flood[1].messages == 2000
    assert set(duplicate[0].seen.values()) == {2}
    assert reorder[0].order != sorted(reorder[0].order)
    assert malformed[0].refused > 0
    for store, summary in (flood, duplicate, malformed):
        assert len(store.seen) == summary.messages


def test_a_hot_device_begins_no_self_test_while_it_is_throttled() -> None:
    run, _ = fleet(count=1, faults={Fault.HOT: 1.0})
    (device,) = run.devices.values()
    run.run(5)
    send_order(run)
    run.run(12)
    assert device.slots.state.phase is Phase.STAGED
    run.run(120, until=lambda: device.slots.state.phase is Phase.SELF_TEST)
    assert int(run.now_s // 60) % 2 == 1
