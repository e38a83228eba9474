"""Give every node a name of its own, and take out what the model does not need to run.

Metadata and doc strings carry absolute paths of the machine that exported; the same model exported
twice would otherwise differ. The IR version is the lowest that the operator sets allow, so that
older runtimes load the file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from edgekit.toolchain.passes import _edit

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions

PRODUCER = "edgekit"
_STATED = ("doc_string", "domain", "model_version", "producer_version")
# Weights may stand apart from the inputs since IR 4.
_MIN_IR = 4
_STRING = 8
# What onnxruntime's writers append to a name, to name what they add. A graph that has such a pair
# of names already, as one that was quantized before, would come out as a mixture of both.
_WRITERS = re.compile(
    "__|_(?:(?:De)?[Qq]uantize|quantized|quant|scale|zero_point|output_quantized|output_scale|bias_add"
    "|bias_reshape|cast|(?:MatMul|Add|Transposed?)\\Z)"
)
# Element types that came with a later IR: float8 with 9, 4 bits with 10, 2 bits with 13.
_TYPE_IR = {
    17: 9,
    18: 9,
    19: 9,
    20: 9,
    21: 10,
    22: 10,
    23: 11,
    24: 12,
    25: 13,
    26: 13,
    27: 14,
    28: 14,
}


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Name, strip and order."""
    before = _outline(proto)
    _strip_model(proto)
    taken: set[str] = set()
    for graph in _edit.all_graphs(proto.graph):
        _strip_graph(graph)
        for node in graph.node:
            node.domain = "" if _edit.is_standard(node) else node.domain
            # A result's name is unique, and it stays what it is when nodes before it go.
            wanted = node.name or next((o for o in node.output if o), node.op_type)
            node.name = _edit.unique(wanted, taken)
    _keep_from_writers(proto.graph)
    _keep_types_of_foreign_nodes(proto.graph)
    _imports(proto)
    if _outline(proto) == before:
        return None
    return "names, metadata and IR version made canonical"


def _keep_from_writers(graph: onnx.GraphProto) -> None:
    """Rename what has a name that a writer would make from another name of this graph."""
    while names := _made_twice(graph):
        for node in graph.node:
            node.name = names.get(node.name, node.name)
            for index, output in enumerate(node.output):
                node.output[index] = names.get(output, output)
        tensors = (*graph.initializer, *(s.values for s in graph.sparse_initializer))
        for item in (*tensors, *graph.value_info):
            item.name = names.get(item.name, item.name)
        _edit.rename_reads(graph, names)


def _made_twice(graph: onnx.GraphProto) -> dict[str, str]:
    """Return a new name for one of each such pair; inputs and outputs keep theirs."""
    taken = _edit.all_names(graph) | {node.name for node in graph.node}
    ports = {value.name for value in (*graph.input, *graph.output)}
    names: dict[str, str] = {}
    for name in sorted(taken):
        for end in _WRITERS.finditer(name):
            base = name[: end.start()]
            if base not in taken or base in names:
                continue
            if name not in ports:
                names[name] = _edit.unique(f"{base}/{name[end.start() + 1 :]}", taken)
                break
            if base not in ports:
                names[base] = _edit.unique(f"{base}/own", taken)
    return names


def _outline(proto: onnx.ModelProto) -> tuple[object, ...]:
    """Return what this pass may change, without the weights' values: they can be large."""
    tensors = [
        (t.name, t.HasField("raw_data"), t.HasField("doc_string"), len(t.metadata_props))
        for graph in _edit.all_graphs(proto.graph)
        for t in graph.initializer
    ]
    light = _edit.without_weights(proto)
    light.graph.name = proto.graph.name
    light.graph.doc_string = proto.graph.doc_string
    light.graph.metadata_props.extend(proto.graph.metadata_props)
    for field in (*_STATED, "producer_name"):
        setattr(light, field, getattr(proto, field))
    light.metadata_props.extend(proto.metadata_props)
    light.training_info.extend(proto.training_info)
    return light.SerializeToString(deterministic=True), tuple(tensors)


def _strip_model(proto: onnx.ModelProto) -> None:
    for field in _STATED:
        proto.ClearField(field)
    del proto.metadata_props[:]
    del proto.training_info[:]
    proto.producer_name = PRODUCER
    proto.graph.name = "main"


def _strip_graph(graph: onnx.GraphProto) -> None:
    _strip(graph)
    del graph.quantization_annotation[:]
    for node in graph.node:
        _strip(node)
        attributes = sorted(node.attribute, key=lambda a: str(a.name))
        for entry in attributes:
            entry.ClearField("doc_string")
            if entry.HasField("t"):
                _strip(entry.t)
        del node.attribute[:]
        node.attribute.extend(attributes)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        _strip(value)
    for tensor in graph.initializer:
        _strip(tensor)
        _pack(tensor)


def _strip(message: Any) -> None:  # noqa: ANN401 - any message that has these
    message.ClearField("doc_string")
    del message.metadata_props[:]


def _pack(tensor: onnx.TensorProto) -> None:
    """Store values as raw bytes: the typed lists are larger, and two forms of one tensor differ."""
    import onnx

    if tensor.HasField("raw_data") or tensor.data_type == _STRING:
        return
    packed = onnx.numpy_helper.from_array(_edit.to_array(tensor), tensor.name)
    if packed.data_type == tensor.data_type and list(packed.dims) == list(tensor.dims):
        tensor.CopyFrom(packed)


def _keep_types_of_foreign_nodes(graph: onnx.GraphProto) -> None:
    """Drop stated types that anyone can infer again; nobody can for another domain's operators."""
    foreign = {o for n in graph.node if not _edit.is_standard(n) for o in n.output if o}
    kept = [v for v in graph.value_info if v.name in foreign]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _imports(proto: onnx.ModelProto) -> None:
    import onnx

    used = {
        "" if _edit.is_standard(node) else node.domain
        for graph in _edit.all_graphs(proto.graph)
        for node in graph.node
    } | {""}
    versions: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = "" if entry.domain in _edit.STANDARD_DOMAINS else entry.domain
        versions[domain] = max(entry.version, versions.get(domain, 0))
    del proto.opset_import[:]
    for domain in sorted(used & versions.keys()):
        proto.opset_import.add(domain=domain, version=versions[domain])
    lowest = onnx.helper.find_min_ir_version_for(proto.opset_import, ignore_unknown=True)
    types = {t.data_type for graph in _edit.all_graphs(proto.graph) for t in graph.initializer}
    wanted = max([_MIN_IR, lowest, *(_TYPE_IR.get(t, 0) for t in types)])
    proto.ir_version = wanted
