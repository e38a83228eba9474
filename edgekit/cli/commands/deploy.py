"""``edgekit deploy``: an agent and a bundle onto a board that already runs, over ssh."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import ConfigError, TrustError, UsageError

if TYPE_CHECKING:
    from edgekit.deploy.decide import Order, SentFile
    from edgekit.deploy.ssh import Ssh
    from edgekit.wire.bundle import Bundle
    from edgekit.wire.canonical import Json

SCHEMA = "edgekit.deploy/1"
_FILE = click.Path(path_type=Path)
_MAX_SETTINGS = 1 << 20


@dataclass(frozen=True)
class _Options:
    """What the command line says of the deployment itself."""

    prefix: PurePosixPath
    service: bool
    user: str
    wait_s: float
    keys: tuple[Path, ...]
    wheels: Path | None
    settings: Path | None


@click.command("deploy")
@click.argument("bundle", type=_FILE, required=False)
@click.option("--host", required=True, metavar="USER@BOARD", help="The board, as ssh knows it.")
@click.option("--port", type=click.IntRange(1, 65535), help="Its ssh port.")
@click.option("-i", "--identity", type=_FILE, metavar="FILE", help="The private key to log in.")
@click.option("--ssh-config", type=_FILE, metavar="FILE", help="In place of ~/.ssh/config.")
@click.option(
    "--prefix",
    type=click.Path(path_type=PurePosixPath),
    default=PurePosixPath("/opt/edgekit"),
    show_default=True,
    help="The deployment's own folder on the board.",
)
@click.option(
    "--key",
    "keys",
    type=_FILE,
    multiple=True,
    metavar="PUB.pem",
    help="Public key that signed the bundle. Default: this machine's own key.",
)
@click.option(
    "--wheels",
    type=_FILE,
    metavar="DIR",
    help="Packages for a board without network: pip download --dest DIR, for its platform.",
)
@click.option(
    "--settings",
    type=_FILE,
    metavar="FILE",
    help="JSON that is laid over the agent's settings: broker, device, fleet, flows, http.",
)
@click.option("--user", default="edgekit", show_default=True, help="The user of the service.")
@click.option("--no-service", is_flag=True, help="Start the agent directly, without systemd.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(5, 3600),
    default=300,
    show_default=True,
    help="Seconds until the agent must serve the bundle.",
)
@click.option("--dry-run", is_flag=True, help="Look only, and say what would be done.")
@click.option("--uninstall", is_flag=True, help="Take it away; what the agent has stored stays.")
@click.option("--purge", is_flag=True, help="With --uninstall: what the agent has stored, too.")
@common_options
def command(
    bundle: Path | None,
    host: str,
    port: int | None,
    identity: Path | None,
    ssh_config: Path | None,
    dry_run: bool,
    uninstall: bool,
    purge: bool,
    out: Output,
    **options: Any,  # noqa: ANN401 - the rest, as _Options has it
) -> None:
    """Put an agent and a bundle onto a board that already runs, over ssh.

    A new environment is made beside the one that runs, and the bundle tested in it; only then is
    the agent switched, and back again if it does not serve. A second run changes nothing.

    \b
    Examples:
      edgekit deploy dist/digits-cnn-rpi5.ekb --host pi@raspberrypi.local
      edgekit deploy dist/digits-cnn-rpi5.ekb --host pi@10.0.0.7 --settings broker.json
      edgekit deploy --host pi@raspberrypi.local --uninstall
    """
    from edgekit.deploy.decide import check_prefix
    from edgekit.deploy.ssh import Ssh
    from edgekit.deploy.ssh_errors import SshSettings

    chosen = _Options(service=not options.pop("no_service"), **options)
    check_prefix(chosen.prefix)
    if (bundle is None) != uninstall:
        raise UsageError("a BUNDLE or --uninstall, one of the two", hint="edgekit deploy --help")
    if purge and not uninstall:
        raise UsageError("--purge goes with --uninstall")
    if uninstall and dry_run:
        raise UsageError("--dry-run and --uninstall do not go together")
    with Ssh(SshSettings(host, port, identity, ssh_config)) as ssh:
        if bundle is None:
            _uninstall(ssh, host, chosen, out, purge=purge)
        else:
            _deploy(ssh, host, bundle, chosen, out, dry_run=dry_run)


def _uninstall(ssh: Ssh, host: str, options: _Options, out: Output, *, purge: bool) -> None:
    from edgekit.cli.deploy_view import render_removed
    from edgekit.deploy.remove import uninstall

    removed = uninstall(
        ssh, host, options.prefix, service=options.service, user=options.user, purge=purge
    )
    out.emit(
        SCHEMA,
        {"host": host, "changed": bool(removed), "removed": removed},
        lambda console: render_removed(console, host, removed, purge=purge),
        quiet="\n".join(removed) or None,
    )


def _deploy(
    ssh: Ssh, host: str, path: Path, options: _Options, out: Output, *, dry_run: bool
) -> None:
    from edgekit.cli.deploy_view import DeployView, result_json
    from edgekit.cli.trust import open_trusted
    from edgekit.deploy.steps import Deployment

    with (
        tempfile.TemporaryDirectory(prefix="edgekit-deploy-") as folder,
        open_trusted(path, options.keys) as bundle,
    ):
        order = _order(bundle, options, Path(folder))
        with DeployView.open(out, bundle, host, options.prefix) as view:
            result = Deployment(ssh, order, host, view.on_event, dry_run=dry_run).run()
    out.emit(
        SCHEMA,
        {"host": host, "prefix": str(options.prefix), "dry_run": dry_run, **result_json(result)},
        lambda console: view.render(console, result, dry_run=dry_run),
        quiet="changed" if result.changed else "unchanged",
    )


def _order(bundle: Bundle, options: _Options, folder: Path) -> Order:
    from importlib.metadata import distribution

    import edgekit
    from edgekit.deploy.decide import EXTRAS, Order
    from edgekit.deploy.wheel import pack_wheel

    manifest, signer = bundle.manifest, bundle.signed_by
    if signer is None:
        raise TrustError("the signer is not known", where=str(bundle.path), hint="--key PUB.pem")
    wheel = pack_wheel(distribution("edgekit"), folder, source=Path(edgekit.__file__).parent)
    wheels = None if options.wheels is None else _wheels(options.wheels)
    return Order(
        bundle=_sent(bundle.path, f"{manifest.model}.ekb"),
        model=manifest.model,
        target=manifest.target.name,
        arch=manifest.target.arch,
        key_raw=signer.raw.hex(),
        key_pem=signer.to_pem().decode(),
        wheel=_sent(wheel, wheel.name),
        wheels=wheels,
        extras=EXTRAS.get(manifest.pipeline.task, ()),
        prefix=options.prefix,
        service=options.service,
        user=options.user,
        overlay={} if options.settings is None else _overlay(options.settings),
        wait_s=options.wait_s,
    )


def _wheels(folder: Path) -> tuple[SentFile, ...]:
    paths = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if not paths:
        raise UsageError(
            "no wheels there",
            hint="pip download --dest DIR --only-binary :all: --platform manylinux_2_28_aarch64 …",
            where=str(folder),
        )
    return tuple(_sent(path, path.name) for path in paths if not path.name.startswith("edgekit-"))


def _sent(path: Path, name: str) -> SentFile:
    from edgekit.deploy.decide import SentFile
    from edgekit.wire.canonical import sha256_file

    return SentFile(path, name, sha256_file(path), path.stat().st_size)


def _overlay(path: Path) -> dict[str, Json]:
    from edgekit.deploy.settings import check_overlay
    from edgekit.wire.strict import parse_object

    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SETTINGS + 1)
        document = parse_object(data, str(path), most_bytes=_MAX_SETTINGS)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except TrustError as error:
        raise ConfigError(error.message, where=str(path)) from error
    check_overlay(document)
    return document
