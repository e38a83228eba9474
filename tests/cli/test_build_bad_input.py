"""Bad input: a clear error, its exit code, the next step, and nothing half-written."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

STATIC = 'extends = "rpi5"\ntitle = "Static alone"\n[runtime]\nstatic_shapes = true\n'
OLD = 'extends = "rpi5"\ntitle = "Old runtime"\n[runtime]\nopset_max = 16\n'


@pytest.fixture
def refuses(edgekit, tree, tmp_path, cold_root):
    """Run a build that must fail; check what it says and that it leaves nothing behind."""

    def go(*arguments: object, code: int, says: str, hint: str = "", where: str = ""):
        dist = tmp_path / "dist"
        dist.mkdir(exist_ok=True)
        (dist / "keep.txt").write_text("what was there before")
        before = tree(dist)
        line = (*arguments, "-o", dist, "--cache-dir", cold_root)
        ran = edgekit("build", *line, "--json")
        assert ran.code == code, ran.out + ran.err
        document = ran.document
        error = document["bundles"][0]["error"] if "bundles" in document else document
        assert says in error["message"], error
        assert hint in (error["hint"] or ""), error
        assert where in (error["where"] or ""), error
        assert tree(dist) == before
        assert leftovers(tmp_path) == []

        said = edgekit("build", *line)
        assert (said.code, said.out.strip()) == (code, "")
        shown = re.sub(r"\s+", " ", said.err)
        assert re.sub(r"\s+", " ", says) in shown
        assert "Traceback" not in said.err
        return error

    return go


@pytest.fixture
def cold_root(tmp_path):
    """A cache folder that does not exist yet."""
    return tmp_path / "cache"


def leftovers(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.name.endswith((".part", ".tmp"))]


def overlay(folder: Path, name: str, text: str) -> Path:
    (folder / "targets").mkdir(exist_ok=True)
    (folder / "targets" / f"{name}.toml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        (("digits-cnn", "--target", "rpi55"), 'no target named "rpi55"', "did you mean rpi"),
        (
            ("digit-cnn", "--target", "rpi5"),
            'no model named "digit-cnn"',
            "did you mean digits-cnn?",
        ),
        (
            ("quite-another", "--target", "rpi5"),
            'no model named "quite-another"',
            "models: digits-cnn",
        ),
        (("digits-cnn", "--target", "armv7"), "nothing can be built for armv7", ""),
    ],
)
def test_unknown_names(refuses, arguments, says, hint):
    refuses(*arguments, code=3, says=says, hint=hint)


def test_options_are_usage_errors(edgekit, own):
    ran = edgekit("build", "digits-cnn", "--tarket", "rpi5", "--json")
    assert (ran.code, ran.document["exit_code"]) == (2, 2)
    assert "did you mean --target" in ran.document["hint"]
    ran = edgekit("build", own.model, "--target", "rpi5", "--json")
    assert ran.code == 2
    assert "needs --data DIR" in ran.document["message"]


@pytest.mark.parametrize(
    ("change", "says", "line"),
    [
        (("serial = 1", "serial = = 1"), "", 4),
        (("serial = 1", 'serial = "one"'), "serial", 4),
        (("serial = 1", "serial = 1\nserail = 2"), "serail", 5),
        (
            ("top1_agreement = { min = 0.97 }", "top1_agreement = { }"),
            "needs either min or max",
            50,
        ),
        (('sha256 = "7a3ad8', 'sha256 = "XX3ad8'), "64 lower-case hex digits", 9),
    ],
)
def test_malformed_toml_names_the_line(refuses, digits, change, says, line):
    recipe = digits / "models" / "digits-cnn.toml"
    text = recipe.read_text(encoding="utf-8")
    assert change[0] in text
    recipe.write_text(text.replace(*change), encoding="utf-8")
    arguments = ("digits-cnn", "--target", "rpi5", "--project", digits)
    refuses(*arguments, code=3, says=says, where=f"models/digits-cnn.toml:{line}")


def test_malformed_settings_and_lock(refuses, digits):
    arguments = ("digits-cnn", "--target", "rpi5", "--project", digits)
    (digits / "edgekit.toml").write_text("jobs = 0\n")
    refuses(*arguments, code=3, says="a whole number", where="edgekit.toml:1")
    (digits / "edgekit.toml").unlink()
    (digits / "edgekit.lock").write_text("{")
    refuses(*arguments, code=3, says="not a lock file", hint="delete it", where="edgekit.lock")


def test_a_wrong_sha256_is_a_matter_of_trust(refuses, digits):
    with (digits / "models" / "digits-cnn.onnx").open("ab") as file:
        file.write(b"\0")
    arguments = ("digits-cnn", "--target", "rpi5", "--project", digits)
    refuses(
        *arguments, code=7, says="wrong sha256 of file:digits-cnn.onnx", where="digits-cnn.toml:8"
    )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a model", b"\x08", "half"])
def test_no_onnx_file(refuses, own, content):
    whole = own.model.read_bytes()
    own.model.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    error = refuses(own.model, "--data", own.data, "--target", "rpi5", code=5, says="not a")
    assert "ONNX" in error["message"]
    assert "own.onnx" in error["where"]


def test_no_such_file_or_folder(refuses, own):
    nothing = own.folder / "nothing.onnx"
    refuses(nothing, "--data", own.data, "--target", "rpi5", code=2, says="no such file")
    away = own.folder / "away"
    refuses(own.model, "--data", away, "--target", "rpi5", code=3, says="no such folder")


def test_an_opset_too_new_for_the_target(refuses, own):
    project = overlay(own.folder, "old", OLD)
    arguments = (own.model, "--data", own.data, "--target", "old", "--project", project)
    refuses(
        *arguments,
        code=5,
        says="opset too new: the model has 17, the target loads 16",
        hint="export it again with opset 16",
    )


@pytest.mark.parametrize(
    ("op", "domain"), [("Frobnicate", "example.org"), ("Frobnicate", "")], ids=["custom", "unknown"]
)
def test_an_operator_that_the_runtime_lacks(refuses, own, op, domain):
    own.save(op=op, domain=domain)
    arguments = (own.model, "--data", own.data, "--target", "rpi5")
    refuses(*arguments, code=5, says="Frobnicate", hint="edgekit inspect")


def test_an_open_shape_where_the_target_needs_it_static(refuses, own, edgekit):
    own.save(shape=("batch", 2, 8, 8))
    project = overlay(own.folder, "still", STATIC)
    arguments = (own.model, "--data", own.data, "--target", "still", "--project", project)
    refuses(
        *arguments,
        code=3,
        says="input \"x\" has a dynamic shape ['batch', 2, 8, 8], and still needs every dimension",
        hint="write numbers into its shape",
    )
    # The hint holds: a recipe that gives the size builds.
    assert edgekit("init", own.model, "--data", own.data, "--project", project).code == 0
    recipe = project / "models" / "own.toml"
    recipe.write_text(recipe.read_text().replace('["batch", 2, 8, 8]', "[1, 2, 8, 8]", 1))
    ran = edgekit("build", "own", "--target", "still", "--project", project, "--json")
    assert ran.code == 0, ran.out


def test_an_output_whose_size_depends_on_the_data(refuses, own):
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["y"])],
        "places",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [4, "found"])],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(own.model))
    project = overlay(own.folder, "still", STATIC)
    arguments = (own.model, "--data", own.data, "--target", "still", "--project", project)
    refuses(*arguments, code=5, says='output "y" has the open shape', hint="depends on the data")


def test_calibration_that_stands_for_nothing(refuses, own):
    arguments = (own.model, "--data", own.data, "--target", "rpi5")
    shutil.rmtree(own.data)
    own.data.mkdir()
    refuses(*arguments, code=3, says="no samples", hint="one .npz a sample")
    own.fill(30)
    refuses(*arguments, code=3, says="30 samples are too few: every other one", hint="at least 32")


def test_constant_inputs(refuses, own):
    one = np.random.default_rng(0).normal(size=(1, 2, 8, 8)).astype(np.float32)
    # Equal arrays in different files: the calibration half alone is constant.
    own.fill(40, lambda i: one if i % 2 == 0 else one + i)
    arguments = (own.model, "--data", own.data, "--target", "rpi5")
    refuses(
        *arguments, code=3, says='input "x" is the same in all calibration samples', hint="copies"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers(refuses, own, bad):
    sample = np.random.default_rng(4).normal(size=(1, 2, 8, 8)).astype(np.float32)
    sample[0, 1, 2, 3] = bad
    np.savez(own.data / "004.npz", x=sample)
    arguments = (own.model, "--data", own.data, "--target", "rpi5")
    error = refuses(*arguments, code=3, says='"x"', where="004.npz")
    assert "finite" in error["message"]


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (lambda p: np.savez(p, y=np.zeros(3)), 3, 'the sample has no array "x"'),
        (
            lambda p: np.savez(p, x=np.zeros((1, 3, 8, 8), np.float32)),
            5,
            "the model failed on its input",
        ),
        (lambda p: np.savez(p, x=np.array([{}], dtype=object)), 3, "plain arrays"),
        (lambda p: p.write_bytes(b"PK\x03\x04junk"), 3, "not an .npz"),
        (lambda p: p.write_bytes(b""), 3, "not an .npz"),
    ],
    ids=["name", "shape", "pickle", "junk", "empty"],
)
def test_samples_that_do_not_fit(refuses, own, make, code, says):
    make(own.data / "006.npz")
    arguments = (own.model, "--data", own.data, "--target", "rpi5")
    refuses(*arguments, code=code, says=says, where="006.npz")


def test_evaluation_that_was_calibrated_on(refuses, own, edgekit):
    shutil.copy(own.data / "000.npz", own.data / "001.npz")
    arguments = (own.model, "--data", own.data, "--target", "rpi5")
    refuses(
        *arguments,
        code=3,
        says='evaluation sample "001.npz" is also calibration sample "000.npz"',
        hint="take = even / odd",
    )


def test_a_recipe_without_calibration(refuses, own, edgekit):
    assert edgekit("init", own.model, "--project", own.folder).code == 0
    arguments = ("own", "--target", "rpi5", "--project", own.folder)
    refuses(*arguments, code=3, says="there is no calibration data", hint="[[calibration]]")


@pytest.mark.network
def test_a_denied_licence(refuses, digits, edgekit):
    (digits / "edgekit.toml").write_text('[licenses]\ndeny = ["AGPL-3.0-only", "Apache-2.0"]\n')
    refuses(
        *("digits-cnn", "--target", "rpi5", "--project", digits),
        code=3,
        says="digits-cnn is under Apache-2.0, which this project denies",
        hint="licenses.deny, edgekit.toml:2",
        where="models/digits-cnn.toml:5",
    )


def test_a_contract_that_nothing_meets(refuses, own, edgekit):
    assert edgekit("init", own.model, "--data", own.data, "--project", own.folder).code == 0
    recipe = own.folder / "models" / "own.toml"
    text = recipe.read_text().replace("{ min = 0.98 }", "{ min = 0.98 }\nsize_mib = { max = 1e-6 }")
    recipe.write_text(text)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith("size_mib"))
    error = refuses(
        *("own", "--target", "rpi5", "--project", own.folder),
        code=6,
        says="the contract is not met: size_mib is",
        hint="change [accept]",
        where=f"models/own.toml:{line}",
    )
    header, *rows = error["message"].splitlines()[1:]
    assert header.split() == ["fp32", "best", "contract"]
    assert [row.split()[0] for row in rows] == ["output_cosine", "size_mib"]
    assert [row.strip()[-1] for row in rows] == ["✓", "✗"]


def test_a_full_disk_under_the_cache(own, edgekit, tmp_path, mounted):
    arguments = ("build", own.model, "--data", own.data, "--target", "rpi5", "--json")
    dist, small = tmp_path / "dist", mounted("small", "size=64k")
    ran = edgekit(*arguments, "-o", dist, "--cache-dir", small / "cache")
    assert ran.code == 5, ran.out
    error = ran.bundle["error"]
    assert "the disk is full" in error["message"]
    assert "edgekit cache clear" in error["hint"]
    assert not dist.exists()
    assert leftovers(small) == []
    # With room, the same cache goes on.
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    assert edgekit(*arguments, "-o", dist, "--cache-dir", small / "cache").code == 0


def test_a_full_disk_under_the_output_folder(own, edgekit, tmp_path, tree, mounted):
    arguments = ("build", own.model, "--data", own.data, "--target", "rpi5", "--json")
    arguments = (*arguments, "--cache-dir", tmp_path / "cache")
    small = mounted("small", "size=128k")
    (small / "own-rpi5.html").write_text("an earlier report")
    (small / "own-rpi5.ekb").write_text("an earlier bundle")
    before = tree(small)
    ran = edgekit(*arguments, "-o", small)
    assert ran.code == 3, ran.out
    assert "No space left" in ran.bundle["error"]["message"]
    assert "-o DIR" in ran.bundle["error"]["hint"]
    assert tree(small) == before
    assert edgekit(*arguments, "-o", tmp_path / "dist").code == 0


def test_a_limit_on_file_sizes_is_a_full_disk(own, fresh, tmp_path):
    arguments = ("build", own.model, "--data", own.data, "--target", "rpi5", "--json")
    # The limit ends a write as a full disk does, and needs no root.
    limited = ("sh", "-c", 'ulimit -f 16; exec "$@"', "sh")
    ran = fresh(*arguments, "-o", tmp_path / "d", "--cache-dir", tmp_path / "c", under=limited)
    assert ran.code == 5, ran.out + ran.err
    assert "full" in ran.bundle["error"]["message"]
    assert not (tmp_path / "d").exists()
    assert leftovers(tmp_path) == []


def test_folders_that_cannot_be_written(own, edgekit, tmp_path, mounted):
    arguments = ("build", own.model, "--data", own.data, "--target", "rpi5", "--json")
    fixed = mounted("fixed", "size=1m", "ro")
    ran = edgekit(*arguments, "-o", tmp_path / "d", "--cache-dir", fixed / "cache")
    assert ran.code == 3, ran.out
    assert "the cache folder cannot be written (Read-only" in ran.bundle["error"]["message"]
    assert "--cache-dir" in ran.bundle["error"]["hint"]

    ran = edgekit(*arguments, "-o", fixed / "dist", "--cache-dir", tmp_path / "c")
    assert ran.code == 3, ran.out
    assert "cannot write to the output folder: Read-only" in ran.bundle["error"]["message"]
    assert ran.bundle["error"]["where"] == str(fixed / "dist")

    key = ("--key-file", fixed / "dev.pem")
    ran = edgekit(*arguments, "-o", tmp_path / "d", "--cache-dir", tmp_path / "c", *key)
    assert ran.code == 7, ran.out
    assert "key cannot be written" in ran.document["message"]
    assert not (tmp_path / "d").exists()

    blocked = tmp_path / "file"
    blocked.write_text("a file, not a folder")
    ran = edgekit(*arguments, "-o", blocked, "--cache-dir", tmp_path / "c")
    assert ran.code == 3, ran.out
    assert blocked.read_text() == "a file, not a folder"


@pytest.mark.network
def test_a_lock_that_cannot_be_written(digits, cold_cache, edgekit, tmp_path, mounted, host_target):
    fixed = mounted("fixed", "size=4m")
    shutil.copytree(digits / "models", fixed / "models")
    subprocess.run(["mount", "-o", "remount,ro", str(fixed)], check=True)
    ran = edgekit(
        *("build", "digits-cnn", "--target", host_target, "--project", fixed, "--json"),
        *("-o", tmp_path / "d", "--cache-dir", cold_cache),
    )
    assert ran.code in (3, 5), ran.out
    assert "lock file cannot be written" in str(ran.document)
