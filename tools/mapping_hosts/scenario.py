"""What happens while the hosts listen: an agent with a model, its end, its return, and so on."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from edgekit.runtime.host import host_kind
from edgekit.toolchain.pack import write_bundle
from edgekit.wire.bundle import open_bundle
from edgekit.wire.signing import PrivateKey, generate_key
from mapping_hosts import entities, sparkplug_rules
from mapping_hosts.broker_log import acts_of
from mapping_hosts.checks import Checks
from mapping_hosts.home_assistant import HomeAssistant, State
from tests.agent_board import DEVICE, FLEET, Board, until
from tests.agent_broker import Broker

ROOT = Path(__file__).resolve().parents[2]
MODEL, CRASHES = "digits-cnn", "crashes"
CLIENT = f"edgekit-{FLEET}-{DEVICE}-sparkplug"
TOPIC = {kind: f"spBv1.0/{FLEET}/{kind}/{DEVICE}" for kind in ("NBIRTH", "NDATA", "NDEATH", "NCMD")}
OURS = "board_1_"
REQUESTS = 40
_SOON_S = 5.0


class Scenario:
    """Everything that runs, and the tables that it fills.

    Args:
        folder: For all that is written.
        home: Home Assistant.
        spb_python: Of the environment with pysparkplug.
        home_table: What was checked of Home Assistant.
        spb_table: What was checked of Sparkplug.
    """

    def __init__(
        self,
        folder: Path,
        home: HomeAssistant,
        spb_python: Path,
        home_table: Checks,
        spb_table: Checks,
    ) -> None:
        self._home, self._table, self._spb = home, home_table, spb_table
        self._broker = Broker(folder / "broker")
        self._spb_python = spb_python
        self._heard: list[dict[str, Any]] = []
        self._host: subprocess.Popen[str] | None = None
        key = generate_key("check")
        source = build(folder)
        (folder / "board").mkdir()
        self._bundles = [signed(source, name, key, folder) for name in (MODEL, CRASHES)]
        with open_bundle(source, None) as bundle:
            self._sample = bundle.read("golden/00/input.npy")
            target = bundle.manifest.target.name
        self._board = Board(
            folder / "board", key, settings(key, target, self._broker.port), model=MODEL
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        process = self._board.process
        if process is not None and process.poll() is None:
            self._board.kill()
        self._home.stop()
        if self._host is not None:
            self._host.communicate(timeout=20)
        self._broker.stop()

    def _start_hosts(self) -> None:
        self._broker.start()
        script = Path(__file__).with_name("sparkplug_host.py")
        line = [self._spb_python, script, str(self._broker.port), FLEET, DEVICE]
        self._host = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._listen, daemon=True).start()
        until(lambda: self._heard)  # it has subscribed
        self._home.start()
        self._home.set_up(self._broker.port)

    def run(self) -> None:
        """Let it happen."""
        self._start_hosts()
        config, shown = self._first_life()
        self._sequence_wraps()
        self._killed()
        self._model_goes()
        self._home_restarts()
        self._all_kinds()
        self._board.kill(signal.SIGTERM)
        ended = self._soon(lambda: all(s == "unavailable" for s, _ in self._states().values()))
        self._table.holds("an agent that is stopped makes them unavailable", ended)
        self._home.stop()
        devices = self._home.registry("device", "devices")
        found = self._home.registry("entity", "entities")
        entities.check(self._table, config, shown, devices, found)
        self._table.add(
            "Home Assistant's log has no warning about it",
            *self._home.complaints("edgekit", "board-1", "cam.1"),
        )
        heard = [message for message in self._heard if "ready" not in message]
        sparkplug_rules.check_messages(self._spb, heard, TOPIC)
        sparkplug_rules.check_wire(self._spb, acts_of(self._broker.log, CLIENT), TOPIC)

    def _first_life(self) -> tuple[dict[str, Any], dict[str, State]]:
        self._start(MODEL)
        until(self._board.confirmed)
        until(lambda: f"sensor.{OURS}digits_cnn_requests" in self._states())
        before = int(float(self._states()[f"sensor.{OURS}digits_cnn_requests"][0]))
        for _ in range(REQUESTS):
            answer = self._board.infer(self._sample)
        requests = str(before + REQUESTS)
        counted = self._soon(
            lambda: self._states()[f"sensor.{OURS}digits_cnn_requests"][0] == requests
        )
        self._table.holds("every request is counted there", counted, self._states())
        label = self._states()[f"sensor.{OURS}digits_cnn_last_class"][0]
        self._table.holds("the last class is the answer's", f'"{label}"' in json.dumps(answer))
        config = entities.announced(self._broker.port, f"homeassistant/device/{FLEET}/{DEVICE}")
        name = f"Models/{MODEL}/requests"
        told = self._soon(lambda: str(self._last(name)) == requests)
        self._spb.holds("every request is counted there", told, self._last(name))
        return config, self._states()

    def _sequence_wraps(self) -> None:
        until(lambda: [m.get("seq") for m in self._heard[-2:]] == [255, 0], 180)
        births = self._births()
        assert self._host is not None  # noqa: S101 - it runs
        assert self._host.stdin is not None  # noqa: S101 - it is a pipe
        self._host.stdin.write("rebirth\n")
        self._host.stdin.flush()
        again = self._soon(lambda: len(self._births()) > len(births))
        self._spb.holds("NCMD Node Control/Rebirth brings an NBIRTH (rebirth-action)", again)

    def _killed(self) -> None:
        self._board.kill()
        deaths = [message for message in self._heard if message.get("kind") == "NDEATH"]
        gone = self._soon(lambda: all(s == "unavailable" for s, _ in self._states().values()))
        self._table.holds("an agent that is killed makes all entities unavailable", gone)
        told = deaths or self._soon(lambda: self._heard[-1].get("kind") == "NDEATH")
        self._spb.holds("the broker says NDEATH for a node that is killed", told)
        self._start(MODEL)
        back = self._soon(lambda: all(s != "unavailable" for s, _ in self._states().values()))
        self._table.holds("they are back when it is", back, self._states())

    def _model_goes(self) -> None:
        mark = f"sensor.{OURS}{CRASHES}_requests"
        until(self._board.serves)
        self._board.kill(signal.SIGTERM)
        self._start(MODEL, CRASHES)
        came = self._soon(lambda: mark in self._states(), 30)
        self._table.holds("a model that comes has its entities", came)
        for _ in range(4):  # a bundle whose trial crashes is reverted, and it was the first
            self._board.kill()
            self._start(MODEL, CRASHES)
            phase = until(lambda: self._board.status().get("models", {}).get(CRASHES, {}))["phase"]
            if phase == "reverted":
                break
        left = self._soon(lambda: not any(CRASHES in name for name in self._states()))
        self._table.holds("those of a model that goes are taken away", left, phase)
        kept = f"sensor.{OURS}digits_cnn_requests" in self._states()
        self._table.holds("those of the others are not", kept)
        self._board.kill(signal.SIGTERM)

    def _home_restarts(self) -> None:
        self._board.settings["mappings"]["home_assistant"]["period_s"] = 3600
        self._start(MODEL, CRASHES)
        self._soon(lambda: self._states()[f"sensor.{OURS}uptime"][0] != "unavailable")
        time.sleep(1)  # the first sample is there
        known = {name for name, (state, _) in self._states().items() if state != "unknown"}
        self._home.stop()
        self._home.start()
        there = self._soon(
            lambda: known <= {k for k, (s, _) in self._states().items() if s != "unavailable"}, 30
        )
        states = self._states()
        lost = [name for name in known if states.get(name, ("unknown",))[0] == "unknown"]
        self._table.holds("a Home Assistant that starts again has the entities", there, states)
        self._table.add("and their values, before the next period", *lost)

    def _all_kinds(self) -> None:
        entities.publish_all_kinds(self._broker.port)
        missing: list[str] = []

        def shown() -> bool:
            missing[:] = entities.missing(self._home.states("cam_1_"))
            return not missing

        self._soon(shown)
        self._table.add(
            "every kind of value is shown, also what this machine cannot measure", *missing
        )
        entities.remove_device(self._broker.port)
        empty = self._soon(lambda: not self._home.states("cam_1_"))
        self._table.holds("an empty message takes the device away", empty)

    def _start(self, *models: str) -> None:
        paths = dict(zip((MODEL, CRASHES), self._bundles, strict=True))
        self._board.settings["bundles"] = [str(paths[model]) for model in models]
        # The second model is to be on trial for as long as it is looked at.
        self._board.settings["trial"]["duration_s"] = 600 if CRASHES in models else 1
        self._board.start()

    def _states(self) -> dict[str, State]:
        return self._home.states(OURS)

    def _births(self) -> list[dict[str, Any]]:
        return [message for message in list(self._heard) if message.get("kind") == "NBIRTH"]

    def _last(self, name: str) -> object:
        values = [sparkplug_rules.value_of(m, name) for m in list(self._heard) if "metrics" in m]
        return next((value for value in reversed(values) if value is not None), None)

    def _soon(self, condition: Callable[[], object], within_s: float = _SOON_S) -> bool:
        try:
            until(condition, within_s)
        except (AssertionError, KeyError):
            return False
        return True

    def _listen(self) -> None:
        assert self._host is not None  # noqa: S101 - it runs
        for line in self._host.stdout or ():
            self._heard.append({**json.loads(line), "heard_ms": int(time.time() * 1000)})


def settings(key: PrivateKey, target: str, port: int) -> dict[str, Any]:
    """Return an agent's settings, without bundles."""
    return {
        "schema": "edgekit.agent/1",
        "fleet": FLEET,
        "device": DEVICE,
        "target": target,
        "state_dir": "state",
        "trusted_keys": [key.public.to_pem().decode()],
        "http": {"port": 0},
        "broker": {"host": "127.0.0.1", "port": port},
        "telemetry": {"period_s": 0.1, "outbox_mib": 4},
        "trial": {"duration_s": 1, "min_requests": 1},
        "mappings": {"home_assistant": {"period_s": 0.5}, "sparkplug": {"period_s": 0.1}},
    }


def build(folder: Path) -> Path:
    """Build a model with classes for this kind of machine."""
    kinds = {path.stem for path in (ROOT / "targets").glob("*.toml")}
    target = host_kind() if host_kind() in kinds else "rpi5"
    edgekit = Path(sys.executable).with_name("edgekit")
    line = [edgekit, "build", MODEL, "--target", target, "-o", folder, "--quiet"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=folder)
    return Path(done.stdout.strip().splitlines()[-1])


def signed(source: Path, model: str, key: PrivateKey, folder: Path) -> Path:
    """Sign a copy of a bundle as a model of that name."""
    path = folder / f"{model}.ekb"
    with open_bundle(source, None) as bundle:
        members: Mapping[str, bytes] = {name: bundle.read(name) for name in bundle.manifest.members}
        write_bundle(path, dataclasses.replace(bundle.manifest, model=model), members, key)
    return path
