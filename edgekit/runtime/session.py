"""Open ONNX Runtime sessions the one way that edgekit runs models, on host and device."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgekit.runtime.host import Arithmetic, host_arithmetic
from edgekit.wire.errors import BuildError, MissingToolError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

# Feeds in, all outputs by name. Tasks get one of these and never see a session.
Run = Callable[[Mapping[str, "Array"]], dict[str, "Array"]]

# ORT_ENABLE_BASIC gives other int8 results than EXTENDED and ALL: the level is part of a model.
OPTIMIZATION_LEVEL = "ORT_ENABLE_ALL"
# The first quantizes a float Conv between int8 neighbours, and so undoes "keep this layer float32".
# The second moves roundings to float32 values that other nodes read, and ends the process where a
# subgraph reads one.
DISABLED_OPTIMIZERS = ("WeightBiasQuantization", "QDQPropagationTransformer")


def import_onnxruntime() -> ModuleType:
    """Import onnxruntime with its telemetry switched off.

    Raises:
        MissingToolError: onnxruntime is not installed or does not load.
    """
    # Read once at import: it must be set before. ORT_TELEMETRY_DISABLED has no effect.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingToolError(
            f"onnxruntime does not load: {error}", hint="pip install onnxruntime"
        ) from error
    onnxruntime.set_default_logger_severity(3)
    module: ModuleType = onnxruntime
    return module


def open_session(
    model: Path | bytes,
    *,
    threads: int = 1,
    arithmetic: Arithmetic | None = None,
    level: str = OPTIMIZATION_LEVEL,
    save_to: Path | None = None,
    profile_to: Path | None = None,
) -> Any:  # noqa: ANN401 - onnxruntime ships no types
    """Open an ONNX Runtime CPU session.

    Args:
        model: An .onnx file, or its bytes.
        threads: Intra-op threads, ≥ 1.
        arithmetic: How this CPU multiplies int8; None detects it.
        level: Name of the graph optimization level.
        save_to: Where onnxruntime writes the optimized model, if anywhere.
        profile_to: Beginning of the path of its profile, if it is to write one; see
            :func:`end_profile`.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        BuildError: onnxruntime cannot load the model.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if (arithmetic or host_arithmetic()) is Arithmetic.SATURATING:
        # Without VNNI, x86 adds u8 × s8 products in 16 bits and saturates; this widens them.
        options.add_session_config_entry("session.x64quantprecision", "1")
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(
            source,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(DISABLED_OPTIMIZERS),
        )
    except Exception as error:
        raise BuildError(
            f"onnxruntime cannot load the model: {_first_line(error)}",
            hint="`edgekit inspect` lists operators that the runtime lacks",
            where=None if isinstance(model, bytes) else str(model),
        ) from error


def end_profile(session: Any, most_bytes: int) -> object | None:  # noqa: ANN401 - onnxruntime ships no types
    """End the profile of a session and remove its file.

    Args:
        session: Opened with ``profile_to``.
        most_bytes: A larger profile is not read.

    Returns:
        What the profile says: a list of events in Chrome's trace format. None where it cannot be
        read.
    """
    path = Path(session.end_profiling())
    try:
        if path.stat().st_size > most_bytes:
            return None
        events: object = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    finally:
        path.unlink(missing_ok=True)
    return events


def runner(session: Any) -> Run:  # noqa: ANN401 - onnxruntime ships no types
    """Wrap a session as a plain function from feeds to named outputs.

    Raises (when called):
        BuildError: The feeds do not fit the model's inputs.
    """
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        try:
            return dict(zip(names, session.run(names, dict(feeds)), strict=True))
        except Exception as error:
            shapes = ", ".join(f"{k}: {v.dtype}{list(v.shape)}" for k, v in feeds.items())
            raise BuildError(
                f"the model failed on its input: {_first_line(error)}", hint=f"fed {shapes}"
            ) from error

    return run


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
