"""``edgekit fleet deploy`` as a user calls it, over an office that plays a script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from edgekit.cli.commands import fleet_deploy
from edgekit.cli.commands.fleet_deploy import read_labels, span_s
from edgekit.cli.main import run
from edgekit.fleet import opened as opened_module
from edgekit.fleet.orders import DeviceOrder, Phase, Rollout
from edgekit.wire.errors import DeviceError, RolloutError, UsageError

ROLLOUT = Rollout(
    "20261126-221500-1f3a", "9f" * 32, "pets", 3, 4_812_345, "http://f/x", 100.0, 2_000_000_000, ()
)


class Office:
    """Plays phases, one a tick, the last for ever."""

    def __init__(self) -> None:
        self.script: dict[str, list[tuple[Phase, str]]] = {
            "cam-1": [(Phase.WAITING, ""), (Phase.TRIAL, ""), (Phase.CONFIRMED, "")]
        }
        self.ticks = -1
        self.interrupt_at: int | None = None
        self.problem: DeviceError | None = None
        self.given: list[tuple[Any, ...]] = []
        self.cancelled = False
        self.bundles_stay_here = False

    def __call__(self, _home: Path) -> Office:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def office(self) -> Office:
        return self

    def choose(self, labels: dict[str, str], names: Sequence[str]) -> list[str]:
        if labels.get("site") == "nowhere":
            raise UsageError("no device has site=nowhere")
        return list(names) or sorted(self.script)

    def give(self, *asked: Any, **named: Any) -> Rollout:
        self.given.append((*asked, named))
        return self.rollout(ROLLOUT.order_id)

    def tick(self, _now_s: float) -> None:
        self.ticks += 1
        if self.ticks == self.interrupt_at:
            raise KeyboardInterrupt
        if self.problem and self.ticks < 2:
            raise self.problem

    def rollout(self, order_id: str) -> Rollout:
        if order_id != ROLLOUT.order_id:
            raise RolloutError(f"no order is named {order_id!r}")
        devices = []
        for name, script in self.script.items():
            phase, why = script[min(max(self.ticks, 0), len(script) - 1)]
            devices.append(DeviceOrder(name, phase, 150.0, why))
        return replace(ROLLOUT, devices=tuple(devices), cancelled=self.cancelled)

    def last_rollouts(self, _limit: int) -> list[Rollout]:
        return [self.rollout(ROLLOUT.order_id)]

    def cancel(self, order_id: str, _now_s: float) -> Rollout:
        self.cancelled = True
        self.script = {"cam-1": [(Phase.CANCELLED, "")]}
        return self.rollout(order_id)

    def online(self, _rollout: Rollout) -> dict[str, bool | None]:
        return {"cam-1": False}


@pytest.fixture
def office(monkeypatch) -> Office:
    made = Office()
    monkeypatch.setattr(opened_module, "Opened", made)
    monkeypatch.setattr(fleet_deploy, "_PERIOD_S", 0.0)
    return made


def call(capsys, *argv: str) -> tuple[int, str, str]:
    code = run(["fleet", "deploy", *argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_confirmed_order_ends_well(office, capsys):
    code, out, err = call(capsys, "b.ekb", "--to", "site=roof", "--to", "kind=camera")
    assert code == 0
    assert "pets serial 3 → cam-1 (site=roof kind=camera)" in err
    assert [line.split()[1] for line in err.splitlines()[2:]] == ["waiting", "trial", "confirmed"]
    assert "1 confirmed of 1" in out
    assert "next: edgekit fleet show cam-1" in out
    bundle, _keys, devices, lifetime_s, named = office.given[0]
    assert (bundle, devices, lifetime_s) == (Path("b.ekb"), ["cam-1"], 86_400.0)
    assert len(named["token"]) == 4


def test_what_fails_ends_with_9_and_its_reason(office, capsys):
    office.script["cam-2"] = [(Phase.REVERTED, "self-test: 2 of 16 golden samples differ")]
    code, out, _ = call(capsys, "b.ekb", "--all")
    assert code == 9
    assert "1 confirmed, 1 reverted of 2" in out
    assert "self-test: 2 of 16 golden samples differ" in out
    office.ticks = -1
    code, out, _ = call(capsys, "b.ekb", "--all", "--json")
    document = json.loads(out)
    assert (code, document["schema"]) == (9, "edgekit.fleet-deploy/1")
    assert document["order"]["devices"][1]["phase"] == "reverted"


def test_ctrl_c_leaves_the_order_standing_and_says_how_to_go_on(office, capsys):
    office.interrupt_at = 1
    code, out, err = call(capsys, "b.ekb", "--all")
    assert code == 130
    assert "1 trial of 1" in out
    assert f"--follow {ROLLOUT.order_id}" in err
    assert f"--cancel {ROLLOUT.order_id}" in err


def test_time_that_runs_out_ends_with_9_and_the_order_stands(office, capsys):
    office.script = {"cam-1": [(Phase.WAITING, "")]}
    code, _, err = call(capsys, "b.ekb", "--all", "--timeout", "0s")
    assert (code, "the order stands" in err) == (0, True), "0s is --no-wait"
    fleet_deploy._PERIOD_S = 0.01
    code, out, err = call(capsys, "b.ekb", "--all", "--timeout", "1s")
    assert code == 9
    assert f"next: edgekit fleet deploy --follow {ROLLOUT.order_id}" in out
    assert "the order stands" in err


def test_an_order_is_given_and_left(office, capsys):
    code, out, _ = call(capsys, "b.ekb", "--device", "cam-1", "--no-wait", "-q")
    assert (code, out.strip()) == (0, ROLLOUT.order_id)


def test_bundles_that_nobody_can_fetch_are_said(office, capsys):
    office.bundles_stay_here = True
    assert "set http.url in fleet.toml" in call(capsys, "b.ekb", "--all")[2]


def test_a_broker_that_is_away_is_said_once_and_waited_for(office, capsys):
    office.problem = DeviceError("the broker cannot be reached")
    code, _, err = call(capsys, "b.ekb", "--all")
    assert code == 0
    assert err.count("the broker cannot be reached") == 1
    office.ticks = -1
    assert call(capsys, "b.ekb", "--all", "--no-wait")[0] == 8


def test_an_order_is_followed_called_back_and_listed(office, capsys):
    assert call(capsys, "--follow", ROLLOUT.order_id)[0] == 0
    code, out, _ = call(capsys, "--cancel", ROLLOUT.order_id)
    assert (code, "1 cancelled of 1" in out) == (0, True)
    code, out, _ = call(capsys, "--list")
    assert (code, ROLLOUT.order_id in out) == (0, True)
    assert call(capsys, "--follow", "o-2")[0] == 9


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ((), 2),
        (("b.ekb",), 2),
        (("b.ekb", "--all", "--to", "a=b"), 2),
        (("b.ekb", "--to", "site"), 2),
        (("b.ekb", "--to", "a=b", "--to", "a=c"), 2),
        (("b.ekb", "--all", "--expires", "soon"), 2),
        (("b.ekb", "--all", "--expires", "1s"), 2),
        (("b.ekb", "--all", "--cancel", "o-1"), 2),
        (("b.ekb", "--to", "site=nowhere"), 2),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_given(office, capsys, argv, code):
    assert call(capsys, *argv)[0] == code
    assert office.given == []


def test_labels_and_times_are_read():
    assert read_labels(["a=b", "c=d=e", "a=b"]) == {"a": "b", "c": "d=e"}
    assert span_s("90m", "--x") == 5400.0
    with pytest.raises(UsageError):
        span_s("-1h", "--x")
