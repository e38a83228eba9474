"""``edgekit quantize``: an int8 file from an .onnx file, its numbers, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

import edgekit as package
from edgekit.cli.quantize_view import dead_parts, session_lines
from edgekit.runtime import sounds
from edgekit.runtime.session import DISABLED_OPTIMIZERS
from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import ConfigError

from .quantize_net import (
    RATE,
    Net,
    fill_texts,
    heard,
    refusing,
    save_sound_model,
    save_text_model,
    tokenizer_json,
)

ROOT = Path(__file__).resolve().parents[2]


def conv_weights():
    random = np.random.default_rng(1)
    shapes = {"w1": (32, 3, 3, 3), "w2": (32, 32, 3, 3), "w3": (10, 32)}
    return {k: random.normal(size=s).astype(np.float32) * 0.1 for k, s in shapes.items()}


def conv_nodes():
    make = helper.make_node
    return [
        make("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        make("Relu", ["c1"], ["r1"], name="relu1"),
        make("Conv", ["r1", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        make("Relu", ["c2"], ["r2"], name="relu2"),
        make("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        make("Flatten", ["p"], ["f"], name="flat"),
        make("Gemm", ["f", "w3"], ["y"], name="fc", transB=1),
    ]


def save_conv(net, *, weights=None, batch="n", **how):
    net.save(
        conv_nodes(),
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])],
        weights or conv_weights(),
        **how,
    )


def noise(random):
    return {"x": random.normal(size=(1, 3, 32, 32)).astype(np.float32)}


@pytest.fixture
def net(tmp_path):
    """A small CNN with 40 samples of noise; it quantizes statically."""
    made = Net(tmp_path / "net")
    save_conv(made)
    made.fill(noise)
    return made


@pytest.fixture
def refuses(edgekit):
    """Run a line that must fail; check what it says and that nothing is written."""
    return refusing(edgekit)


def test_json_tells_what_was_measured_and_tried(net, edgekit):
    ran = edgekit(*net.line("--json"))
    assert ran.code == 0, ran.out + ran.err
    found = ran.document
    assert (found["schema"], found["status"]) == ("edgekit.quantize/1", "quantized")
    assert found["path"] == str(net.out)
    assert found["size_bytes"] == net.out.stat().st_size
    assert found["sha256"] == sha256_file(net.out)
    assert found["fp32_size_bytes"] == pytest.approx(net.model.stat().st_size, rel=0.01)
    assert found["size_bytes"] < found["fp32_size_bytes"]
    assert found["precision"].startswith("int8")
    agreement = found["measurements"][0]
    assert (agreement["metric"], agreement["n"]) == ("output_cosine", 20)
    assert agreement["interval"][0] <= agreement["value"] <= agreement["interval"][1]
    assert found["latency_ratio_kind"] in ("measured", "predicted")
    assert found["candidates"][0]["name"] == "fp32"
    assert found["candidates"][-1]["name"] == found["candidate"]
    assert found["data"]["calibration"]["n"] == found["data"]["evaluation"]["n"] == 20
    assert found["data"]["calibration"]["sha256"] != found["data"]["evaluation"]["sha256"]
    assert found["session"]["disabled_optimizers"] == list(DISABLED_OPTIMIZERS)
    assert found["session"]["plain_relative_l2"] >= 0


def test_the_file_runs_in_plain_onnxruntime(net, edgekit):
    assert edgekit(*net.line("--quiet")).out == f"{net.out}\n"
    script = (
        "import sys, numpy, onnxruntime\n"
        "x = numpy.load(sys.argv[2])['x']\n"
        "print(onnxruntime.InferenceSession(sys.argv[1]).run(None, {'x': x})[0].shape)\n"
    )
    sample = net.data / "001.npz"
    done = subprocess.run(
        [sys.executable, "-c", script, str(net.out), str(sample)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "(1, 10)", done.stderr
    x = np.load(sample)["x"]
    runs = [
        onnxruntime.InferenceSession(str(p)).run(None, {"x": x})[0] for p in (net.model, net.out)
    ]
    a, b = (r.ravel() for r in runs)
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.98
    types = {i.data_type for i in onnx.load(str(net.out)).graph.initializer}
    assert TensorProto.INT8 in types


def test_people_read_a_table_the_split_and_the_session(net, edgekit):
    ran = edgekit(*net.line())
    assert ran.code == 0
    assert "output_cosine" in ran.out
    assert "n=20" in ran.out
    assert "predicted for rpi5" in ran.out
    assert "20 samples calibrated, 20 others evaluated" in ran.out
    assert "runs in plain onnxruntime" in ran.out
    assert "session" in ran.out
    assert ran.out.rstrip().splitlines()[-1] == f"  next: edgekit inspect {net.out} --target rpi5"
    assert "calibrate" in ran.err
    assert "Traceback" not in ran.err


def test_the_same_input_gives_the_same_bytes(net, edgekit, tmp_path):
    assert edgekit(*net.line("--cache-dir", tmp_path / "a")).code == 0
    first = net.out.read_bytes()
    net.out.unlink()
    assert edgekit(*net.line("--cache-dir", tmp_path / "b")).code == 0
    assert net.out.read_bytes() == first


def test_several_inputs_and_whole_numbers(tmp_path, edgekit):
    net = Net(tmp_path / "text")
    random = np.random.default_rng(2)
    make = helper.make_node
    net.save(
        [
            make("Gather", ["table", "ids"], ["e"], name="embed"),
            make("Unsqueeze", ["mask", "last"], ["m"], name="wide"),
            make("Mul", ["e", "m"], ["em"], name="masked"),
            make("MatMul", ["em", "w1"], ["h"], name="up"),
            make("Relu", ["h"], ["hr"], name="relu"),
            make("MatMul", ["hr", "w2"], ["d"], name="down"),
            make("ReduceMean", ["d"], ["y"], name="mean", axes=[1], keepdims=0),
        ],
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "length"]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", "length"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        {
            "table": random.normal(size=(500, 64)).astype(np.float32),
            "w1": random.normal(size=(64, 256)).astype(np.float32) * 0.1,
            "w2": random.normal(size=(256, 64)).astype(np.float32) * 0.1,
            "last": np.array([2], np.int64),
        },
    )

    def sentence(random):
        length = int(random.integers(5, 30))
        return {
            "ids": random.integers(0, 500, size=(1, length)),
            "mask": np.ones((1, length), np.float32),
        }

    net.fill(sentence)
    ran = edgekit(*net.line("--json", "--allow-slower"))
    assert ran.code == 0, ran.out + ran.err
    assert ran.document["precision"].startswith("int8")
    sample = dict(np.load(net.data / "001.npz"))
    assert onnxruntime.InferenceSession(str(net.out)).run(None, sample)[0].shape == (1, 64)


def test_lone_arrays_and_pictures(tmp_path, edgekit):
    net = Net(tmp_path / "lone")
    save_conv(net)
    for index in range(32):
        np.save(net.data / f"{index}.npy", noise(np.random.default_rng(index))["x"])
    assert edgekit(*net.line()).code == 0
    shutil.rmtree(net.data)
    net.data.mkdir()
    for index in range(32):
        pixels = np.random.default_rng(index).integers(0, 255, size=(40, 40, 3), dtype=np.uint8)
        pixels[:, :, index % 3] //= 4
        Image.fromarray(pixels).save(net.data / f"{index}.png")
    ran = edgekit(*net.line("--json", "--min-agreement", "0.5"))
    assert ran.code == 0, ran.out + ran.err
    assert ran.document["measurements"][0]["metric"] == "top1_agreement"


def test_grey_pictures(tmp_path, edgekit):
    net = Net(tmp_path / "grey")
    shutil.copy(ROOT / "models" / "digits-cnn.onnx", net.model)
    for index in range(64):
        pixels = np.random.default_rng(index).integers(0, 255, size=(8, 8), dtype=np.uint8)
        pixels[:, index % 8 :] //= 4
        Image.fromarray(pixels).save(net.data / f"{index}.png")
    ran = edgekit(*net.line("--json", "--allow-slower", "--min-agreement", "0.5"))
    assert ran.code == 0, ran.out + ran.err
    agreement = ran.document["measurements"][0]
    assert (agreement["metric"], agreement["n"]) == ("top1_agreement", 32)


def test_limits_that_no_int8_model_meets_keep_fp32(net, edgekit, tree):
    before = tree(net.folder)
    line = net.line("--min-agreement", "0.9999999999")
    ran = edgekit(*line, "--json")
    assert ran.code == 6
    found = ran.document
    assert (found["schema"], found["status"]) == ("edgekit.quantize/1", "kept-fp32")
    assert (found["path"], found["exit_code"]) == (None, 6)
    assert found["reason"].startswith("fp32 is kept: ")
    assert "nothing was written" in found["error"]["message"]
    assert len(found["candidates"]) > 1
    assert all(c["reason"] for c in found["candidates"][1:])
    said = edgekit(*line)
    assert said.code == 6
    assert "fp32 is kept" in said.err
    assert "lower --min-agreement" in said.err
    assert "misses output_cosine" in said.out
    assert edgekit(*line, "--quiet").out == ""
    assert tree(net.folder) == before


def test_limits_that_nothing_meets(net, edgekit):
    ran = edgekit(*net.line("--max-size-mib", "0.000001", "--json"))
    assert ran.code == 6
    assert ran.document["status"] == "failed"
    assert "nothing meets the contract: size_mib" in ran.document["reason"]
    assert not net.out.exists()


def test_an_earlier_file_is_replaced_only_by_a_whole_one(net, edgekit):
    net.out.write_text("earlier")
    assert edgekit(*net.line("--min-agreement", "1")).code == 6
    assert net.out.read_text() == "earlier"
    assert edgekit(*net.line()).code == 0
    onnx.checker.check_model(onnx.load(str(net.out)))
    assert [p.name for p in net.out.parent.iterdir()] == [net.out.name]


def test_what_is_said_of_the_session():
    session = {"disabled_optimizers": ["A"], "operator_sets": {"ai.onnx": 17, "com.microsoft": 1}}
    said = session_lines({**session, "plain_relative_l2": 0.0})
    assert "com.microsoft" in said[0]
    assert said[1] == "a session without options gives the same answers as edgekit's"
    said = session_lines({**session, "plain_relative_l2": 0.02})
    assert said[1] == (
        'measured with disabled_optimizers=["A"]: without it a session is 0.02 off (relative L2)'
    )
    assert session_lines({**session, "plain_relative_l2": None})[1].endswith("may differ")


def test_a_dead_part_of_a_joined_output_is_named():
    # Boxes of hundreds beside scores below 1: the cosine over both does not see the scores.
    row = {"output": "y", "cosine": 0.9997, "channel_axis": 1}
    outputs = [
        {**row, "worst_channel": 4, "worst_channel_cosine": 0.31},
        {**row, "output": "fine", "worst_channel": 2, "worst_channel_cosine": 0.999},
        {**row, "output": "one", "worst_channel": None, "worst_channel_cosine": None},
    ]
    document = {"outputs": outputs, "contract": [{"max": 5.0}, {"min": 0.98}]}
    assert dead_parts(document) == [
        "look at output y: channel 4 of axis 1 alone has a cosine of 0.310 with fp32's"
    ]


def test_from_python(net):
    events = []
    done = package.quantize(
        net.model, data=net.data, target="rpi5", out=net.out, on_event=events.append
    )
    assert (done.exit_code, done.path, done.status) == (0, net.out, "quantized")
    assert {e.stage for e in events} >= {"optimize", "calibrate", "candidate", "write"}
    kept = package.quantize(
        str(net.model), data=str(net.data), target="rpi5", out=str(net.out), min_agreement=1.0
    )
    assert (kept.exit_code, kept.path) == (6, None)
    with pytest.raises(ConfigError, match="no target named"):
        package.quantize(net.model, data=net.data, target="rpi55", out=net.out)


def test_names_that_are_wrong(net, refuses):
    line = [*net.line()]
    line[line.index("rpi5")] = "rpi55"
    refuses(net, line=line, code=3, says='no target named "rpi55"', hint="did you mean rpi")
    line = [*net.line()]
    line[1] = net.folder / "nothing.onnx"
    refuses(net, line=line, code=2, says="no such file")
    refuses(net, "--min-agreement", "97", code=2, says="97")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers(net, refuses, bad):
    weights = conv_weights()
    weights["w2"][3, 2, 1, 0] = bad
    save_conv(net, weights=weights)
    word = "NaN" if np.isnan(bad) else "infinite"
    refuses(net, code=5, says=f'the constant "w2" has {word} values', where="net.onnx")


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_data_that_are_no_numbers(net, refuses, bad):
    sample = noise(np.random.default_rng(0))
    sample["x"][0, 1, 2, 3] = bad
    np.savez(net.data / "011.npz", **sample)
    refuses(net, code=3, says='input "x" is not finite', where="011.npz")


@pytest.mark.parametrize(
    ("make", "says", "hint"),
    [
        (lambda p: np.savez(p, y=np.zeros(3)), 'no array "x", but y', "x=…"),
        (lambda p: np.savez(p, x=np.zeros((1, 3, 32, 32))), "is float64[1, 3, 32, 32]", "float32"),
        (lambda p: np.savez(p, x=np.zeros((1, 3, 32, 32), np.uint8)), "is uint8", "astype"),
        (lambda p: np.savez(p, x=np.zeros((1, 3, 24, 32), np.float32)), "[n, 3, 32, 32]", "sizes"),
        (lambda p: np.savez(p, x=np.zeros((3, 32, 32), np.float32)), "[3, 32, 32]", "array[None]"),
        (lambda p: np.savez(p, x=np.zeros((0, 3, 32, 32), np.float32)), "is empty", ""),
        (lambda p: np.savez(p, x=np.array([{}], dtype=object)), "plain arrays", ""),
        (lambda p: p.write_bytes(p.read_bytes()[:400]), "not an .npz", ""),
        (lambda p: p.write_bytes(b""), "not an .npz", ""),
    ],
    ids=["key", "float64", "uint8", "size", "rank", "empty", "pickle", "truncated", "nothing"],
)
def test_samples_that_do_not_fit(net, refuses, make, says, hint):
    make(net.data / "006.npz")
    refuses(net, code=3, says=says, hint=hint, where="006.npz")


def test_a_copy_in_both_halves(net, refuses):
    shutil.copy(net.data / "003.npz", net.data / "008.npz")
    says = 'evaluation sample "003.npz" is also calibration sample "008.npz"'
    refuses(net, code=3, says=says, hint="remove the copies", where="samples")


def test_a_folder_that_holds_too_little(net, refuses):
    shutil.rmtree(net.data)
    refuses(net, code=3, says="no such folder of samples")
    net.data.mkdir()
    refuses(net, code=3, says="no samples", hint="one .npz a sample")
    net.fill(noise, 1)
    refuses(net, code=3, says="1 sample is too few", hint="at least 32")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a model", "half"])
def test_files_that_are_not_onnx(net, refuses, content):
    whole = net.model.read_bytes()
    net.model.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    refuses(net, code=5, says="ONNX", where="net.onnx")


def test_external_data(net, refuses, edgekit):
    weights = conv_weights()
    save_conv(net, weights=weights, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert edgekit(*net.line()).code == 0
    net.out.unlink()
    blob = net.folder / "w.bin"
    kept = blob.read_bytes()
    with blob.open("r+b") as file:
        file.truncate(5 << 30)  # sparse: no disk is taken
    refuses(net, code=5, says="over 2 GB: 5.4 GB", where="net.onnx")
    blob.unlink()
    refuses(net, code=5, says='"w.bin", is missing')
    blob.write_bytes(kept)
    with net.model.open("r+b") as file:
        file.truncate(3 << 30)
    refuses(net, code=5, says="over 2 GB: 3.2 GB")


def test_external_data_that_leaves_the_folder(net, refuses):
    save_conv(net, save_as_external_data=True, location="w.bin", size_threshold=0)
    (net.folder / "w.bin").rename(net.folder.parent / "w.bin")
    model = onnx.load(str(net.model), load_external_data=False)
    for tensor in model.graph.initializer:
        next(e for e in tensor.external_data if e.key == "location").value = "../w.bin"
    net.model.write_bytes(model.SerializeToString())
    says = 'the file of its weights, "../w.bin", is outside of the model\'s folder'
    refuses(net, code=5, says=says, hint="in the model's folder", where="net.onnx")


@pytest.mark.parametrize("half", [7, 8], ids=["evaluation", "calibration"])
def test_a_sample_that_gives_nan_is_named(net, refuses, half):
    make = helper.make_node
    # 1 / (the mean - 7): infinite on one sample alone.
    net.save(
        [
            *conv_nodes()[:-1],
            make("GlobalAveragePool", ["x"], ["mx"], name="meanx"),
            make("Sub", ["mx", "seven"], ["d"], name="less"),
            make("ReduceMax", ["d"], ["dm"], name="largest", axes=[1, 2, 3], keepdims=0),
            make("Div", ["one", "dm"], ["q"], name="over"),
            make("Unsqueeze", ["q", "ax"], ["q1"], name="wide"),
            make("Mul", ["f", "q1"], ["fq"], name="scaled"),
            make("Gemm", ["fq", "w3"], ["y"], name="fc", transB=1),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        {
            **conv_weights(),
            "seven": np.array(7, np.float32),
            "one": np.array(1, np.float32),
            "ax": np.array([1], np.int64),
        },
    )
    np.savez(net.data / f"{half:03d}.npz", x=np.full((1, 3, 32, 32), 7, np.float32))
    says = 'output "y" of the float32 model is NaN or infinite on this sample'
    refuses(net, code=5, says=says, hint="division by zero", where=f"{half:03d}.npz")


def test_a_nan_inside_of_the_model_is_named_with_its_sample(net, refuses):
    make = helper.make_node
    # The square root of a negative number, which the branch that is taken does not read.
    net.save(
        [
            make("Sqrt", ["x"], ["root"], name="root"),
            make("Conv", ["root", "w1"], ["c0"], name="conv0", pads=[1, 1, 1, 1]),
            make("IsNaN", ["c0"], ["bad"], name="bad"),
            make("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
            make("Where", ["bad", "c1", "c0"], ["w"], name="choose"),
            make("Relu", ["w"], ["r1"], name="relu1"),
            *conv_nodes()[2:],
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        conv_weights(),
    )
    net.fill(lambda random: {"x": random.random((1, 3, 32, 32), dtype=np.float32)})
    np.savez(net.data / "010.npz", **noise(np.random.default_rng(0)))
    refuses(net, code=5, says='" is NaN or infinite in the float32 model', where="010.npz")


def test_arrays_that_are_not_fed_are_named(net, edgekit):
    net.fill(lambda random: {**noise(random), "label": np.array([3])})
    ran = edgekit(*net.line("--json"))
    assert ran.code == 0, ran.out + ran.err
    assert ran.document["data"]["unused_arrays"] == ["label"]
    assert 'not fed, as the model has no such input: "label"' in edgekit(*net.line()).out


def test_places_that_cannot_be_written(net, refuses, mounted):
    def line(out):
        return (*net.line()[:-1], out)

    nowhere = net.folder / "nowhere" / "out.onnx"
    refuses(net, line=line(nowhere), code=3, says="no such folder", where="nowhere")
    refuses(net, line=line(net.out.parent), code=3, says="is a folder", hint="-o")
    refuses(net, line=line(net.model), code=2, says="the output is the model itself")
    (net.folder / "link.onnx").symlink_to(net.model)
    link = net.folder / "link.onnx"
    refuses(net, line=line(link), code=2, says="the output is the model itself")
    weights = net.folder / "w.bin"
    weights.write_bytes(b"weights of something")
    refuses(net, line=line(weights), code=2, says="a file already, and no .onnx file")
    refuses(net, line=line("/dev/null"), code=3, says="is not a plain file", where="/dev/null")
    fixed = mounted("fixed", "size=1m", "ro")
    refuses(net, line=line(fixed / "out.onnx"), code=3, says="the folder cannot be written")


def test_a_full_disk_leaves_what_was_there(net, edgekit, mounted):
    small = mounted("small", "size=8k")
    out = small / "out.onnx"
    out.write_text("earlier")
    ran = edgekit(*net.line()[:-1], out, "--json")
    assert ran.code == 3, ran.out
    assert "No space left" in ran.document["message"]
    assert out.read_text() == "earlier"
    assert [p.name for p in small.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize("place", ["os.fsync", "edgekit.toolchain.quantize_file.decide"])
def test_an_interrupted_run_leaves_what_was_there(net, edgekit, tree, monkeypatch, place):
    net.out.write_text("earlier")
    before = tree(net.folder)

    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)
    ran = edgekit(*net.line())
    assert (ran.code, ran.out) == (130, "")
    assert "interrupted" in ran.err
    assert tree(net.folder) == before


def test_a_slower_model_is_written_only_when_asked_for(net, edgekit, monkeypatch):
    for kind in ("PREDICTED", "WEIGHTS"):
        monkeypatch.setattr(f"edgekit.toolchain.decide.MAX_{kind}_RATIO", 0.01)
    ran = edgekit(*net.line())
    assert ran.code == 6
    assert re.search(r"it takes [\d.]+ x the time of fp32 \(predicted\); nothing was", ran.err)
    assert "--allow-slower takes the int8 model all the same" in ran.err
    assert "slower than fp32" in ran.out
    assert not net.out.exists()
    ran = edgekit(*net.line("--allow-slower", "--json"))
    assert ran.code == 0, ran.out
    assert "--allow-slower takes it" in ran.document["reason"]
    assert net.out.is_file()


def save_others(net):
    """Put the page's models of sounds and of texts beside the first, with samples."""
    save_sound_model(net, [1, 512])
    net.model.rename(net.folder / "speech.onnx")
    (net.folder / "recordings").mkdir()
    for index in range(4):
        wav = sounds.encode_wav(heard(index), RATE)
        (net.folder / "recordings" / f"{index}.wav").write_bytes(wav)
    save_text_model(net)
    (net.folder / "encoder").mkdir()
    net.model.rename(net.folder / "encoder" / "model.onnx")
    (net.folder / "encoder" / "tokenizer.json").write_text(tokenizer_json())
    (net.folder / "texts").mkdir()
    fill_texts(net.folder / "texts")


def test_every_command_of_the_page_works(net, tmp_path, key_file):
    text = (ROOT / "docs" / "quantize.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 4
    (script,) = re.findall(r"```python\n(import edgekit\n.*?)```", text, flags=re.DOTALL)
    assert all(f'"{name}"' in text for name in DISABLED_OPTIMIZERS)
    (net.folder / "script.py").write_text(script)
    net.model.rename(net.folder / "detector.onnx")
    save_others(net)
    launcher = tmp_path / "bin" / "edgekit"
    launcher.parent.mkdir()
    main = "import sys; from edgekit.cli.main import main; main()"
    launcher.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{main}' \"$@\"\n")
    launcher.chmod(0o755)
    path = f"{launcher.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", "\n".join([*blocks, f"{sys.executable} script.py"])],
        cwd=net.folder,
        env={**os.environ, "PATH": path, "EDGEKIT_KEY_FILE": str(key_file)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((net.folder / "result.json").read_text())
    assert document["schema"] == "edgekit.quantize/1"
    assert re.search(r"^detector-int8\.onnx \d+ 0$", done.stdout, flags=re.MULTILINE)
    onnx.checker.check_model(onnx.load(str(net.folder / "detector-int8.onnx")))
