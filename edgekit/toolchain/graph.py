"""An ONNX model in memory, with what is needed to load, save and name it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.wire.canonical import sha256_hex
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import onnx

# protobuf cannot hold more in one message.
MAX_PROTO_BYTES = 2**31 - 1


@dataclass(frozen=True)
class Graph:
    """An ONNX model. A pass is Graph → Graph and never changes the one it was given.

    Attributes:
        proto: The model; treated as read-only.
        sha256: Digest of its deterministic serialisation.
        size_bytes: Length of that serialisation.
    """

    proto: onnx.ModelProto
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> Graph:
        """Wrap a proto, which the caller gives away."""
        data = serialize(proto)
        return cls(proto=proto, sha256=sha256_hex(data), size_bytes=len(data))

    @classmethod
    def load(cls, path: Path) -> Graph:
        """Read and check an .onnx file; external data beside it is taken in.

        Raises:
            BuildError: The file is missing, truncated, larger than 2 GB or not ONNX.
        """
        import onnx
        from google.protobuf.message import DecodeError

        try:
            _check_size(path.stat().st_size, path)
            proto = onnx.load(str(path), load_external_data=False)
            _check_external(proto, path)
            onnx.load_external_data_for_model(proto, str(path.parent))
        except FileNotFoundError as error:
            raise BuildError("no such file", where=str(path)) from error
        except (DecodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
            raise BuildError(
                "not a readable ONNX file (truncated, or another format)",
                hint="check the download, or export the model again",
                where=str(path),
            ) from error
        if not proto.graph.node and not proto.graph.output:
            raise BuildError("not an ONNX model: it has no graph", where=str(path))
        _clear_repeated_names(proto.graph)
        return cls.of(proto)

    def save(self, path: Path) -> None:
        """Write the deterministic serialisation."""
        path.write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the deterministic serialisation."""
        return serialize(self.proto)

    def copy(self) -> onnx.ModelProto:
        """Return a proto that the caller may change."""
        import onnx

        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return proto

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return max(
            (o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), default=0
        )

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs that a caller feeds (initializers are not inputs)."""
        constants = {i.name for i in self.proto.graph.initializer}
        return [i.name for i in self.proto.graph.input if i.name not in constants]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs."""
        return [o.name for o in self.proto.graph.output]


def _check_size(size_bytes: int, path: Path) -> None:
    if size_bytes > MAX_PROTO_BYTES:
        raise BuildError(
            f"the model is over 2 GB: {size_bytes / 1e9:.1f} GB with its weights",
            hint="edgekit takes models of up to 2 GB; a language model needs a runtime of its own",
            where=str(path),
        )


def _check_external(proto: onnx.ModelProto, path: Path) -> None:
    """Look at the files of external data before they are read: they may not fit into memory."""
    folder = path.parent.resolve()
    sizes: dict[Path, int] = {}
    read_bytes = 0
    for location, offset, length in _external(proto):
        file = folder / location
        # The name comes from the model, whoever made that: no file elsewhere is opened for it.
        if not location or not file.resolve().is_relative_to(folder) or file.is_symlink():
            raise BuildError(
                f'the file of its weights, "{location}", is outside of the model\'s folder',
                hint="external data is a plain file, no link, in the model's folder; "
                "onnx.save(model, path, save_as_external_data=True) writes it there",
                where=str(path),
            )
        if not file.is_file():
            raise BuildError(
                f'the file of its weights, "{location}", is missing',
                hint="external data belongs into the model's folder",
                where=str(path),
            )
        sizes[file] = file.stat().st_size
        if offset + (length or 0) > sizes[file]:
            raise BuildError(
                f'the file of its weights, "{location}", is cut off: {sizes[file]} bytes, of '
                f"{offset + (length or 0)} at least",
                hint="check the download, or export the model again",
                where=str(path),
            )
        # Any number of tensors may name the same bytes.
        read_bytes += sizes[file] if length is None else length
    _check_size(path.stat().st_size + max(read_bytes, sum(sizes.values())), path)


def _external(proto: onnx.ModelProto) -> Iterator[tuple[str, int, int | None]]:
    """Yield file, offset and length of every tensor that stands outside of the model's file."""
    for part in (proto.graph, *proto.functions):
        for tensor in _tensors(part):
            if tensor.data_location == tensor.EXTERNAL:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                offset, length = (
                    int(text) if text.isdecimal() else None
                    for text in (entries.get("offset", ""), entries.get("length", ""))
                )
                yield entries.get("location", ""), offset or 0, length


def _tensors(part: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    yield from getattr(part, "initializer", ())
    for node in part.node:
        for entry in node.attribute:
            yield from (entry.t, *entry.tensors)
            for inner in (entry.g, *entry.graphs):
                yield from _tensors(inner)


def _clear_repeated_names(graph: onnx.GraphProto) -> None:
    """Leave a node's name to the first that has it: ONNX Runtime refuses a graph otherwise.

    A node's name means nothing, and some converters give the layer's to all nodes that it becomes.
    """
    taken: set[str] = set()
    for node in graph.node:
        if node.name in taken:
            node.ClearField("name")
        taken.add(node.name)
        for entry in node.attribute:
            for inner in (entry.g, *entry.graphs):
                _clear_repeated_names(inner)


def serialize(proto: Any) -> bytes:  # noqa: ANN401 - protobuf messages are untyped
    """Serialise a message so that equal messages give equal bytes.

    Raises:
        BuildError: The message is larger than protobuf's 2 GB.
    """
    if proto.ByteSize() > MAX_PROTO_BYTES:
        raise BuildError("the model is over 2 GB", hint="edgekit packs models of up to 2 GB")
    data: bytes = proto.SerializeToString(deterministic=True)
    return data
