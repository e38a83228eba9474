"""A real Home Assistant: headless, on loopback, set up as a person would through its own API."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.agent_board import until
from tests.agent_broker import free_port

_CONFIGURATION = """\
homeassistant:
  name: check
  unit_system: metric
  country: CH
  time_zone: UTC
http:
  server_host: 127.0.0.1
  server_port: {port}
api:
config:
onboarding:
logger:
  default: info
"""
_START_S = 120.0
# Who says it, where it could be about what the device has published.
_LOGGERS = (
    *("homeassistant.components.mqtt", "homeassistant.components.sensor"),
    *("homeassistant.components.binary_sensor", "homeassistant.helpers", "homeassistant.util"),
)

State = tuple[str, Mapping[str, Any]]


class HomeAssistant:
    """One installation.

    Args:
        python: Of the environment that it is installed in.
        folder: For its settings and its log.
    """

    def __init__(self, python: Path, folder: Path) -> None:
        self.folder = folder
        self._program = python.with_name("hass")
        self._url = f"http://127.0.0.1:{free_port()}"
        self._token = ""
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        port = self._url.rpartition(":")[2]
        (folder / "configuration.yaml").write_text(_CONFIGURATION.format(port=port))

    def start(self) -> None:
        """Start it and wait until it answers."""
        line = [self._program, "-c", self.folder, "--skip-pip", "--log-no-color"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(line, stdout=log, stderr=log)
        process = self._process
        until(lambda: self._answers() or process.poll() is not None, _START_S)
        if process.poll() is not None:
            said = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"Home Assistant does not start: {said[-2000:]}")

    def stop(self) -> None:
        """Stop it; it then writes its registries."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def set_up(self, broker_port: int) -> None:
        """Make the owner's account, and set up the MQTT integration."""
        client = f"{self._url}/"
        owner = {"name": "a", "username": "a", "password": "check-only", "language": "en"}
        made = self._ask("/api/onboarding/users", owner | {"client_id": client})
        grant = {"grant_type": "authorization_code", "code": made["auth_code"]}
        form = urllib.parse.urlencode(grant | {"client_id": client}).encode()
        self._token = self._send("/auth/token", form)["access_token"]
        flow = self._ask("/api/config/config_entries/flow", {"handler": "mqtt"})
        place = f"/api/config/config_entries/flow/{flow['flow_id']}"
        done = self._ask(place, {"broker": "127.0.0.1", "port": broker_port})
        if done["type"] != "create_entry":
            raise RuntimeError(f"Home Assistant does not take the broker: {done}")

    def states(self, prefix: str) -> dict[str, State]:
        """Return the states of sensors whose id begins so, without their domain."""
        found = self._send("/api/states")
        ours = [one for one in found if one["entity_id"].partition(".")[2].startswith(prefix)]
        return {one["entity_id"]: (one["state"], one["attributes"]) for one in ours}

    def registry(self, name: str, key: str) -> list[dict[str, Any]]:
        """Return what it has written of the MQTT integration's devices or entities."""
        file = self.folder / ".storage" / f"core.{name}_registry"
        held = json.loads(file.read_text(encoding="utf-8"))["data"][key]
        return [
            one
            for one in held
            if one.get("platform") == "mqtt"
            or any(kind == "mqtt" for kind, *_ in one.get("identifiers", ()))
        ]

    def complaints(self, *words: str) -> list[str]:
        """Return warnings and errors of its log that may be about a device."""
        log = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
        lines = [line for line in log.splitlines() if " WARNING " in line or " ERROR " in line]
        return [
            line[24:]
            for line in lines
            if any(f"[{name}" in line for name in _LOGGERS) or any(word in line for word in words)
        ]

    def _answers(self) -> bool:
        try:
            if self._token:
                return bool(self._send("/api/config")["state"] == "RUNNING")
            return bool(self._send("/api/onboarding"))
        except (OSError, ValueError):
            return False

    def _ask(self, path: str, body: Mapping[str, object]) -> Any:  # noqa: ANN401 - JSON
        return self._send(path, json.dumps(body).encode(), "application/json")

    def _send(self, path: str, data: bytes | None = None, kind: str = "") -> Any:  # noqa: ANN401
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        headers |= {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(self._url + path, data=data, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - loopback
            return json.loads(answer.read())
