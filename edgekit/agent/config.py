"""The agent's settings: one JSON file, read strictly.

    {"schema": "edgekit.agent/1", "fleet": "lab", "device": "board-1", "target": "rpi5",
     "state_dir": "/var/lib/edgekit", "trusted_keys": ["-----BEGIN PUBLIC KEY-----…"],
     "http": {"host": "127.0.0.1", "port": 8080}, "broker": {"host": "broker.lan", "port": 8883,
     "tls": {"ca_file": "ca.pem"}}, "bundles": ["digits.ekb"]}

Relative paths start at the folder of the file. What :data:`KEYS` names is all there is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.runtime.trial_rules import DEFAULT_RULES, TrialRules
from edgekit.wire.canonical import Json
from edgekit.wire.errors import ConfigError, EdgekitError, TrustError
from edgekit.wire.signing import PublicKey, parse_public_key
from edgekit.wire.strict import Fields, parse_object
from edgekit.wire.topics import check_name

SCHEMA = "edgekit.agent/1"
MAX_BYTES = 1 << 20
MAX_KEYS = 64
MAX_SECRET = 4096
_MAX_PEM = 4096

# Every key with what it means; the reference is made from it.
KEYS: Mapping[str, str] = {
    "schema": f"`{SCHEMA}`",
    "fleet": "name of the fleet",
    "device": "name of this device in it",
    "target": "its target: `rpi5`; a bundle for another one is refused",
    "state_dir": "folder of slots, outbox and status",
    "trusted_keys": "public keys (PEM) of which one must have signed a bundle or an order",
    "http.host": "address to listen on, `127.0.0.1` by default",
    "http.port": "port, 8080 by default",
    "http.token_file": "file with the token that requests must carry; none by default",
    "http.tls.cert_file": "certificate to serve HTTPS with, PEM; plain HTTP without `http.tls`",
    "http.tls.key_file": "its private key, PEM",
    "broker.host": "MQTT broker; without `broker` the agent works alone",
    "broker.port": "port, 8883 with `tls`, else 1883",
    "broker.tls.ca_file": "authority of the broker's certificate, PEM; the system's by default",
    "broker.tls.cert_file": "this device's certificate, PEM",
    "broker.tls.key_file": "its private key, PEM",
    "broker.username": "for the broker",
    "broker.password_file": "file with the password",
    "telemetry.period_s": "seconds from one sample to the next, 1 by default",
    "telemetry.outbox_mib": "MiB that unsent messages may take, 64 by default",
    "trial.duration_s": "seconds that a new bundle serves on trial at least, 600 by default",
    "trial.min_requests": "requests that it must have answered by then, 20 by default",
    "trial.max_duration_s": "seconds after which a trial with fewer requests is given up, 3600",
    "capture.allowed": "whether the fleet may ask for raw inputs, `false` by default: see MQTT",
    "capture.max_mib": "MiB that captured inputs may take on this device, 64 by default",
    "mappings.home_assistant.prefix": "Home Assistant's prefix, `homeassistant` by default",
    "mappings.home_assistant.period_s": "seconds from one set of values to the next, 10 by default",
    "mappings.sparkplug.group": "Sparkplug group, the fleet's name by default",
    "mappings.sparkplug.node": "Sparkplug edge node, the device's name by default",
    "mappings.sparkplug.period_s": "seconds from one NDATA to the next, 10 by default",
    "bundles": "bundles on this device that are to serve; the fleet's orders come beside them",
    "flows": "inputs and outputs: see serving",
    "pipelines": "pipelines of several models: see serving",
}


@dataclass(frozen=True)
class HttpTls:
    """Files of HTTPS, PEM each."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Http:
    """Where HTTP is served; ``token`` is what requests must carry, if anything."""

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = field(default=None, repr=False)
    tls: HttpTls | None = None


@dataclass(frozen=True)
class Tls:
    """Files of the connection to the broker, PEM each."""

    ca: Path | None
    certificate: Path | None
    key: Path | None


@dataclass(frozen=True)
class Capture:
    """Whether raw inputs may be captured, and how much of them the device keeps."""

    allowed: bool = False
    max_bytes: int = 64 << 20


@dataclass(frozen=True)
class HomeAssistantSettings:
    """How the device shows itself to Home Assistant."""

    prefix: str = "homeassistant"
    period_s: float = 10.0


@dataclass(frozen=True)
class SparkplugSettings:
    """How the device shows itself as a Sparkplug B edge node."""

    group: str
    node: str
    period_s: float = 10.0


@dataclass(frozen=True)
class Broker:
    """The broker, and as whom the agent connects."""

    host: str
    port: int
    tls: Tls | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class FlowSettings:
    """One flow: what its input, its model and its outputs are to be."""

    source: Mapping[str, Any]
    model: str
    outputs: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Config:
    """All settings of an agent; see :data:`KEYS`."""

    fleet: str
    device: str
    target: str
    state_dir: Path
    trusted_keys: tuple[PublicKey, ...]
    http: Http = Http()
    broker: Broker | None = None
    period_s: float = 1.0
    outbox_bytes: int = 64 << 20
    trial: TrialRules = DEFAULT_RULES
    capture: Capture = Capture()
    home_assistant: HomeAssistantSettings | None = None
    sparkplug: SparkplugSettings | None = None
    bundles: tuple[Path, ...] = ()
    flows: tuple[FlowSettings, ...] = ()
    pipelines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def load_config(path: Path) -> Config:
    """Read the settings.

    Raises:
        ConfigError: The file is missing or malformed, names an unknown key, or a file that it
            names cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"the settings cannot be read: {error.strerror}",
            hint="`edgekit agent install` writes them",
            where=str(path),
        ) from error
    try:
        fields = Fields(parse_object(data, str(path), most_bytes=MAX_BYTES), str(path))
        config = _read(fields, path.parent)
        fields.close()
    except TrustError as error:
        raise ConfigError(error.message, hint=error.hint, where=error.where or str(path)) from error
    except EdgekitError as error:
        raise ConfigError(error.message, hint=error.hint, where=str(path)) from error
    return config


def _read(fields: Fields, folder: Path) -> Config:
    fields.choice("schema", (SCHEMA,))
    keys = fields.array("trusted_keys", most=MAX_KEYS)
    fleet = check_name(fields.text("fleet"), "fleet")
    device = check_name(fields.text("device"), "device")
    return Config(
        fleet=fleet,
        device=device,
        target=fields.text("target"),
        state_dir=_path(folder, fields.text("state_dir")),
        trusted_keys=tuple(_key(index, text) for index, text in enumerate(keys)),
        http=_http(fields, folder),
        broker=_broker(fields, folder),
        **_telemetry(fields),
        trial=_trial(fields),
        capture=_capture(fields),
        **_mappings(fields, fleet, device),
        bundles=tuple(
            _path(folder, str(name))
            for name in (fields.array("bundles") if fields.has("bundles") else ())
        ),
        flows=tuple(map(_flow, fields.objects("flows"))) if fields.has("flows") else (),
        pipelines=_pipelines(fields),
    )


def _key(index: int, text: Json) -> PublicKey:
    if not isinstance(text, str) or len(text) > _MAX_PEM:
        raise ConfigError(f"trusted_keys[{index}] is no public key in PEM form")
    return parse_public_key(text.encode(), where=f"trusted_keys[{index}]")


def _http(fields: Fields, folder: Path) -> Http:
    if not fields.has("http"):
        return Http()
    own = fields.object("http")
    host = own.text("host") if own.has("host") else Http.host
    port = own.integer("port", 0, 65535) if own.has("port") else Http.port
    token = _secret(own, "token_file", folder)
    tls = None
    if _given(own, "tls"):
        files = own.object("tls")
        tls = HttpTls(*(_path(folder, files.text(name)) for name in ("cert_file", "key_file")))
        files.close()
    own.close()
    return Http(host, port, token, tls)


def _broker(fields: Fields, folder: Path) -> Broker | None:
    if not _given(fields, "broker"):
        return None
    own = fields.object("broker")
    tls = None
    if _given(own, "tls"):
        files = own.object("tls")
        paths = [
            _path(folder, files.text(name)) if _given(files, name) else None
            for name in ("ca_file", "cert_file", "key_file")
        ]
        files.close()
        tls = Tls(*paths)
    broker = Broker(
        host=own.text("host"),
        port=own.integer("port", 1, 65535) if own.has("port") else (8883 if tls else 1883),
        tls=tls,
        username=own.text("username") if _given(own, "username") else None,
        password=_secret(own, "password_file", folder),
    )
    own.close()
    return broker


def _telemetry(fields: Fields) -> dict[str, Any]:
    if not fields.has("telemetry"):
        return {}
    own = fields.object("telemetry")
    found: dict[str, Any] = {}
    if own.has("period_s"):
        found["period_s"] = own.number("period_s", 0.1, 86_400)
    if own.has("outbox_mib"):
        found["outbox_bytes"] = int(own.number("outbox_mib", 1, 65_536) * 2**20)
    own.close()
    return found


def _trial(fields: Fields) -> TrialRules:
    if not fields.has("trial"):
        return DEFAULT_RULES
    own = fields.object("trial")
    given: dict[str, Any] = {
        name: own.number(name, 0.0, 30 * 86_400.0)
        for name in ("duration_s", "max_duration_s")
        if own.has(name)
    }
    if own.has("min_requests"):
        given["min_requests"] = own.integer("min_requests", 0, 1_000_000)
    own.close()
    return replace(DEFAULT_RULES, **given)


def _capture(fields: Fields) -> Capture:
    if not _given(fields, "capture"):
        return Capture()
    own = fields.object("capture")
    allowed = own.boolean("allowed") if own.has("allowed") else False
    most_mib = own.number("max_mib", 0.1, 65_536) if own.has("max_mib") else 64.0
    own.close()
    return Capture(allowed, int(most_mib * 2**20))


def _mappings(fields: Fields, fleet: str, device: str) -> dict[str, Any]:
    if not _given(fields, "mappings"):
        return {}
    own, found = fields.object("mappings"), dict[str, Any]()
    if _given(own, "home_assistant"):
        given = own.object("home_assistant")
        prefix = check_name(given.text("prefix"), "prefix") if given.has("prefix") else None
        found["home_assistant"] = HomeAssistantSettings(
            prefix or HomeAssistantSettings.prefix, _period_s(given)
        )
        given.close()
    if _given(own, "sparkplug"):
        given = own.object("sparkplug")
        names = [
            check_name(given.text(key), key) if given.has(key) else default
            for key, default in (("group", fleet), ("node", device))
        ]
        found["sparkplug"] = SparkplugSettings(names[0], names[1], _period_s(given))
        given.close()
    own.close()
    return found


def _period_s(fields: Fields) -> float:
    return fields.number("period_s", 0.1, 86_400) if fields.has("period_s") else 10.0


def _flow(fields: Fields) -> FlowSettings:
    outputs = list(fields.array("outputs")) if fields.has("outputs") else []
    if not all(isinstance(item, dict) for item in outputs):
        raise ConfigError(f"{fields.name}: outputs must be objects")
    flow = FlowSettings(
        source=fields.mapping("input"),
        model=fields.text("model"),
        outputs=tuple(item for item in outputs if isinstance(item, dict)),
    )
    fields.close()
    return flow


def _pipelines(fields: Fields) -> dict[str, Mapping[str, Any]]:
    if not fields.has("pipelines"):
        return {}
    found = fields.mapping("pipelines")
    for name, value in found.items():
        check_name(name, "pipeline")
        if not isinstance(value, dict):
            raise ConfigError(f"pipelines.{name} must be an object")
    return {name: value for name, value in found.items() if isinstance(value, dict)}


def _given(fields: Fields, key: str) -> bool:
    """Tell whether a field has a value; one that is null is read and gone."""
    if not fields.has(key):
        return False
    return not fields.null(key)


def _path(folder: Path, text: str) -> Path:
    return Path(os.path.abspath(folder / text))  # noqa: PTH100 - keeps links


def _secret(fields: Fields, key: str, folder: Path) -> str | None:
    if not _given(fields, key):
        return None
    path = _path(folder, fields.text(key))
    try:
        with path.open("rb") as file:
            secret = file.read(MAX_SECRET + 1)
        text = secret.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'the file of "{key}" cannot be read', where=str(path)) from error
    if not text or len(secret) > MAX_SECRET:
        raise ConfigError(f'the file of "{key}" holds no secret of up to {MAX_SECRET} bytes')
    return text
