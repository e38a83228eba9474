"""Plans: every value has an origin, and only values decide the digest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgekit.toolchain.api import find_recipe, plans, prepare
from edgekit.toolchain.lock import LockEntry, locked_decision, read_lock, write_lock
from edgekit.toolchain.plan import make_plan
from edgekit.toolchain.project import folders
from edgekit.toolchain.targets import load_target
from edgekit.wire.errors import ConfigError

ROOT = Path(__file__).parents[3]


def plan_of(project: Path, target: str = "rpi5"):
    [plan] = plans(prepare(["digits-cnn"], target=target, project=project, flags={}))
    return plan


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "models").mkdir()
    for name in ("digits-cnn.toml", "digits-cnn.onnx"):
        shutil.copy(ROOT / "models" / name, tmp_path / "models")
    return tmp_path


def test_every_value_names_where_it_came_from(project):
    for step in plan_of(project).steps:
        for key, value in step.params.items():
            assert value.origin, (step.name, key)
    origins = {
        v.origin.partition(":")[0] for s in plan_of(project).steps for v in s.params.values()
    }
    assert {"models/digits-cnn.toml", "targets/rpi5.toml", "installed", "default"} <= origins


def test_a_comment_moves_origins_but_not_the_digest(project):
    before = plan_of(project)
    recipe = project / "models" / "digits-cnn.toml"
    recipe.write_text("# a comment\n" + recipe.read_text())

    after = plan_of(project)

    assert after.sha256 == before.sha256
    assert after.to_json() != before.to_json()


def test_contract_target_and_source_change_the_digest(project):
    first = plan_of(project).sha256
    recipe = project / "models" / "digits-cnn.toml"
    recipe.write_text(recipe.read_text().replace("min = 0.97", "min = 0.96"))

    assert plan_of(project).sha256 != first
    assert plan_of(project, "rpi4").sha256 != plan_of(project).sha256


def test_a_refused_target_says_why():
    recipe = find_recipe("digits-cnn", ROOT)
    resolved = load_target("armv7", folders(ROOT, "targets"))

    with pytest.raises(ConfigError, match="nothing can be built for armv7"):
        make_plan(recipe, resolved)


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ConfigError) as error:
        find_recipe("digits-cn", ROOT)
    assert error.value.hint == "did you mean digits-cnn?"


def test_the_lock_repeats_a_decision_for_its_plan_alone(tmp_path):
    entry = LockEntry("aa", "static int8", 0.7, "x86-64-vnni")
    write_lock(tmp_path, {"m/t": entry})
    write_lock(tmp_path, {"n/t": entry})
    lock = read_lock(tmp_path)

    assert lock == {"m/t": entry, "n/t": entry}
    decided = locked_decision(lock, "m/t", "aa")
    assert decided is not None
    assert decided.value == "static int8"
    assert locked_decision(lock, "m/t", "bb") is None


def test_two_builds_that_lock_at_once_lose_nothing(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    entry = LockEntry("aa", "static int8", 0.7, "x86-64-vnni")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_lock(tmp_path, {f"m{i}/t": entry}), range(32)))

    assert len(read_lock(tmp_path)) == 32


def test_a_broken_lock_file_is_named(tmp_path):
    (tmp_path / "edgekit.lock").write_text("{")

    with pytest.raises(ConfigError, match="not a lock file"):
        read_lock(tmp_path)
