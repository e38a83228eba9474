"""``edgekit bundle``: look into bundles, check them, compare them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.commands.keys import key_file_option
from edgekit.cli.groups import Group
from edgekit.cli.output import Output, common_options
from edgekit.cli.trust import trusted_keys
from edgekit.wire.errors import TrustError

if TYPE_CHECKING:
    from edgekit.wire.bundle import Bundle
    from edgekit.wire.results import Results
    from edgekit.wire.signing import PublicKey

_FILE = click.Path(path_type=Path)


def _keys_option(function: Any) -> Any:  # noqa: ANN401 - a decorator of any command
    return click.option(
        "--key",
        "keys",
        type=_FILE,
        multiple=True,
        metavar="PUB.pem",
        help="Public key to trust; may be given more than once. Default: this machine's own key.",
    )(function)


@click.group("bundle", cls=Group)
def command() -> None:
    """Show, verify and compare bundles (.ekb files).

    \b
    Example:
      edgekit bundle show dist/digits-cnn-rpi5.ekb
    """


@command.command("show")
@click.argument("bundle", type=_FILE)
@_keys_option
@key_file_option
@common_options
def show(bundle: Path, keys: tuple[Path, ...], key_file: Path | None, out: Output) -> None:
    """Show what a bundle is: contract, measurements, members, who signed it.

    A bundle of an unknown signer is shown too, and marked as unchecked.

    \b
    Example:
      edgekit bundle show dist/digits-cnn-rpi5.ekb
      edgekit bundle show dist/digits-cnn-rpi5.ekb --json
    """
    from edgekit.cli.bundle_view import render_show
    from edgekit.wire.bundle import open_bundle

    trusted = trusted_keys(keys, key_file)
    with open_bundle(bundle, None) as opened:
        signer = _signer(opened, trusted)
        results = _results(opened)
        payload = {
            "path": str(bundle),
            "sha256": opened.sha256(),
            "size_bytes": opened.size_bytes,
            "signature_checked": signer is not None,
            "signed_by": signer.label if signer else None,
            "manifest": opened.manifest.to_json(),
            "measurements": _measurements_json(results),
            "contract": _contract_json(opened, results),
        }
        out.emit(
            "edgekit.bundle.show/1",
            payload,
            lambda console: render_show(console, opened, signer, results, verbose=out.verbose),
            quiet=opened.sha256(),
        )


@command.command("verify")
@click.argument("bundle", type=_FILE)
@_keys_option
@click.option("--target", help="Refuse a bundle that was built for another target.")
@click.option("--installed-serial", type=int, help="Refuse a bundle with a lower serial.")
@key_file_option
@common_options
def verify(
    bundle: Path,
    keys: tuple[Path, ...],
    target: str | None,
    installed_serial: int | None,
    key_file: Path | None,
    out: Output,
) -> None:
    """Check signature, digests and every other byte of a bundle; exit 7 with the reason if not.

    \b
    Example:
      edgekit bundle verify dist/digits-cnn-rpi5.ekb
      edgekit bundle verify digits-cnn-rpi5.ekb --key release.pub.pem --target rpi5
    """
    from edgekit.wire.bundle import check_acceptable, open_bundle

    trusted = trusted_keys(keys, key_file)
    if not trusted:
        # What is wrong with the file itself comes first.
        open_bundle(bundle, None).close()
        raise TrustError(
            "there is no key to check the signature with",
            hint="--key PUB.pem names the signer's public key; this machine has no key of its own",
            where=str(bundle),
        )
    with open_bundle(bundle, trusted) as opened:
        manifest = opened.manifest
        try:
            check_acceptable(manifest, target=target, installed_serial=installed_serial)
        except TrustError as error:
            raise TrustError(error.message, hint=error.hint, where=str(bundle)) from error
        label = opened.signed_by.label if opened.signed_by else manifest.key_id
        payload = {
            "path": str(bundle),
            "sha256": opened.sha256(),
            "size_bytes": opened.size_bytes,
            "model": manifest.model,
            "serial": manifest.serial,
            "target": manifest.target.name,
            "key_id": manifest.key_id,
            "signed_by": label,
            "members": len(manifest.members),
        }
    summary = (
        f"  {bundle}   genuine: {payload['members']} members, signed by {label}\n"
        f"  {manifest.model} serial {manifest.serial} for {manifest.target.name}, "
        f"sha256 {payload['sha256']}"
    )
    out.emit(
        "edgekit.bundle.verify/1",
        payload,
        lambda console: console.print(summary, markup=False, soft_wrap=True),
        quiet=str(bundle),
    )


@command.command("diff")
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@common_options
def diff(old: Path, new: Path, out: Output) -> None:
    """Show what changed between two bundles: manifest, members, measurements, contract.

    Both are read whole and their digests checked; who signed them is not.

    \b
    Example:
      edgekit bundle diff old/digits-cnn-rpi5.ekb dist/digits-cnn-rpi5.ekb
    """
    from dataclasses import asdict

    from edgekit.cli.bundle_view import render_diff
    from edgekit.toolchain.bundle_diff import diff_bundles
    from edgekit.wire.bundle import open_bundle

    with open_bundle(old, None) as before, open_bundle(new, None) as after:
        changes = diff_bundles(before.manifest, after.manifest, _results(before), _results(after))
        same_bytes = before.sha256() == after.sha256()
    payload = {"old": str(old), "new": str(new), "same_bytes": same_bytes, **asdict(changes)}
    out.emit(
        "edgekit.bundle.diff/1",
        payload,
        lambda console: render_diff(console, changes, same_bytes=same_bytes),
        quiet="same" if changes.same else "different",
    )


def _signer(bundle: Bundle, trusted: Sequence[PublicKey]) -> PublicKey | None:
    for key in trusted:
        if key.key_id != bundle.manifest.key_id:
            continue
        if not key.verifies(bundle.manifest_bytes, bundle.signature):
            raise TrustError(
                f"the signature of key {key.label} does not hold", where=str(bundle.path)
            )
        return key
    return None


def _results(bundle: Bundle) -> Results | None:
    from edgekit.wire.bundle import MEASUREMENTS_NAME
    from edgekit.wire.results import parse_results

    if MEASUREMENTS_NAME not in bundle.manifest.members:
        return None
    return parse_results(
        bundle.read(MEASUREMENTS_NAME), where=f"{bundle.path}: {MEASUREMENTS_NAME}"
    )


def _measurements_json(results: Results | None) -> dict[str, Any] | None:
    if results is None:
        return None
    return {
        "shipped": [measurement.to_json() for measurement in results.shipped],
        "fp32": [measurement.to_json() for measurement in results.fp32],
    }


def _contract_json(bundle: Bundle, results: Results | None) -> list[dict[str, Any]] | None:
    if results is None:
        return None
    return [
        {
            **verdict.requirement.to_json(),
            "value": verdict.measurement.value if verdict.measurement else None,
            "outcome": verdict.outcome.value,
        }
        for verdict in results.judge(bundle.manifest.contract)
    ]
