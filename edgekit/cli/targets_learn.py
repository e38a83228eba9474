"""``edgekit targets learn``: what benchmarks say of a target, as a diff to review."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import EdgekitError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.toolchain.learn import Fit

_FAR = 1.5
_PATH = click.Path(path_type=Path)


@click.command("learn")
@click.argument("benches", nargs=-1, required=True, type=_PATH, metavar="BENCH.json…")
@click.option(
    "-t",
    "--target",
    metavar="TARGET",
    help="The target that learns. Default: the one that the benchmarks are of.",
)
@click.option(
    "--bundles",
    type=_PATH,
    default=Path("dist"),
    metavar="DIR",
    help="Folder with the bundles that were measured; dist/ by default.",
)
@click.option(
    "--key",
    "keys",
    type=_PATH,
    multiple=True,
    metavar="PUB.pem",
    help="Public key to trust; may be given more than once. Default: this machine's own key.",
)
@click.option(
    "--project",
    type=_PATH,
    default=Path(),
    help="Folder whose targets/ overlay the packaged ones.",
)
@click.option("--write", is_flag=True, help="Change the target's file; without it, show the diff.")
@common_options
def learn_command(
    benches: tuple[Path, ...],
    target: str | None,
    bundles: Path,
    keys: tuple[Path, ...],
    project: Path,
    write: bool,
    out: Output,
) -> None:
    """Fit a target's facts to benchmarks made on devices of its kind, and show the change.

    At least three bundles' documents are needed, from `edgekit bench --json`, and the bundles
    themselves. Effective fp32 and int8 throughput and memory bandwidth are moved until the roofline
    predicts what was measured; what the models do not tell stays. Nothing is written without
    --write.

    \b
    Examples:
      edgekit targets learn *.bench.json --target rpi5
      edgekit targets learn a.json b.json c.json --bundles dist/ --write
    """
    found, payload, changed = _learn(benches, target, bundles, keys, project)
    for row in payload["left_out"]:
        out.note(f"  left out: {row['path']}: {row['reason']}")
    if write and payload["diff"]:
        _write(Path(payload["file"]), changed)
        payload["written"] = True
    out.emit(
        "edgekit.targets.learn/1",
        payload,
        lambda console: _render(console, found, payload),
        quiet=payload["diff"].rstrip("\n"),
    )


def _learn(
    benches: tuple[Path, ...],
    target: str | None,
    bundles: Path,
    keys: tuple[Path, ...],
    project: Path,
) -> tuple[Fit, dict[str, Any], str]:
    """Return what was learned, the document of it, and the text that the target's file is to have.

    Raises:
        ConfigError: Nothing can be learned from these benchmarks.
    """
    from edgekit.cli.trust import open_trusted
    from edgekit.toolchain import learn_files as files
    from edgekit.toolchain.learn import fit
    from edgekit.toolchain.project import folders
    from edgekit.toolchain.targets import load_target

    read = [files.read_bench(path) for path in benches]
    name = files.check_target(read, target)
    resolved = load_target(name, folders(project, "targets"))
    seen, left_out = files.observations(read, bundles, lambda path: open_trusted(path, keys))
    try:
        found = fit(seen, resolved.target)
    except EdgekitError as error:
        if left_out and error.hint:
            error.hint += "".join(f"\n  left out: {path}: {why}" for path, why in left_out)
        raise
    used = [bench for bench in read if bench.path not in dict(left_out)]
    file = project / "targets" / f"{name}.toml"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    before = {fact.key: fact.before for fact in found.facts}
    note = files.source_note(used, len(found.rows))
    changed = files.edited(text, found.changed, before, note)
    payload = {
        "target": name,
        "file": str(file),
        "written": False,
        "left_out": [{"path": path, "reason": reason} for path, reason in left_out],
        **_document(found),
        "diff": files.unified(text, changed, f"targets/{name}.toml") if found.changed else "",
    }
    return found, payload, changed


def _write(file: Path, text: str) -> None:
    from edgekit.wire.errors import ConfigError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        staged = file.with_name(f".{file.name}.part")
        staged.write_text(text, encoding="utf-8")
        staged.replace(file)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(file)) from error


def _document(found: Fit) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "facts": [asdict(fact) for fact in found.facts],
        "models": [asdict(row) for row in found.rows],
        "off_before": round(found.off(after=False), 4),
        "off_after": round(found.off(after=True), 4),
    }


def _render(console: Console, found: Fit, payload: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 2), show_edge=False)
    table.add_column("model")
    for header in ("measured ms", "predicted ms", "then ms"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in found.rows:
        table.add_row(
            row.name, f"{row.measured_ms:.3g}", f"{row.before_ms:.3g}", f"{row.after_ms:.3g}"
        )
    console.print(table)
    console.print(
        f"  predictions are off by a factor of {payload['off_before']:.2f}, "
        f"then {payload['off_after']:.2f}\n",
        markup=False,
    )
    for fact in found.facts:
        console.print(f"  {_said(fact.key, fact.before, fact.after, fact.error)}", markup=False)
    console.print("  overhead_cycles is edgekit's own assumption: shown, never written")
    if payload["off_after"] > _FAR:
        console.print(
            "  what is left is none of these facts: compare cpu.clock_mhz with the device's clock",
            markup=False,
        )
    if not payload["diff"]:
        console.print("\n  nothing to change", markup=False)
        return
    console.print(f"\n{payload['diff']}", markup=False, soft_wrap=True)
    next_ = f"written to {payload['file']}; next: edgekit targets show {payload['target']}"
    if not payload["written"]:
        next_ = "next: the same with --write, then edgekit build again"
    console.print(f"  {next_}", markup=False, soft_wrap=True)


def _said(key: str, before: float, after: float | None, error: float | None) -> str:
    if after is not None and error is not None:
        return f"{key:<24} {before:g} → {after:g}, ± {error:.0%}"
    why = "these models do not tell it" if error is None else _how_wide(error)
    return f"{key:<24} {before:g} stays: {why}"


def _how_wide(error: float) -> str:
    if error > 1:
        return "these models do not tell it from the others"
    return f"these models tell it only to ± {error:.0%}"
