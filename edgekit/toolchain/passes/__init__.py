"""Passes: any real ONNX model becomes one that quantizers take and devices run well.

To add a pass, add ``edgekit/toolchain/passes/<name>.py`` with a function
``apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None`` that changes the copy it
is given and returns a sentence for people, or None when it changed nothing; then put its name where
it belongs in one of the two orders below. docs/passes.md has a paragraph for each.

The driver checks the graph after each pass: it is valid ONNX, ONNX Runtime loads it, and its inputs
and outputs have kept their names. A pass that breaks one of these is named in the error.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import open_session
from edgekit.toolchain.graph import Graph, serialize
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import onnx

DEFAULT_OPSET = 17

# A tuple is repeated until none of its passes finds anything more.
Order = tuple[str | tuple[str, ...], ...]

_SETTLE = ("constants", "fold_constants", "inline_if", "remove_noops", "remove_dead")
CANONICAL_ORDER: Order = (
    "sort_nodes",
    "inline_functions",
    "fix_inputs",
    "static_shapes",
    _SETTLE,
    "raise_opset",
    _SETTLE,
    "normalise_gemm",
    _SETTLE,
    "own_weights",
    "tidy",
)
OPTIMIZE_ORDER: Order = (
    # What one of them takes away can bring two nodes together for another.
    ("fold_affine", "conv_transpose", "hard_sigmoid", "fold_forward", "one_hot_table", *_SETTLE),
    "own_weights",
    "tidy",
)
# A chain of Ifs inside Ifs needs one round a level.
_MAX_ROUNDS = 64
# ONNX Runtime may crash on an If with a constant condition: it sees the graph after these only.
_BEFORE_LOAD = frozenset({"sort_nodes", "inline_functions", "fix_inputs", "static_shapes"})


@dataclass(frozen=True)
class CanonicalOptions:
    """What canonicalise is to make of a graph.

    Attributes:
        fixed: Inputs that become constants, by name: ``{"sr": 16000}``.
        shapes: Shapes of inputs, by name. A number fixes a dimension, a string leaves it dynamic.
        opset: The default operator set to reach; a newer one is left as it is.
        opset_max: Newest one that the target loads; None for no limit.
        static: The target takes inputs and outputs of known sizes alone.
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    opset: int = DEFAULT_OPSET
    opset_max: int | None = None
    static: bool = False


@dataclass(frozen=True)
class PassNote:
    """What a pass did.

    Attributes:
        name: The pass.
        text: One sentence for people.
        nodes_before: Nodes of the graph that it was given.
        nodes_after: Nodes of the graph that it left.
    """

    name: str
    text: str
    nodes_before: int
    nodes_after: int


def pass_names() -> list[str]:
    """Return the names of all passes."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def canonicalise(graph: Graph, options: CanonicalOptions) -> tuple[Graph, list[PassNote]]:
    """Bring a graph into the one form that the later stages take.

    Args:
        graph: Any ONNX model.
        options: Fixed inputs, shapes and operator set.

    Returns:
        The canonical graph, and a note for each pass that changed something.

    Raises:
        BuildError: The operator set is newer than the target's, an option does not fit the model,
            a dimension is open where the target needs it static, ONNX Runtime cannot load the
            model, or a pass broke it.
    """
    _refuse_new_opset(graph, options)
    canonical, notes = _run(graph, CANONICAL_ORDER, options)
    if options.static:
        _refuse_open_shapes(canonical)
    return canonical, notes


def optimize(graph: Graph) -> tuple[Graph, list[PassNote]]:
    """Fold what can be computed before the model ships: fewer nodes, the same outputs.

    Args:
        graph: A canonical graph.

    Returns:
        The smaller graph, and a note for each pass that changed something.

    Raises:
        BuildError: A pass broke the graph.
    """
    return _run(graph, OPTIMIZE_ORDER, CanonicalOptions(opset=graph.opset))


def _run(graph: Graph, order: Order, options: CanonicalOptions) -> tuple[Graph, list[PassNote]]:
    proto = graph.copy()
    work = _Work(graph, proto, options, _Interface.of(proto), _is_valid(graph.to_bytes()))
    for entry in order:
        group = (entry,) if isinstance(entry, str) else entry
        for _ in range(1 if isinstance(entry, str) else _MAX_ROUNDS):
            found = [_apply(name, work) for name in group]
            if not any(found):
                break
    return Graph.of(work.proto), _merge(work.notes)


@dataclass
class _Work:
    """A graph under way: where it came from, what it is now, what was done."""

    source: Graph
    proto: onnx.ModelProto
    options: CanonicalOptions
    interface: _Interface
    valid: bool
    notes: list[PassNote] = field(default_factory=list)


def _apply(name: str, work: _Work) -> bool:
    """Run one pass in place and check what it left; says whether it changed anything."""
    before = len(work.proto.graph.node)
    module = importlib.import_module(f"{__name__}.{name}")
    try:
        text: str | None = module.apply(work.proto, work.options)
    except BuildError as error:
        raise BuildError(
            f"pass {name} failed: {error.message}", hint=error.hint or _history(work.notes)
        ) from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise BuildError(f"pass {name} failed: {error}", hint=_history(work.notes)) from error
    if text is None:
        return False
    try:
        _check(work, load=name not in _BEFORE_LOAD)
    except BuildError as error:
        # A model that never loaded is nobody's fault here: this says what is wrong with it.
        open_session(work.source.to_bytes(), level="ORT_DISABLE_ALL")
        raise BuildError(
            f"pass {name} broke the graph: {error.message}", hint=_history(work.notes)
        ) from error
    work.notes.append(PassNote(name, text, before, len(work.proto.graph.node)))
    return True


@dataclass(frozen=True)
class _Interface:
    """The names that callers know a model by."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> _Interface:
        constants = {i.name for i in proto.graph.initializer}
        return cls(
            tuple(i.name for i in proto.graph.input if i.name not in constants),
            tuple(o.name for o in proto.graph.output),
        )


def _check(work: _Work, *, load: bool) -> None:
    import onnx

    data = serialize(work.proto)
    # ONNX Runtime takes graphs that the checker does not; what came valid must stay so.
    if work.valid:
        try:
            onnx.checker.check_model(data)
        except onnx.checker.ValidationError as error:
            first_line = next(iter(str(error).strip().splitlines()), "no reason given")
            raise BuildError(f"it is no longer valid ONNX: {first_line[:300]}") from error
    wanted = tuple(name for name in work.interface.inputs if name not in work.options.fixed)
    found = _Interface.of(work.proto)
    if found.inputs != wanted or found.outputs != work.interface.outputs:
        raise BuildError("it changed the names of the model's inputs or outputs")
    if load:
        open_session(data, level="ORT_DISABLE_ALL")


def _is_valid(data: bytes) -> bool:
    import onnx

    try:
        onnx.checker.check_model(data)
    except (onnx.checker.ValidationError, RuntimeError, ValueError):
        return False
    return True


def _history(notes: Sequence[PassNote]) -> str:
    names = list(dict.fromkeys(note.name for note in notes))
    return f"passes before it: {', '.join(names)}" if names else "it was the first pass"


def _merge(notes: Sequence[PassNote]) -> list[PassNote]:
    """Join the notes of a pass that ran more than once; counts of the same thing add up."""
    texts: dict[str, dict[str, int | None]] = {}
    spans: dict[str, tuple[int, int]] = {}
    for note in notes:
        first, _ = spans.get(note.name, (note.nodes_before, 0))
        spans[note.name] = (first, note.nodes_after)
        for part in note.text.split("; "):
            count, _, rest = part.partition(" ")
            told = texts.setdefault(note.name, {})
            if count.isdecimal():
                told[rest] = (told.get(rest) or 0) + int(count)
            else:
                told[part] = None
    return [
        PassNote(name, "; ".join(f"{n} {t}" if n else t for t, n in told.items()), *spans[name])
        for name, told in texts.items()
    ]


def _refuse_new_opset(graph: Graph, options: CanonicalOptions) -> None:
    if options.opset_max is not None and graph.opset > options.opset_max:
        raise BuildError(
            f"opset too new: the model has {graph.opset}, the target loads {options.opset_max}",
            hint=f"export it again with opset {min(DEFAULT_OPSET, options.opset_max)}",
        )


def _refuse_open_shapes(graph: Graph) -> None:
    inputs = set(graph.input_names)
    ports = [*graph.proto.graph.input, *graph.proto.graph.output]
    for port in sorted(ports, key=lambda p: p.name not in inputs):
        kind = port.type.tensor_type
        shape = [
            d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim
        ]
        if kind.HasField("shape") and all(isinstance(d, int) for d in shape):
            continue
        is_input = port.name in inputs
        word, hint = (
            ("input", "give its size in [[inputs]] shape")
            if is_input
            else ("output", "its size depends on the data: cut the model before it")
        )
        raise BuildError(
            f'{word} "{port.name}" has the open shape {shape}, and the target takes static shapes '
            "alone",
            hint=hint,
        )
