"""`edgekit deploy` against a real sshd on loopback: a board without systemd, with its own prefix.

The agent is started directly, and stopped by its process number. Packages come from wheels that are
packed from this environment, so that nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import edgekit
from edgekit.cli.main import run
from edgekit.deploy.decide import Order, SentFile
from edgekit.deploy.events import StepEvent
from edgekit.deploy.ssh import Ssh
from edgekit.deploy.ssh_errors import SshSettings
from edgekit.deploy.steps import Deployment, Result
from edgekit.deploy.wheel import pack_wheel
from edgekit.runtime.host import host_kind
from edgekit.toolchain.pack import write_bundle
from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import ConfigError, DeviceError, GateError
from edgekit.wire.manifest import BundleTarget
from edgekit.wire.signing import load_public_key

from ..deploy_sshd import Sshd, pack_dependencies, sshd, trust  # noqa: TID252 - a helper

pytestmark = [pytest.mark.sshd, pytest.mark.timeout(600)]
ARCH = "arm64" if host_kind() == "arm64" else "x86-64"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sent(path: Path, name: str | None = None) -> SentFile:
    return SentFile(path, name or path.name, sha256_file(path), path.stat().st_size)


@dataclass
class Yard:
    """A board, and what goes there."""

    server: Sshd
    prefix: Path
    order: Order
    key: Path
    wheels: Path
    port: int
    make: Callable[..., SentFile]
    events: list[StepEvent]

    def deploy(
        self,
        order: Order | None = None,
        on_event: Callable[[StepEvent], None] | None = None,
        **options: Any,
    ) -> Result:
        self.events.clear()

        def tell(event: StepEvent) -> None:
            self.events.append(event)
            if on_event is not None:
                on_event(event)

        server = self.server
        settings = SshSettings(server.host, server.port, server.identity, server.config)
        with Ssh(settings) as ssh:
            return Deployment(
                ssh, order or self.order, server.host, tell, sleep=lambda _: None, **options
            ).run()

    def outcomes(self) -> dict[str, str]:
        return {e.step: e.outcome for e in self.events if e.seconds is not None}

    def serves(self) -> str | None:
        """The digest that the agent's status names."""
        status = json.loads((self.prefix / "state/status.json").read_bytes())
        found: str | None = status["models"]["small-conv"]["serves_sha256"]
        return found

    def pid(self) -> int:
        return int((self.prefix / "agent.pid").read_text())

    def answers(self) -> bool:
        url = f"http://127.0.0.1:{self.port}/v2/models/small-conv/ready"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(json.load(answer)["ready"])

    def files(self) -> dict[str, tuple[int, int]]:
        """Everything of the deployment but what a running agent writes."""
        return {
            str(path.relative_to(self.prefix)): (path.lstat().st_mtime_ns, path.lstat().st_size)
            for path in self.prefix.rglob("*")
            if not {"state", "__pycache__"} & set(path.parts) and path.name != ".lock"
        }


@pytest.fixture(scope="module")
def yard(tmp_path_factory, small_bundle) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("deploy")
    target = BundleTarget(host_kind(), host_kind(), ARCH, "1.31", 17, 1)

    def make(name: str, members: dict[str, bytes] | None = None, **changed: Any) -> SentFile:
        manifest = replace(small_bundle.manifest, target=target, **changed)
        path = folder / name
        write_bundle(
            path, manifest, small_bundle.members | (members or {}), small_bundle.private_key
        )
        return sent(path, "small-conv.ekb")

    pack_dependencies(folder / "wheels")
    wheel = pack_wheel(distribution("edgekit"), folder, source=Path(edgekit.__file__).parent)
    key = load_public_key(small_bundle.public_key)
    port = free_port()
    order = Order(
        bundle=make("one.ekb"),
        model="small-conv",
        target=target.name,
        arch=ARCH,
        key_raw=key.raw.hex(),
        key_pem=key.to_pem().decode(),
        wheel=sent(wheel),
        wheels=tuple(sent(path) for path in sorted((folder / "wheels").glob("*.whl"))),
        prefix=PurePosixPath(folder / "opt with space"),
        service=False,
        overlay={"http": {"host": "127.0.0.1", "port": port}},
        wait_s=120,
    )
    with sshd(folder / "sshd") as server:
        prefix = Path(order.prefix)
        made = Yard(
            server, prefix, order, small_bundle.public_key, folder / "wheels", port, make, []
        )
        yield made
        with contextlib.suppress(OSError, ValueError):
            os.kill(made.pid(), signal.SIGKILL)


@pytest.fixture
def deployed(yard: Yard) -> Yard:
    """A board on which the first bundle serves."""
    yard.deploy()
    return yard


def test_a_dry_run_looks_and_changes_nothing(yard: Yard) -> None:
    result = yard.deploy(dry_run=True)
    assert result.changed
    assert yard.outcomes() == {
        "look": "unchanged",
        "upload": "would",
        "environment": "would",
        "self-test": "would",
        "agent": "would",
    }
    assert not yard.prefix.exists()


def test_it_goes_on_where_the_connection_broke_and_ends_with_an_agent_that_serves(
    yard: Yard,
) -> None:
    cuts: list[str] = []

    def cut(event: StepEvent) -> None:
        upload = event.step == "upload" and event.done > event.total / 2
        install = event.step == "environment" and event.detail.startswith("Processing")
        if event.step not in cuts and event.outcome == "running" and (upload or install):
            cuts.append(event.step)
            assert yard.server.cut() >= 1

    result = yard.deploy(on_event=cut)
    assert cuts == ["upload", "environment"]
    again = [event for event in yard.events if event.outcome == "again"]
    assert {event.step for event in again} == {"upload", "environment"}
    # What came over before the cut did not come over again.
    place = yard.events.index(again[0])
    second = next(e for e in yard.events[place:] if e.step == "upload" and e.total)
    first = next(e for e in yard.events if e.step == "upload" and e.total)
    assert second.total < first.total * 0.7

    assert result.changed
    assert result.self_test is not None
    assert result.self_test.golden is not None
    assert result.self_test.golden.samples == 4
    assert result.phase in ("trial", "confirmed")
    assert yard.answers()
    assert yard.serves() == yard.order.bundle.sha256
    assert Path(f"/proc/{yard.pid()}/cwd").readlink() == yard.prefix / "state"
    assert (yard.prefix / "agent.json").stat().st_mode & 0o077 == 0
    assert not list((yard.prefix / "incoming").iterdir())


def test_a_second_run_changes_nothing_and_says_so(deployed: Yard) -> None:
    before, pid = deployed.files(), deployed.pid()
    result = deployed.deploy()
    assert not result.changed
    assert set(deployed.outcomes().values()) == {"unchanged"}
    assert (deployed.files(), deployed.pid()) == (before, pid)


def test_a_bundle_that_fails_its_self_test_touches_nothing(deployed: Yard, small_bundle) -> None:
    # The answers of two samples change places.
    other = {"golden/00/": "golden/01/", "golden/01/": "golden/00/"}
    wrong = {
        name: small_bundle.members[other[name[:10]] + name[10:]]
        for name in small_bundle.members
        if name[:10] in other and "input" not in name
    }
    before, pid = deployed.files(), deployed.pid()
    with pytest.raises(GateError, match="the self-test says no") as caught:
        deployed.deploy(replace(deployed.order, bundle=deployed.make("wrong.ekb", wrong, serial=2)))
    assert caught.value.exit_code == 6
    assert deployed.pid() == pid
    assert deployed.answers()
    changed = {name for name, what in deployed.files().items() if before.get(name) != what}
    assert all(name.startswith(("files", "incoming", "venvs")) for name in changed)


def test_what_does_not_serve_is_put_back_and_the_old_one_goes_on(deployed: Yard) -> None:
    settings = (deployed.prefix / "agent.json").read_bytes()
    link = (deployed.prefix / "current").readlink()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        http = {"host": "127.0.0.1", "port": taken.getsockname()[1]}
        new = replace(
            deployed.order, bundle=deployed.make("two.ekb", serial=2), overlay={"http": http}
        )
        with pytest.raises(DeviceError) as caught:
            deployed.deploy(new)
    assert "ended as soon as it was started" in str(caught.value)
    assert caught.value.exit_code == 8
    assert (deployed.prefix / "agent.json").read_bytes() == settings
    assert (deployed.prefix / "current").readlink() == link
    _wait_for(deployed.answers)
    _wait_for(lambda: deployed.serves() == deployed.order.bundle.sha256)


def test_settings_that_the_agent_does_not_take_are_refused_before_the_switch(
    deployed: Yard,
) -> None:
    pid, before = deployed.pid(), (deployed.prefix / "agent.json").read_bytes()
    bad = replace(deployed.order, overlay={"http": {"hots": "127.0.0.1"}})
    with pytest.raises(ConfigError, match="hots"):
        deployed.deploy(bad)
    assert deployed.pid() == pid
    assert (deployed.prefix / "agent.json").read_bytes() == before


def test_the_command_upgrades_the_bundle_and_keeps_what_the_user_has_set(
    deployed: Yard, capsys
) -> None:
    path = deployed.prefix / "agent.json"
    mine = json.loads(path.read_bytes()) | {"device": "mine"}
    path.write_text(json.dumps(mine))
    second = deployed.make("three.ekb", serial=3)
    line = [
        *("deploy", str(second.path), *deployed.server.arguments(), "--no-service"),
        *("--prefix", str(deployed.prefix), "--wheels", str(deployed.wheels)),
        *("--key", str(deployed.key)),
    ]
    assert run([*line, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "edgekit.deploy/1"
    assert document["changed"]
    assert document["self_test"]["passed"]
    settings = json.loads(path.read_bytes())
    assert settings["device"] == "mine"
    assert [Path(p).parent.name for p in settings["bundles"]] == [second.sha256]
    assert deployed.answers()
    assert run(["agent", "status", "--config", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "mine in lab" in shown
    assert second.sha256[:12] in shown
    assert run(["agent", "logs", "--config", str(path), "-n", "500", "--json"]) == 0
    logged = json.loads(capsys.readouterr().out)["lines"]
    assert any("serves http://127.0.0.1" in text for text in logged)


def test_an_unknown_host_key_is_an_error_that_says_how_to_accept_it(yard: Yard, capsys) -> None:
    line = [
        *("deploy", str(yard.order.bundle.path), *yard.server.arguments(), "--key", str(yard.key)),
        *("--dry-run", "--no-service", "--prefix", str(yard.prefix)),
    ]
    for known, word in ((None, "not known here"), ("other_key", "another one than before")):
        trust(yard.server.folder, yard.server.port, known)
        try:
            assert run(line) == 8
        finally:
            trust(yard.server.folder, yard.server.port, "host_key")
        said = capsys.readouterr().err
        assert word in said
        assert f"ssh -p {yard.server.port} {yard.server.host}" in said


def test_who_is_not_let_in_is_told_what_to_do(yard: Yard, capsys) -> None:
    arguments = yard.server.arguments()
    arguments[arguments.index(str(yard.server.identity))] = str(yard.server.folder / "other_key")
    line = ["deploy", str(yard.order.bundle.path), *arguments, "--key", str(yard.key)]
    assert run([*line, "--dry-run", "--no-service", "--prefix", str(yard.prefix)]) == 8
    assert "ssh-copy-id" in capsys.readouterr().err


def test_a_bundle_for_another_architecture_is_refused(yard: Yard) -> None:
    with pytest.raises(DeviceError, match="the bundle is for"):
        yard.deploy(replace(yard.order, arch="riscv64"))


def test_a_folder_of_others_is_not_touched(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(DeviceError, match="did not put there"):
        yard.deploy(replace(yard.order, prefix=PurePosixPath(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_uninstall_takes_it_away_and_leaves_what_the_agent_has_stored(
    deployed: Yard, capsys
) -> None:
    pid = deployed.pid()
    line = [
        *("deploy", *deployed.server.arguments(), "--prefix", str(deployed.prefix)),
        *("--no-service", "--uninstall"),
    ]
    assert run([*line, "--json"]) == 0
    removed = json.loads(capsys.readouterr().out)["removed"]
    assert "agent" in removed
    _wait_for(lambda: not _runs(pid))
    assert sorted(path.name for path in deployed.prefix.iterdir()) == [".edgekit", "state"]
    assert run([*line, "--purge", "--quiet"]) == 0
    assert not deployed.prefix.exists()
    capsys.readouterr()
    assert run(line) == 0
    assert "nothing of edgekit" in capsys.readouterr().out


def _runs(pid: int) -> bool:
    """Tell whether a process runs; one that has ended may wait for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_for(check: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            if check():
                return
        assert time.monotonic() < until
        time.sleep(0.2)
