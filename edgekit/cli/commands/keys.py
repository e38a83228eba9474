"""``edgekit keys``: the Ed25519 keys that sign bundles."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.groups import Group
from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import TrustError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.wire.signing import PublicKey


def key_file_option(function: Any) -> Any:  # noqa: ANN401 - a decorator of any command
    """Add ``--key-file``, the setting of the signing key."""
    return click.option(
        "--key-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The signing key, instead of the developer key. [EDGEKIT_KEY_FILE]",
    )(function)


def own_key_file(key_file: Path | None) -> Path:
    """Return the signing key's file as the settings have it."""
    from edgekit.toolchain.settings import load_settings

    return load_settings(Path.cwd(), {"key_file": key_file}, os.environ).key_file


@click.group("keys", cls=Group, default="list")
def command() -> None:
    """Show, list, create and export signing keys.

    The first build makes a developer key, so there is no need to start here.

    \b
    Examples:
      edgekit keys
      edgekit keys export -o dev.pub.pem
    """


@command.command("show")
@click.argument("name", required=False)
@key_file_option
@common_options
def show(name: str | None, key_file: Path | None, out: Output) -> None:
    """Show a signing key's id and its public half; the developer key without a NAME.

    \b
    Example:
      edgekit keys show
      edgekit keys show release --json
    """
    path, key = _public(name, key_file)

    def render(console: Console) -> None:
        console.print(f"  {key.label}   Ed25519, id {key.key_id}", markup=False)
        console.print(f"  {path}\n", markup=False, soft_wrap=True)
        console.print(key.to_pem().decode(), markup=False, end="", soft_wrap=True)
        console.print("\n  next: edgekit keys export -o " + f"{key.name}.pub.pem", markup=False)

    out.emit("edgekit.keys.show/1", _described(path, key), render, quiet=key.key_id)


@command.command("list")
@key_file_option
@common_options
def list_(key_file: Path | None, out: Output) -> None:
    """List this machine's signing keys.

    \b
    Example:
      edgekit keys list
    """
    from edgekit.toolchain.keys import key_files
    from edgekit.wire.signing import load_private_key

    own = own_key_file(key_file)
    found: list[tuple[Path, PublicKey | None, str]] = []
    for path in key_files(own.parent):
        try:
            found.append((path, load_private_key(path).public, ""))
        except TrustError as error:
            found.append((path, None, error.message))

    def render(console: Console) -> None:
        from rich.text import Text

        for path, key, problem in found:
            label = key.label if key else path.stem
            mark = "signs" if path == own else ""
            status = f"id {key.key_id}" if key else problem
            line = Text(f"  {label:<12}  {status:<11}  {mark:<5}  {path}")
            console.print(line, soft_wrap=True)
        if not found:
            console.print("  no keys yet: the first build makes one, or `edgekit keys create`")

    payload = {
        "keys": [
            {**_described(path, key), "signs": path == own}
            if key
            else {"path": str(path), "problem": problem, "signs": path == own}
            for path, key, problem in found
        ]
    }
    names = "\n".join(key.key_id for _, key, _ in found if key)
    out.emit("edgekit.keys.list/1", payload, render, quiet=names or None)


@command.command("create")
@click.argument("name", required=False)
@key_file_option
@common_options
def create(name: str | None, key_file: Path | None, out: Output) -> None:
    """Create a signing key; the developer key without a NAME. Never replaces one.

    \b
    Example:
      edgekit keys create release
      edgekit build digits-cnn --target rpi5 --key-file ~/.config/edgekit/keys/release.pem
    """
    from edgekit.toolchain.keys import create_key, named_key_file

    path = named_key_file(own_key_file(key_file), name)
    exists = UsageError(
        "the key exists, and a key is never replaced",
        hint="`edgekit keys create NAME` makes another",
        where=str(path),
    )
    if path.exists():
        raise exists
    private, created = create_key(path)
    if not created:
        raise exists
    key = private.public

    def render(console: Console) -> None:
        console.print(f"  created {key.label}, id {key.key_id}, readable by you alone")
        console.print(f"  {path}", markup=False, soft_wrap=True)
        console.print("  next: back it up; who loses it cannot sign for its devices again")

    out.emit("edgekit.keys.create/1", _described(path, key), render, quiet=str(path))


@command.command("export")
@click.argument("name", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write; stdout without it.",
)
@key_file_option
@common_options
def export(name: str | None, output: Path | None, key_file: Path | None, out: Output) -> None:
    """Write a key's public half as PEM, for devices, `bundle verify --key` and openssl.

    \b
    Example:
      edgekit keys export -o dev.pub.pem
      openssl pkeyutl -verify -pubin -inkey dev.pub.pem -rawin -in manifest.json \\
          -sigfile manifest.sig
    """
    path, key = _public(name, key_file)
    if output is not None:
        try:
            output.write_bytes(key.to_pem())
        except OSError as error:
            raise UsageError(f"cannot be written: {error.strerror}", where=str(output)) from error
    pem = key.to_pem().decode()

    def render(console: Console) -> None:
        if output is None:
            console.print(pem, markup=False, end="", soft_wrap=True)
        else:
            console.print(f"  {output}   public key {key.label}", markup=False, soft_wrap=True)

    payload = {**_described(path, key), "output": str(output) if output else None}
    shown = str(output) if output else pem.rstrip("\n")
    out.emit("edgekit.keys.export/1", payload, render, quiet=shown)


def _public(name: str | None, key_file: Path | None) -> tuple[Path, PublicKey]:
    from edgekit.toolchain.keys import named_key_file
    from edgekit.wire.signing import load_private_key

    path = named_key_file(own_key_file(key_file), name)
    return path, load_private_key(path).public


def _described(path: Path, key: PublicKey) -> dict[str, str]:
    return {
        "name": key.name,
        "label": key.label,
        "key_id": key.key_id,
        "path": str(path),
        "public_pem": key.to_pem().decode(),
    }
