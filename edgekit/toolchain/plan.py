"""Plans: a recipe and a target resolved into ordered steps, every value with its origin.

A plan is computed from text alone: nothing is fetched and no model is opened, so printing it and
finding out that nothing has changed take milliseconds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgekit
from edgekit.toolchain.pins import content_sha256, digest_files, version_of
from edgekit.toolchain.recipe import DataSpec, Recipe, SourceRef
from edgekit.toolchain.targets import Resolved
from edgekit.wire.canonical import Json, digest_of
from edgekit.wire.errors import ConfigError
from edgekit.wire.located import Value

PACKAGE = Path(edgekit.__file__).parent

# QDQ with per-channel weights needs 13; everything since 17 has LayerNormalization as one operator.
OPSET_MIN = 17
CALIBRATION_FEEDS = 64
# Shares of the layers that stay float32, least first: see proposals._loudest.
FLOAT_SHARES = {
    "quick": (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    "full": (
        0.0,
        0.02,
        0.04,
        0.06,
        0.08,
        0.1,
        0.15,
        0.2,
        0.25,
        0.3,
        0.35,
        0.4,
        0.45,
        0.5,
        0.6,
        0.7,
    ),
}

QUICK = Value("quick", "default")

# What each step's result rests on beside its parameters: these files' text is part of its key.
STEP_CODE: Mapping[str, tuple[str, ...]] = {
    "export": ("toolchain/export*.py",),
    "canonicalise": ("toolchain/passes/*.py", "toolchain/graph.py"),
    "calibrate": (
        "toolchain/quantize/*.py",
        "toolchain/passes/*.py",
        "toolchain/calibration.py",
        "toolchain/compare.py",
        "toolchain/samples.py",
        "toolchain/verify.py",
    ),
    "quantize": (
        "toolchain/quantize/*.py",
        "toolchain/passes/*.py",
        "toolchain/calibration.py",
        "toolchain/compare.py",
        "toolchain/decide.py",
        "toolchain/proposals.py",
        "toolchain/timing.py",
    ),
    "verify": ("runtime/*.py", "toolchain/verify.py", "toolchain/statistics.py"),
    "bundle": (
        "toolchain/assemble.py",
        "toolchain/steadiness.py",
        "toolchain/pack.py",
        "toolchain/reference.py",
        "toolchain/sbom.py",
        "wire/*.py",
        "runtime/golden.py",
    ),
}

# What decodes and draws samples: another version may give other pixels.
_TASK_TOOLS = ("Pillow", "soundfile")
_PREDICT_CODE = (
    "predict.py",
    "facts.py",
    "macs.py",
    "placement.py",
    "shapes.py",
    "fold.py",
    "data/roofline.json",
)


@dataclass(frozen=True)
class Step:
    """One step of a plan.

    Attributes:
        name: ``fetch``, ``export``, ``canonicalise``, ``calibrate``, ``quantize``, ``verify``,
            ``predict``, ``bundle``.
        params: Every value that the step reads, with its origin.
    """

    name: str
    params: Mapping[str, Value]

    def values(self) -> dict[str, Any]:
        """Return the values without their origins."""
        return {key: value.value for key, value in self.params.items()}


@dataclass(frozen=True)
class Plan:
    """A recipe for one target, resolved.

    Attributes:
        model: The recipe's name.
        target: The target's name.
        steps: In the order in which they run.
    """

    model: str
    target: str
    steps: tuple[Step, ...]

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of all values; origins do not count, so moving a line changes nothing."""
        return digest_of([self.model, self.target, [[s.name, s.values()] for s in self.steps]])

    @functools.cached_property
    def intent_sha256(self) -> str:
        """Digest of what was asked for: the plan without edgekit's own code and past decisions."""
        asked = [
            [s.name, {k: v for k, v in s.values().items() if k not in ("code", "decision")}]
            for s in self.steps
        ]
        return digest_of([self.model, self.target, asked])

    def step(self, name: str) -> Step:
        """Return a step by its name."""
        return next(step for step in self.steps if step.name == name)

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form: values with origins."""
        return {
            "model": self.model,
            "target": self.target,
            "sha256": self.sha256,
            "steps": [
                {
                    "name": step.name,
                    "params": {
                        key: {"value": value.value, "origin": value.origin}
                        for key, value in step.params.items()
                    },
                }
                for step in self.steps
            ],
        }


def make_plan(
    recipe: Recipe,
    resolved: Resolved,
    decision: Value | None = None,
    search: Value = QUICK,
) -> Plan:
    """Resolve a recipe for a target.

    Args:
        recipe: The recipe.
        resolved: The target with the origins of its values.
        decision: What ``edgekit.lock`` says was decided before, if anything.
        search: ``quick`` or ``full``: see :func:`edgekit.toolchain.decide.decide`.

    Raises:
        ConfigError: The target is refused, or needs static shapes that the recipe has not.
    """
    target = resolved.target
    if target.refused:
        raise ConfigError(
            f"nothing can be built for {target.name}: {target.refused}",
            where=resolved.origins.get("refused"),
        )
    dynamic = next((t for t in recipe.inputs if any(isinstance(d, str) for d in t.shape)), None)
    if target.runtime.static_shapes and dynamic is not None:
        raise ConfigError(
            f'input "{dynamic.name}" has a dynamic shape {list(dynamic.shape)}, and {target.name} '
            "needs every dimension at build time",
            hint="write numbers into its shape",
            where=recipe.value("inputs", None).origin,
        )
    steps = [_fetch_step(recipe)]
    if recipe.source.uri.startswith(("torch:", "hf:")):
        steps.append(_export_step(recipe))
    steps += [
        _canonical_step(recipe, resolved),
        _calibrate_step(recipe),
        _quantize_step(resolved, decision, search),
        _verify_step(recipe, target.name),
        _predict_step(resolved),
        _bundle_step(recipe, resolved),
    ]
    return Plan(recipe.name, target.name, tuple(steps))


def _fetch_step(recipe: Recipe) -> Step:
    params = {"source": recipe.value("source.uri", _pinned(recipe.source, recipe.folder))}
    for index, package in enumerate(recipe.packages):
        params[f"package {index + 1}"] = Value(_pinned(package, recipe.folder), package.where)
    for name, reference in recipe.task_files.items():
        params[f"file {name}"] = Value(_pinned(reference, recipe.folder), reference.where)
    return Step("fetch", params)


def _export_step(recipe: Recipe) -> Step:
    tools = (
        ("torch", "onnxscript")
        if recipe.source.uri.startswith("torch:")
        else (
            "torch",
            "optimum",
            "optimum-onnx",
            "transformers",
        )
    )
    return Step(
        "export",
        {
            "opset": Value(OPSET_MIN, "default"),
            "inputs": recipe.value(
                "inputs", [[t.name, t.dtype, list(t.shape)] for t in recipe.inputs]
            ),
            "export_task": recipe.value("source.export_task", recipe.export_task),
            "tools": Value({name: version_of(name) for name in tools}, "installed"),
            "code": _code("export", _factory_files(recipe)),
        },
    )


def _canonical_step(recipe: Recipe, resolved: Resolved) -> Step:
    runtime = resolved.target.runtime
    return Step(
        "canonicalise",
        {
            "opset_min": Value(OPSET_MIN, "default"),
            "opset_max": Value(runtime.opset_max, _origin(resolved, "runtime.opset_max")),
            "fixed": recipe.value(
                "inputs", {t.name: t.fixed for t in recipe.inputs if t.fixed is not None}
            ),
            "shapes": recipe.value("inputs", {t.name: list(t.shape) for t in recipe.inputs}),
            "static_shapes": Value(
                runtime.static_shapes, _origin(resolved, "runtime.static_shapes")
            ),
            "tools": Value({n: version_of(n) for n in ("onnx", "onnxruntime")}, "installed"),
            "code": _code("canonicalise"),
        },
    )


def _calibrate_step(recipe: Recipe) -> Step:
    readers = [f"toolchain/readers/{s.reader.replace('-', '_')}.py" for s in recipe.calibration]
    return Step(
        "calibrate",
        {
            "data": recipe.value(
                "calibration", [_data(s, recipe.folder) for s in recipe.calibration]
            ),
            "feeds": Value(CALIBRATION_FEEDS, "default"),
            "tools": Value({name: version_of(name) for name in _TASK_TOOLS}, "installed"),
            "code": _code("calibrate", [PACKAGE / r for r in readers]),
        },
    )


def _quantize_step(resolved: Resolved, decision: Value | None, search: Value) -> Step:
    scheme = resolved.target.quantization
    params = {
        key: Value(
            list(value) if isinstance(value, tuple) else value,
            _origin(resolved, f"quantization.{key}"),
        )
        for key, value in vars(scheme).items()
    }
    params["search"] = search
    params["float_shares"] = Value(list(FLOAT_SHARES[search.value]), search.origin)
    params["code"] = _code("quantize")
    if decision is not None:
        params["decision"] = decision
    return Step("quantize", params)


def _verify_step(recipe: Recipe, target: str) -> Step:
    contract = recipe.contract_for(target)
    readers = [f"toolchain/readers/{s.reader.replace('-', '_')}.py" for s in recipe.evaluation]
    task = f"runtime/tasks/{recipe.task.replace('-', '_')}.py"
    files = [PACKAGE / r for r in (*readers, task)]
    if recipe.metric:
        files.append(PACKAGE / f"toolchain/metrics/{recipe.metric}.py")
    return Step(
        "verify",
        {
            "task": recipe.value("task.name", recipe.task),
            "tools": Value({name: version_of(name) for name in _TASK_TOOLS}, "installed"),
            "task_options": recipe.value("task", dict(recipe.task_options)),
            "metric": recipe.value("evaluate.metric", recipe.metric),
            "data": recipe.value(
                "evaluation", [_data(s, recipe.folder) for s in recipe.evaluation]
            ),
            **{
                f"accept {r.metric}": Value(
                    {k: v for k, v in r.to_json().items() if k != "metric"}, r.where
                )
                for r in contract
            },
            "code": _code("verify", files),
        },
    )


def _predict_step(resolved: Resolved) -> Step:
    target = resolved.target
    facts = {
        "cpu.fp32_gflops": target.cpu.fp32_gflops,
        "cpu.int8_gops": target.cpu.int8_gops,
        "cpu.cores": target.cpu.cores,
        "memory.bandwidth_mib_s": target.memory.bandwidth_mib_s,
        "runtime.threads": target.runtime.threads,
    }
    params = {key: Value(value, _origin(resolved, key)) for key, value in facts.items()}
    params["code"] = Value(
        digest_files([PACKAGE / f"toolchain/{name}" for name in _PREDICT_CODE]), "edgekit"
    )
    return Step("predict", params)


def _bundle_step(recipe: Recipe, resolved: Resolved) -> Step:
    return Step(
        "bundle",
        {
            "title": recipe.value("title", recipe.title),
            "serial": recipe.value("serial", recipe.serial),
            "license": recipe.value("license", recipe.license),
            "family": Value(resolved.target.family, _origin(resolved, "family")),
            "edgekit": Value(edgekit.__version__, "installed"),
            "code": _code("bundle"),
        },
    )


def _origin(resolved: Resolved, key: str) -> str:
    return resolved.origins.get(key, "default")


def _pinned(reference: SourceRef, folder: Path) -> list[str]:
    """Return the URI and what pins its content; local files without a digest are hashed."""
    scheme, _, rest = reference.uri.partition(":")
    path = folder / rest.partition("!")[0]
    if reference.sha256 or scheme not in ("file", "hf") or not path.exists():
        return [reference.uri, reference.sha256]
    return [reference.uri, content_sha256(path)]


def _data(spec: DataSpec, folder: Path) -> dict[str, Any]:
    return {
        "source": None if spec.source is None else _pinned(spec.source, folder),
        "reader": spec.reader,
        "options": dict(spec.options),
        "limit": spec.limit,
        "optional": spec.optional,
        "extra": {key: _pinned(r, folder) for key, r in spec.extra.items()},
    }


def _factory_files(recipe: Recipe) -> list[Path]:
    # A factory may import what stands beside it.
    return list(recipe.folder.glob("*.py")) if recipe.source.uri.startswith("torch:") else []


def _code(step: str, more: list[Path] | None = None) -> Value:
    files = [path for pattern in STEP_CODE[step] for path in PACKAGE.glob(pattern)]
    return Value(digest_files(files + (more or [])), "edgekit")
