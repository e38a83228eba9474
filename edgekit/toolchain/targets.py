"""Read ``targets/*.toml``: families by ``extends``, a project's own files over the packaged ones.

Every file is checked by itself first (types and key names, with its own lines in the messages);
then the files are laid over each other key by key, and only the merged result must be complete:

    base of ``extends`` (packaged, then project)  <  packaged NAME.toml  <  the project's NAME.toml
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.toolchain.target import Accelerator, Cpu, Memory, Quantization, Runtime, Target
from edgekit.wire.errors import ConfigError, did_you_mean
from edgekit.wire.located import Table, load_toml

MAX_EXTENDS = 8

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VERSION = re.compile(r"\d+(\.\d+)*|none")

# What a target file may say: dotted key → type. ``tuple`` is a list of strings.
KEYS: Mapping[str, type] = {
    "title": str,
    "family": str,
    "refused": str,
    "cpu.arch": str,
    "cpu.core": str,
    "cpu.cores": int,
    "cpu.clock_mhz": int,
    "cpu.features": tuple,
    "cpu.fp32_gflops": float,
    "cpu.int8_gops": float,
    "cpu.qemu": str,
    "memory.size_mib": int,
    "memory.bandwidth_mib_s": float,
    "memory.cache_kib": int,
    "runtime.onnxruntime_max": str,
    "runtime.opset_max": int,
    "runtime.python": str,
    "runtime.threads": int,
    "runtime.static_shapes": bool,
    "quantization.activation": str,
    "quantization.weight": str,
    "quantization.per_channel": bool,
    "quantization.reduce_range": bool,
    "quantization.static_ops": tuple,
    "quantization.between_ops": tuple,
    "quantization.dynamic_ops": tuple,
    "accelerator.name": str,
    "accelerator.int8_tops": float,
    "accelerator.used": bool,
    "accelerator.note": str,
}
_OPTIONAL = {"refused", "cpu.qemu", "memory.cache_kib", "runtime.static_shapes"}
_SECTIONS = ("cpu", "memory", "runtime", "quantization", "accelerator")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "cpu.arch": ("arm64", "x86-64", "armv7", "riscv64"),
    "quantization.activation": ("uint8", "int8"),
    "quantization.weight": ("int8",),
}
_POSITIVE = {
    "cpu.cores",
    "cpu.clock_mhz",
    "cpu.fp32_gflops",
    "cpu.int8_gops",
    "memory.size_mib",
    "memory.bandwidth_mib_s",
    "runtime.threads",
}


@dataclass(frozen=True)
class Resolved:
    """A target, and where each of its values stands.

    Attributes:
        target: The merged facts.
        values: The same by dotted key, as written.
        origins: Dotted key → ``file:line``.
        files: The files that were read, the base first.
    """

    target: Target
    values: Mapping[str, Any]
    origins: Mapping[str, str]
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Layer:
    values: dict[str, Any]
    origins: dict[str, str]
    extends: str | None
    extends_at: str
    file: str


def list_targets(folders: Sequence[Path]) -> list[str]:
    """Return the names of all targets, sorted.

    Args:
        folders: Packaged first, the project's own after it; missing ones are passed over.
    """
    return sorted({p.stem for folder in folders for p in folder.glob("*.toml") if p.is_file()})


def load_target(name: str, folders: Sequence[Path]) -> Resolved:
    """Read one target.

    Args:
        name: ``rpi5``.
        folders: Packaged first; a later folder's file overlays an earlier one's key by key.

    Raises:
        ConfigError: No such target; a file is malformed, has an unknown key or a wrong type; a
            value is missing or out of range; ``extends`` runs in a circle. Names file and line.
    """
    values, origins, files = _merge(name, folders, chain=(), at=None)
    return Resolved(_target(name, values, origins, files[-1]), values, origins, files)


def _merge(
    name: str, folders: Sequence[Path], *, chain: tuple[str, ...], at: str | None
) -> tuple[dict[str, Any], dict[str, str], tuple[str, ...]]:
    if name in chain:
        raise ConfigError(
            f'"extends" runs in a circle: {" → ".join((*chain, name))}',
            hint="a project's file overlays the packaged one of the same name without `extends`"
            if chain[-1] == name
            else "remove one of them",
            where=at,
        )
    if len(chain) >= MAX_EXTENDS:
        raise ConfigError(f'"extends" is over {MAX_EXTENDS} targets deep', where=at)
    layers = _layers(name, folders, at)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    files: tuple[str, ...] = ()
    extending = next((layer for layer in reversed(layers) if layer.extends), None)
    if extending is not None and extending.extends:
        values, origins, files = _merge(
            extending.extends, folders, chain=(*chain, name), at=extending.extends_at
        )
        # A refusal is of one target, not of its family.
        values.pop("refused", None)
        origins.pop("refused", None)
    for layer in layers:
        values.update(layer.values)
        origins.update(layer.origins)
        files = (*files, layer.file)
    return values, origins, files


def _layers(name: str, folders: Sequence[Path], at: str | None) -> list[_Layer]:
    known = list_targets(folders)
    if name not in known:
        close = did_you_mean(name, known)
        listing = f"`edgekit targets list` shows all {len(known)}."
        raise ConfigError(
            f'no target named "{name}"',
            hint=f"did you mean {close}? {listing}" if close else listing,
            where=at,
        )
    paths = [path for folder in folders if (path := folder / f"{name}.toml").is_file()]
    # Two files of one name: the packaged one is marked, so that an origin names one file only.
    return [
        _read(path, f"targets/{path.name}" if path == paths[-1] else f"edgekit:targets/{path.name}")
        for path in paths
    ]


def _read(path: Path, shown_as: str) -> _Layer:
    if not _NAME.fullmatch(path.stem):
        raise ConfigError(
            "a target's file is named with lower-case letters, digits, dots and dashes",
            where=shown_as,
        )
    root = load_toml(path, shown_as)
    extends = root.optional("extends", str)
    tables: dict[str, Table] = {"": root}
    tables |= {section: root.table(section) for section in _SECTIONS}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for dotted, kind in KEYS.items():
        section, _, key = dotted.rpartition(".")
        table = tables[section]
        value = table.strings(key, ()) if kind is tuple else table.optional(key, kind)
        if table.has(key):
            _check(dotted, value, table.where(key))
            values[dotted] = value
            origins[dotted] = table.where(key)
    for table in tables.values():
        table.close()
    return _Layer(values, origins, extends, root.where("extends"), root.file)


def _check(dotted: str, value: Any, where: str) -> None:  # noqa: ANN401 - any TOML value
    choices = _CHOICES.get(dotted)
    if choices and value not in choices:
        close = did_you_mean(str(value), choices)
        raise ConfigError(
            f'"{dotted}" is "{value}", expected one of {", ".join(choices)}',
            hint=f"did you mean {close}?" if close else None,
            where=where,
        )
    if dotted in _POSITIVE and not 0 < value < float("inf"):
        raise ConfigError(f'"{dotted}" must be over 0', where=where)
    if dotted in ("runtime.opset_max", "memory.cache_kib", "accelerator.int8_tops") and not (
        0 <= value < float("inf")
    ):
        raise ConfigError(f'"{dotted}" must not be negative', where=where)
    if dotted in ("runtime.onnxruntime_max", "runtime.python") and not _VERSION.fullmatch(value):
        raise ConfigError(
            f'"{dotted}" is "{value}", expected a version', hint='like "1.31"', where=where
        )


def _target(name: str, values: Mapping[str, Any], origins: Mapping[str, str], file: str) -> Target:
    has_accelerator = any(key.startswith("accelerator.") for key in values)
    for key in KEYS:
        needed = key not in _OPTIONAL and (has_accelerator or not key.startswith("accelerator."))
        if needed and key not in values:
            raise ConfigError(
                f'"{key}" is missing from the target "{name}"',
                hint='say it there, or take a family\'s values: extends = "generic-arm64"',
                where=file,
            )
    sections: dict[str, dict[str, Any]] = {section: {} for section in ("", *_SECTIONS)}
    for dotted, value in values.items():
        section, _, key = dotted.rpartition(".")
        sections[section][key] = value
    target = Target(
        name=name,
        cpu=Cpu(**sections["cpu"]),
        memory=Memory(**sections["memory"]),
        runtime=Runtime(**sections["runtime"]),
        quantization=Quantization(**sections["quantization"]),
        accelerator=Accelerator(**sections["accelerator"]) if has_accelerator else None,
        **sections[""],
    )
    if target.runtime.threads > target.cpu.cores:
        raise ConfigError(
            f"{target.runtime.threads} threads on {target.cpu.cores} cores",
            where=origins["runtime.threads"],
        )
    return target
