"""``edgekit bench``: how fast a bundle is on this machine, and how fast it stays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from edgekit.runtime.bench import Ask, Machine
    from edgekit.wire.bundle import Bundle

SCHEMA = "edgekit.bench/1"
_PATH = click.Path(path_type=Path)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)?")


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click's signature
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        found = _DURATION.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value} is no duration; write 90s, 10m or 1h", param, ctx)
        return float(found[1]) * _SECONDS[found[2] or "s"]


@click.command("bench")
@click.argument("bundle", type=_PATH)
@click.option(
    "--sustained",
    "sustained_s",
    type=_Duration(),
    metavar="TIME",
    help="Run that long (90s, 10m, 1h) and take the plateau. Default: 5 s, all of it.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Intra-op threads. Default: the bundle's own.",
)
@click.option("--device", metavar="ID", help="Measure on that device of the fleet, not here.")
@click.option(
    "--home",
    type=_PATH,
    default=Path("fleet"),
    show_default=True,
    help="The fleet's folder, for --device.",
)
@click.option(
    "-o",
    "--output",
    type=_PATH,
    metavar="FILE",
    help="Write a page (.html), the latency over time (.svg) or the document (.json).",
)
@click.option(
    "--key",
    "keys",
    type=_PATH,
    multiple=True,
    metavar="PUB.pem",
    help="Public key to trust; may be given more than once. Default: this machine's own key.",
)
@common_options
def command(
    bundle: Path,
    sustained_s: float | None,
    threads: int | None,
    device: str | None,
    home: Path,
    output: Path | None,
    keys: tuple[Path, ...],
    out: Output,
) -> int:
    """Measure a bundle: percentiles, throughput, time by operator, heat and clock over time.

    The bundle's golden samples are the inputs, one request after another. Every number is of the
    machine that ran it, and a figure of the bundle's target only where that machine is one. Ctrl-C
    ends the run with what was measured until then.

    \b
    Examples:
      edgekit bench dist/digits-cnn-rpi5.ekb
      edgekit bench dist/yolo11n-rpi5.ekb --sustained 10m -o yolo.html
      edgekit bench dist/yolo11n-rpi5.ekb --sustained 10m --json > yolo-rpi5.json
      edgekit bench dist/yolo11n-rpi5.ekb --device cam-01
    """
    from edgekit.cli.bench_view import render
    from edgekit.cli.trust import open_trusted
    from edgekit.runtime.bench import Ask, text_of

    _check_output(output)
    ask = Ask(threads, sustained_s)
    with open_trusted(bundle, keys) as opened:
        if device is None:
            document = _here(opened, ask, out)
        else:
            document = _on_device(device, home, opened, ask, out)
    if output is not None:
        _write(output, document)
    payload = {key: value for key, value in document.items() if key != "schema"}
    out.emit(
        SCHEMA,
        payload,
        lambda console: render(console, document, output),
        quiet=text_of(document) if output is None else str(output),
    )
    return EXIT_INTERRUPTED if document["interrupted"] else 0


def _here(bundle: Bundle, ask: Ask, out: Output) -> dict[str, Any]:
    import tempfile
    import time
    from datetime import UTC, datetime

    import psutil

    from edgekit.agent.vitals import reader
    from edgekit.runtime.bench import Hooks, run

    with (
        tempfile.TemporaryDirectory(prefix="edgekit-bench-") as folder,
        out.progress() as progress,
        _interrupts() as interrupted,
    ):
        bar = progress.add_task(f"bench {bundle.manifest.model}", total=round(ask.total_s))

        def on_progress(done_s: float, total_s: float) -> None:
            progress.update(bar, completed=int(done_s), total=round(total_s))

        return run(
            bundle.manifest,
            bundle.read,
            sha256=bundle.sha256(),
            ask=ask,
            machine=_machine(bundle.manifest.target.name),
            hooks=Hooks(
                folder=Path(folder),
                date=datetime.now(UTC).date().isoformat(),
                vitals=reader(psutil, Path("/"), Path.cwd(), time.monotonic),
                on_progress=on_progress,
                stop=interrupted,
            ),
        )


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Take the first Ctrl-C as "enough"; a second one ends the program."""
    import signal

    seen = False

    def handle(_number: int, _frame: object) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, before)


def _machine(target: str) -> Machine:
    from edgekit.runtime.bench import Machine, board_name, is_one_of
    from edgekit.runtime.host import host_kind
    from edgekit.toolchain.project import folders
    from edgekit.toolchain.targets import load_target
    from edgekit.wire.errors import ConfigError

    host, board = host_kind(), board_name(Path("/"))
    try:
        title = load_target(target, folders(Path.cwd(), "targets")).target.title
    except ConfigError:
        title = target
    same = is_one_of(target, title, host=host, board=board)
    return Machine(host, board, None, target if same else None)


def _on_device(device: str, home: Path, bundle: Bundle, ask: Ask, out: Output) -> dict[str, Any]:
    """Let a device of the fleet measure the bundle that it serves, while it goes on serving.

    Raises:
        ConfigError: There is no fleet in the folder.
        DeviceError: The device does not answer, or serves another bundle.
    """
    import secrets

    from edgekit.fleet.ask import ANSWER_S, command_of
    from edgekit.fleet.ask import ask as ask_device
    from edgekit.fleet.broker import credentials
    from edgekit.fleet.home import FleetHome
    from edgekit.fleet.publisher import BrokerAddress
    from edgekit.fleet.settings import load_settings
    from edgekit.wire.errors import DeviceError

    place = FleetHome.open(home)
    settings = load_settings(place)
    address = BrokerAddress(settings.broker_host, settings.broker_port, *credentials(place, "web"))
    args = {
        "model": bundle.manifest.model,
        "threads": ask.threads,
        "sustained_s": ask.sustained_s,
    }
    command = command_of(f"bench-{secrets.token_hex(8)}", "benchmark", args)
    with out.progress() as progress, _interrupts() as interrupted:
        progress.add_task(f"{device} measures {bundle.manifest.model}", total=None)
        found = ask_device(
            address,
            settings.name,
            device,
            command,
            timeout_s=ask.total_s + ANSWER_S,
            is_over=interrupted,
        )
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise DeviceError(
            f"{device} answers with no benchmark", hint="update edgekit on the device"
        )
    if found.get("bundle_sha256") != bundle.sha256():
        raise DeviceError(
            f"{device} serves another bundle of {bundle.manifest.model}",
            hint=f"edgekit fleet deploy {bundle.path} --device {device}",
        )
    return found


def _check_output(output: Path | None) -> None:
    from edgekit.wire.errors import UsageError

    if output is not None and output.suffix not in (".html", ".svg", ".json"):
        raise UsageError(
            "the suffix says what -o writes, and this one says nothing",
            hint="a .html, .svg or .json file",
            where=str(output),
        )


def _write(output: Path, document: dict[str, Any]) -> None:
    import json

    from edgekit.wire.errors import ConfigError

    if output.suffix == ".json":
        data = json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
    else:
        from edgekit.toolchain.report.bench_page import bench_figure, render_bench_page

        is_page = output.suffix == ".html"
        data = render_bench_page(document).encode() if is_page else bench_figure(document)
    try:
        output.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(output)) from error
