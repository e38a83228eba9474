from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain import export as module
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import Event, ignore
from edgekit.toolchain.export import export, needs_export
from edgekit.toolchain.export_worker import finish, strip
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.project import packaged_folder
from edgekit.toolchain.recipe import Recipe, load_recipe
from edgekit.toolchain.sources import fetch
from edgekit.wire.errors import BuildError, ConfigError, MissingToolError

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason='needs torch: pip install "edgekit[hf]"'
)

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(torch.relu(self.norm(self.conv(x)))).mean((2, 3))

def create():
    return Net()  # in training mode, on purpose
"""


def recipe(folder: Path, code: str = NET, **changes) -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(textwrap.dedent(code))
    path = folder / "net.toml"
    path.write_text(
        'title = "net"\nserial = 1\nlicense = "MIT"\n'
        '[source]\nuri = "torch:net:create"\n'
        '[[inputs]]\nname = "x"\ndtype = "float32"\nshape = [1, 3, 8, 8]\n'
        '[[outputs]]\nname = "y"\ndtype = "float32"\nshape = [1, 4]\n'
        '[task]\nname = "tensors"\n'
    )
    return dataclasses.replace(load_recipe(path), **changes)


def run(recipe: Recipe, out: Path, packages=(), on_event=ignore, opset: int = 17):
    out.parent.mkdir(parents=True, exist_ok=True)
    return export(recipe, recipe.folder, packages, opset, out, on_event)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@needs_torch
def test_a_factory_becomes_the_same_file_in_any_folder(tmp_path: Path) -> None:
    first, second = tmp_path / "1" / "a.onnx", tmp_path / "deeper" / "2" / "b.onnx"
    events: list[Event] = []
    notes = run(recipe(tmp_path / "recipes"), first, on_event=events.append)
    run(recipe(tmp_path / "elsewhere" / "recipes"), second)
    assert sha(first) == sha(second)
    assert (notes.exporter, notes.fallback) == ("torch-dynamo", "")
    assert notes.max_error is not None
    assert notes.max_error < 1e-4
    assert notes.opset == 18
    assert "torch" in notes.tools
    assert events[0].stage == "export"

    model = onnx.load(first)
    onnx.checker.check_model(model, full_check=True)
    assert notes.nodes == len(model.graph.node)
    assert str(tmp_path).encode() not in first.read_bytes()
    assert b"stack_trace" not in first.read_bytes()
    feeds = {"x": np.ones((1, 3, 8, 8), np.float32)}
    outputs = runner(open_session(first))(feeds)
    assert outputs["y"].shape == (1, 4)
    assert [p.name for p in first.parent.iterdir()] == ["a.onnx"]
    assert not list((tmp_path / "recipes").glob("__pycache__"))


@needs_torch
def test_names_in_shapes_stay_dynamic(tmp_path: Path) -> None:
    made = recipe(tmp_path / "r")
    spec = dataclasses.replace(made.inputs[0], shape=("batch", 3, "height", "width"))
    out = tmp_path / "o" / "a.onnx"
    run(dataclasses.replace(made, inputs=(spec,)), out)
    dims = Graph.load(out).proto.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, "height", "width"]
    session = runner(open_session(out))
    for shape in ((1, 3, 9, 20), (5, 3, 32, 8)):
        assert session({"x": np.zeros(shape, np.float32)})["y"].shape == (shape[0], 4)


@needs_torch
def test_what_dynamo_cannot_do_falls_back_to_torchscript_and_says_so(tmp_path: Path) -> None:
    code = """
    import torch
    class Net(torch.nn.Module):
        def forward(self, x):
            if float(x.sum()) > 1e9:  # depends on data: a trace takes one way
                return x
            return x * 2
    def create():
        return Net()
    """
    out = tmp_path / "o" / "a.onnx"
    events: list[Event] = []
    notes = run(recipe(tmp_path / "r", code), out, on_event=events.append)
    assert notes.exporter == "torchscript"
    assert notes.opset == 17
    assert notes.fallback.startswith("dynamo: ")
    assert "fell back" in events[-1].detail


@needs_torch
def test_packages_are_found_and_cannot_stand_in_for_torch(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "weights").mkdir(parents=True)
    (package / "weights" / "__init__.py").write_text("SCALE = 3.0")
    (package / "torch.py").write_text("raise SystemExit('not the real one')")
    code = """
    import torch
    from weights import SCALE
    class Net(torch.nn.Module):
        def forward(self, x):
            return x.sum((2, 3)) * SCALE
    def create():
        return Net()
    """
    out = tmp_path / "o" / "a.onnx"
    run(recipe(tmp_path / "r", code), out, packages=[package])
    outputs = runner(open_session(out))({"x": np.ones((1, 3, 8, 8), np.float32)})
    np.testing.assert_allclose(outputs["y"], np.full((1, 3), 192.0))
    assert not list(package.rglob("__pycache__"))


@needs_torch
@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("import not_there\n", ConfigError, "not_there"),
        ("x = 1\n", ConfigError, "create"),
        ("def create():\n    return 3\n", ConfigError, "made a int"),
        ("def create():\n    raise RuntimeError('no weights')\n", BuildError, "no weights"),
        ("import os\nos._exit(7)\n", BuildError, "the export failed"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", BuildError, "signal 9"),
        ("import sys\ndef create():\n    sys.exit('bye')\n", BuildError, "bye"),
    ],
)
def test_a_factory_that_fails(tmp_path: Path, code: str, error: type, words: str) -> None:
    out = tmp_path / "o" / "a.onnx"
    with pytest.raises(error, match=words) as caught:
        run(recipe(tmp_path / "r", code), out)
    assert caught.value.where == "models/net.toml:5"
    assert list(out.parent.iterdir()) == []


@needs_torch
def test_outputs_that_are_not_the_recipes(tmp_path: Path) -> None:
    made = recipe(tmp_path / "r")
    wrong = [dataclasses.replace(made.outputs[0], name=name) for name in ("y", "z")]
    with pytest.raises((ConfigError, BuildError)):
        run(dataclasses.replace(made, outputs=tuple(wrong)), tmp_path / "o" / "a.onnx")


@needs_torch
def test_a_limit_of_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_memory_bytes", lambda: 3 << 30)
    code = """
    import torch
    def create():
        hog = bytearray(6 << 30)
    """
    out = tmp_path / "o" / "a.onnx"
    with pytest.raises(BuildError):
        run(recipe(tmp_path / "r", code), out)
    peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak_bytes < 6 << 30


@needs_torch
def test_a_limit_of_time_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 8.0)
    out = tmp_path / "o" / "a.onnx"
    with pytest.raises(BuildError, match="was stopped"):
        run(recipe(tmp_path / "r", "import time\ntime.sleep(600)\n"), out)
    assert list(out.parent.iterdir()) == []


@needs_torch
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_worker_ends_with_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    pid_file = tmp_path / "pid"
    os.mkfifo(pid_file)
    made = recipe(
        tmp_path / "r",
        f"import os, time\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n",
    )
    script = f"""
from pathlib import Path
from edgekit.toolchain.export import export
from edgekit.toolchain.events import ignore
from edgekit.toolchain.recipe import load_recipe
recipe = load_recipe(Path({str(made.folder / "net.toml")!r}))
export(recipe, recipe.folder, [], 17, Path({str(tmp_path / "a.onnx")!r}), ignore)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    worker = os.pidfd_open(int(pid_file.read_text()))
    parent.send_signal(how)
    parent.communicate()
    try:
        import select

        assert select.select([worker], [], [], 30)[0]
    finally:
        os.close(worker)
    if how is signal.SIGINT:
        assert not list(tmp_path.glob("export-*"))


def test_without_torch_the_install_command_is_told(tmp_path: Path, monkeypatch) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('no torch here')")
    monkeypatch.setenv("PYTHONPATH", str(blocked))
    with pytest.raises(MissingToolError) as caught:
        run(recipe(tmp_path / "r"), tmp_path / "o" / "a.onnx")
    assert 'pip install "edgekit[hf]"' in str(caught.value.hint)
    assert caught.value.exit_code == 4


@needs_torch
def test_an_optimum_that_does_not_load_gets_the_pins(tmp_path: Path, monkeypatch) -> None:
    blocked = tmp_path / "blocked"
    (blocked / "optimum").mkdir(parents=True)
    (blocked / "optimum" / "__init__.py").write_text("raise ImportError('clash')")
    monkeypatch.setenv("PYTHONPATH", str(blocked))
    made = recipe(tmp_path / "r")
    source = dataclasses.replace(made.source, uri="hf:./ckpt")
    with pytest.raises(MissingToolError, match="clash") as caught:
        run(dataclasses.replace(made, source=source), tmp_path / "o" / "a.onnx")
    assert "transformers==4.57.6" in str(caught.value.hint)


def test_who_needs_an_export(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    assert needs_export(made)
    source = dataclasses.replace(made.source, uri="file:a.onnx")
    assert not needs_export(dataclasses.replace(made, source=source))


def model_with_notes() -> onnx.ModelProto:
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "inner", [], [])
    inner.node[0].doc_string = "/home/me/inner.py"
    value = helper.make_tensor_value_info
    node = helper.make_node("Identity", ["x"], ["y"])
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/me/net.py")
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])],
    )
    graph.initializer[0].doc_string = "/home/me/w"
    graph.input[0].doc_string = "/home/me/x"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key="k", value="/home/me")
    return model


def test_notes_are_stripped_everywhere() -> None:
    model = model_with_notes()
    branch = helper.make_node("If", ["c"], ["o"])
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "inner", [], [])
    inner.node[0].doc_string = "/home/me/inner.py"
    branch.attribute.append(helper.make_attribute("then_branch", inner))
    model.graph.node.append(branch)
    strip(model)
    assert b"/home/me" not in model.SerializeToString()
    assert model.graph.node[1].attribute[0].g.node[0].op_type == "Identity"
    assert model.graph.initializer[0].float_data == [1.0]


def test_an_invalid_file_is_a_build_error(tmp_path: Path) -> None:
    model = model_with_notes()
    model.graph.node[0].input[0] = "nowhere"
    path = tmp_path / "a.onnx"
    onnx.save(model, path)
    with pytest.raises(BuildError, match="invalid"):
        finish(path)
    path.write_bytes(b"not ONNX at all")
    with pytest.raises(BuildError):
        finish(path)


@needs_torch
@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "exporter"), [("efficientnet-lite0", "torch-dynamo"), ("minilm-l6-v2", "optimum")]
)
def test_the_packaged_recipes_export_to_the_same_bytes_twice(
    name: str, exporter: str, shared_cache: Path, tmp_path: Path
) -> None:
    made = load_recipe(packaged_folder("models") / f"{name}.toml")
    found = []
    for folder in (tmp_path / "1", tmp_path / "two" / "2"):
        folder.mkdir(parents=True)
        cache = Cache(shared_cache)

        def get(ref, cache=cache):
            return fetch(ref, cache=cache, folder=made.folder, on_event=ignore, offline=False)

        source, packages = get(made.source), [get(p) for p in made.packages]
        notes = export(made, source, packages, 17, folder / "a.onnx", ignore)
        assert notes.exporter == exporter
        found.append(sha(folder / "a.onnx"))
    assert found[0] == found[1]
