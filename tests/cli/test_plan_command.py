"""``edgekit plan``: the steps of a build, read aloud; nothing is fetched or made."""

from __future__ import annotations

import re

import pytest

STEPS = ["fetch", "canonicalise", "calibrate", "quantize", "verify", "predict", "bundle"]


def test_json_has_every_value_with_its_origin(edgekit, digits):
    ran = edgekit("plan", "digits-cnn", "--target", "rpi5", "--project", digits, "--json")
    assert (ran.code, ran.document["schema"]) == (0, "edgekit.plan/1")
    (plan,) = ran.document["plans"]
    assert (plan["model"], plan["target"]) == ("digits-cnn", "rpi5")
    assert [step["name"] for step in plan["steps"]] == STEPS
    params = {s["name"]: s["params"] for s in plan["steps"]}
    assert params["bundle"]["license"] == {
        "value": "Apache-2.0",
        "origin": "models/digits-cnn.toml:5",
    }
    assert "targets/generic-arm64.toml:" in params["canonicalise"]["opset_max"]["origin"]
    assert all(value["origin"] for step in params.values() for value in step.values())


def test_people_read_numbered_steps_with_places(edgekit, digits):
    ran = edgekit("plan", "digits-cnn", "--target", "rpi5", "--project", digits)
    assert ran.code == 0
    lines = ran.out.strip().splitlines()
    assert lines[0].startswith("digits-cnn → rpi5   plan ")
    assert lines[0].endswith("licence Apache-2.0")
    assert [line.split(". ")[1].strip() for line in lines if line[:1].isdigit()] == STEPS
    assert any("top1_accuracy" in line and "models/digits-cnn.toml:" in line for line in lines)
    assert max(map(len, lines[:-1])) <= 100
    places = [line.split()[-1] for line in lines if "generic-arm64.toml" in line]
    assert places
    assert all(re.search(r"toml:\d+$", place) for place in places), "a place stands whole"
    following = f"edgekit build digits-cnn --target rpi5 --project {digits}"
    assert lines[-1].strip() == f"next: {following}"


def test_quiet_is_the_digest_that_names_the_cache_entry(edgekit, digits):
    line = ("plan", "digits-cnn", "--target", "rpi5", "--project", digits)
    digest = edgekit(*line, "--quiet").out.strip()
    assert digest == edgekit(*line, "--json").document["plans"][0]["sha256"]
    assert len(digest) == 64


def test_a_plan_touches_nothing(fresh, digits, tmp_path, tree):
    before = tree(digits)
    cache = tmp_path / "cache"
    env = {"EDGEKIT_CACHE_DIR": str(cache)}
    ran = fresh("plan", "--target", "rpi5", "--quiet", cwd=digits, env=env)
    assert ran.code == 0, ran.err
    assert tree(digits) == before
    assert not cache.exists()


def test_no_model_is_every_model_of_the_project(edgekit, tmp_path, digits):
    own = edgekit("plan", "--target", "rpi4", "--project", digits, "--json").document["plans"]
    assert [plan["model"] for plan in own] == ["digits-cnn"]
    packaged = edgekit("plan", "--target", "rpi4", "--project", tmp_path, "--json")
    assert {"digits-cnn", "silero-vad", "yolo11n"} <= {
        plan["model"] for plan in packaged.document["plans"]
    }
    licence = next(p for p in packaged.document["plans"] if p["model"] == "yolo11n")["steps"][-1]
    assert licence["params"]["license"]["value"].startswith("AGPL-3.0")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("digits-cmn", "--target", "rpi5"), 3, "did you mean digits-cnn?"),
        (("digits-cnn", "--target", "rpi"), 3, "did you mean rpi"),
        (("digits-cnn", "--target", "riscv64"), 3, "nothing can be built for riscv64"),
        (("digits-cnn",), 2, "--target"),
    ],
)
def test_wrong_names(edgekit, arguments, code, says):
    ran = edgekit("plan", *arguments, "--json")
    assert ran.code == code
    assert says in ran.out
