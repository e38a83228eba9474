"""``edgekit verify``: replay a bundle's golden samples, here or on emulated Arm cores."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import Output, common_options, show_error
from edgekit.wire.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from edgekit.runtime.golden import OutputMatch
    from edgekit.toolchain.proof import Proof
    from edgekit.wire.bundle import Bundle
    from edgekit.wire.manifest import Tolerance

_PATH = click.Path(path_type=Path)
_LISTED = 24
_MISSING = 1e30  # no difference of two outputs is that large


@click.command("verify")
@click.argument("bundle", type=_PATH)
@click.option("--emulate", is_flag=True, help="Replay on an emulated aarch64 core (qemu-user).")
@click.option(
    "--cpu",
    "cpus",
    multiple=True,
    metavar="CORE",
    help="Emulated core: cortex-a53, cortex-a76, …; may be given more than once. "
    "Default: the one that stands for the bundle's target.",
)
@click.option(
    "--key",
    "keys",
    type=_PATH,
    multiple=True,
    metavar="PUB.pem",
    help="Public key to trust; may be given more than once. Default: this machine's own key.",
)
@click.option("--timeout", "timeout_s", type=float, default=900.0, help="Seconds for one replay.")
@click.option("--offline", is_flag=True, default=None, help="Fetch nothing; use the cache alone.")
@common_options
def command(
    bundle: Path,
    emulate: bool,
    cpus: tuple[str, ...],
    keys: tuple[Path, ...],
    timeout_s: float,
    offline: bool | None,
    out: Output,
) -> int:
    """Replay a bundle's golden samples and compare every output with what the bundle expects.

    Signature and digests are checked first (exit 7). The runtime that answers is the device's own
    code. Outputs beyond the manifest's tolerance end in exit 8.

    \b
    Examples:
      edgekit verify dist/digits-cnn-rpi5.ekb
      edgekit verify dist/digits-cnn-rpi5.ekb --emulate --cpu cortex-a53 --cpu cortex-a76
    """
    from edgekit.cli.trust import open_trusted

    with open_trusted(bundle, keys) as opened:
        if emulate or cpus:
            proofs = _emulated(opened, cpus, timeout_s, offline, out)
        else:
            from edgekit.toolchain.proof import HERE, prove

            proofs = [prove(opened, HERE, cpu=None, timeout_s=timeout_s)]
        golden = opened.manifest.golden
        signer = opened.signed_by.label if opened.signed_by else opened.manifest.key_id
        payload = {
            "path": str(bundle),
            "model": opened.manifest.model,
            "target": opened.manifest.target.name,
            "signed_by": signer,
            "golden": opened.manifest.to_json()["golden"],
            "ok": all(proof.ok for proof in proofs),
            "proofs": [_document(proof) for proof in proofs],
        }
    out.emit(
        "edgekit.verify/1",
        payload,
        lambda console: _render(console, bundle, signer, proofs, golden.tolerance),
        quiet="ok" if payload["ok"] else "failed",
    )
    if payload["ok"]:
        return 0
    bad = [proof.where for proof in proofs if not proof.ok]
    error = DeviceError(
        f"outputs are out of tolerance on {', '.join(bad)}",
        hint=_hint(proofs),
        where=str(bundle),
    )
    if not out.json:  # with --json the one document has said it
        show_error(error, as_json=False)
    return error.exit_code


def _emulated(
    bundle: Bundle, cpus: Sequence[str], timeout_s: float, offline: bool | None, out: Output
) -> list[Proof]:
    import os

    from edgekit.toolchain.cache import Cache
    from edgekit.toolchain.emulate import Emulator
    from edgekit.toolchain.events import Event
    from edgekit.toolchain.proof import cores_for, prove
    from edgekit.toolchain.settings import load_settings

    def note(event: Event) -> None:
        if not event.cached and event.detail:
            out.note(f"  {event.stage}: {event.detail}")

    target = bundle.manifest.target
    cores = cores_for(target.family, _qemu(target.name), cpus)
    settings = load_settings(Path.cwd(), {"offline": offline}, os.environ)
    machine = Emulator.prepare(Cache(settings.cache_dir), on_event=note, offline=settings.offline)
    proofs = []
    with out.progress() as progress:
        bar = progress.add_task("replay", total=len(cores))
        for core in cores:
            progress.update(bar, description=f"replay on {core}")
            proofs.append(prove(bundle, machine, cpu=core, timeout_s=timeout_s))
            progress.advance(bar)
    return proofs


def _qemu(target: str) -> str | None:
    """Return the core that stands for a target, where this installation knows the target."""
    from edgekit.toolchain.project import folders
    from edgekit.toolchain.targets import load_target
    from edgekit.wire.errors import ConfigError

    try:
        return load_target(target, folders(Path.cwd(), "targets")).target.cpu.qemu
    except ConfigError:
        return None


def _hint(proofs: Sequence[Proof]) -> str:
    from edgekit.runtime.host import Arithmetic, host_arithmetic

    here = any(proof.where.endswith("host") for proof in proofs)
    if here and host_arithmetic() is Arithmetic.SATURATING:
        return "this CPU has no VNNI and saturates int8 products: verify with --emulate"
    return "the runtime here computes other numbers than the one that made the bundle"


def _document(proof: Proof) -> dict[str, Any]:
    return {
        "where": proof.where,
        "host": proof.host,
        "ok": proof.ok,
        "exact": proof.exact,
        "seconds": round(proof.seconds, 3),
        "matches": [asdict(match) for match in proof.matches],
    }


def _render(
    console: Console, path: Path, signer: str, proofs: Sequence[Proof], tolerance: Tolerance
) -> None:
    console.print(f"  {path}   signed by {signer}", markup=False, soft_wrap=True)
    for proof in proofs:
        bad = [match for match in proof.matches if not match.within]
        samples = len({match.sample for match in proof.matches})
        result = "equal bit for bit" if proof.exact else "within tolerance"
        if bad:
            result = f"{len(bad)} of {len(proof.matches)} outputs out of tolerance"
        console.print(
            f"  {'✗' if bad else '✓'} {proof.where:<22} {samples} samples: {result}"
            f"   ({proof.seconds:.1f} s)",
            markup=False,
            soft_wrap=True,
        )
        _render_matches(console, proof, bad or _worst(proof), tolerance)
    if all(proof.ok for proof in proofs):
        console.print(f"  next: edgekit run {path} INPUT", markup=False, soft_wrap=True)


def _worst(proof: Proof) -> list[OutputMatch]:
    """Return the farthest sample of each output."""
    worst: dict[str, OutputMatch] = {}
    for match in proof.matches:
        if match.output not in worst or match.max_abs > worst[match.output].max_abs:
            worst[match.output] = match
    return list(worst.values())


def _render_matches(
    console: Console, proof: Proof, matches: Sequence[OutputMatch], tolerance: Tolerance
) -> None:
    if proof.exact:
        return
    from rich.table import Table

    limit = "0 (exact)" if tolerance.exact else f"≤ {tolerance.absolute:g}"
    table = Table(box=None, padding=(0, 2, 0, 2), show_edge=False)
    for header in ("sample", "output", "difference", "tolerance", "cosine", "agreement"):
        left = header == "output"
        table.add_column(header, justify="left" if left else "right", overflow="fold")
    for match in matches[:_LISTED]:
        table.add_row(
            str(match.sample),
            match.output,
            f"{match.max_abs:.2e}" if match.max_abs < _MISSING else "missing",
            limit,
            f"{match.cosine:.5f}",
            f"{match.agreement:.3f}",
            style="" if match.within else "red",
        )
    console.print(table)
    if len(matches) > _LISTED:
        console.print(f"  and {len(matches) - _LISTED} more; --json lists all")
