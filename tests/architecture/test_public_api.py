"""What other people's code may rely on."""

from __future__ import annotations

import ast
import inspect
import tomllib
from pathlib import Path

import pytest

import edgekit

ROOT = Path(__file__).resolve().parents[2]


def test_the_public_names_are_these() -> None:
    assert sorted(edgekit.__all__) == ["__version__", "build", "quantize"]
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None


def test_build_takes_models_and_a_target() -> None:
    parameters = inspect.signature(edgekit.build).parameters
    assert next(iter(parameters)) == "models"
    assert parameters["target"].kind is inspect.Parameter.KEYWORD_ONLY


def test_quantize_takes_a_file_and_names_the_rest() -> None:
    parameters = inspect.signature(edgekit.quantize).parameters
    assert next(iter(parameters)) == "model"
    for name in ("data", "target", "out"):
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        edgekit.biuld  # type: ignore[attr-defined]  # noqa: B018


def test_the_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert edgekit.__version__ == project["version"]


def test_every_public_function_and_class_says_what_it_is() -> None:
    silent = []
    for path in sorted((ROOT / "edgekit").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in [tree, *tree.body]:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.startswith("_"):
                continue
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
                name = getattr(node, "name", "module")
                if ast.get_docstring(node) is None:
                    silent.append(f"{path.relative_to(ROOT)}: {name}")
    assert silent == []
