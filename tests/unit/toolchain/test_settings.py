from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.toolchain.settings import SETTINGS, load_settings
from edgekit.wire.errors import ConfigError

GIVEN = {
    "path": ("flagged", "/from/env", '"written"'),
    "count": (7, "5", "3"),
    "switch": (True, "true", "true"),
    "names": (["a"], "b, c", '["d"]'),
    "minutes": (1.5, "2", "3"),
    "search": ("full", "quick", '"full"'),
}


def write(folder: Path, text: str) -> Path:
    (folder / "edgekit.toml").write_text(text)
    return folder


def toml_of(setting, value: str) -> str:
    group, _, key = setting.toml.rpartition(".")
    return f"[{group}]\n{key} = {value}\n" if group else f"{key} = {value}\n"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_flag_wins_over_variable_over_file_over_default(setting, tmp_path: Path) -> None:
    flag, env, written = GIVEN[setting.kind]
    write(tmp_path, toml_of(setting, written))
    line = setting.toml.count(".") + 1

    def origin(flags: dict[str, object], variables: dict[str, str]) -> str:
        return load_settings(tmp_path, flags, variables).origins[setting.name]

    assert origin({setting.name: flag}, {setting.env: env}) == (setting.flag or setting.name)
    assert origin({setting.name: None}, {setting.env: env}) == setting.env
    assert origin({}, {}) == f"edgekit.toml:{line}"
    (tmp_path / "edgekit.toml").unlink()
    assert origin({}, {}) == "default"


def test_the_table_is_consistent() -> None:
    assert len({s.name for s in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:
        assert setting.env.startswith("EDGEKIT_")
        assert setting.help.endswith(".")


def test_values(tmp_path: Path) -> None:
    write(
        tmp_path,
        'cache_dir = "c"\njobs = 3\noffline = true\n[licenses]\ndeny = ["AGPL-3.0-only"]\n',
    )
    settings = load_settings(tmp_path, {}, {})
    assert settings.cache_dir == tmp_path / "c"
    assert settings.dist_dir == tmp_path / "dist"
    assert settings.jobs == 3
    assert settings.offline is True
    assert settings.licenses_deny == ("AGPL-3.0-only",)
    assert settings.value("jobs").origin == "edgekit.toml:2"
    assert settings.key_file.parts[-3:] == ("edgekit", "keys", "dev.pem")


def test_lists_and_switches_from_the_environment(tmp_path: Path) -> None:
    write(tmp_path, 'offline = true\n[licenses]\ndeny = ["MIT"]\n')
    settings = load_settings(
        tmp_path, {}, {"EDGEKIT_OFFLINE": "0", "EDGEKIT_LICENSES_DENY": "A, B,"}
    )
    assert settings.offline is False
    assert settings.licenses_deny == ("A", "B")


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_a_limit_of_time_is_a_positive_number(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a number of minutes > 0") as caught:
        load_settings(tmp_path, {}, {"EDGEKIT_MAX_MINUTES": text})
    assert caught.value.where == "EDGEKIT_MAX_MINUTES"


def test_a_search_is_quick_or_full(tmp_path: Path) -> None:
    write(tmp_path, 'search = "thorough"\nmax_minutes = 5\n')
    with pytest.raises(ConfigError, match="expected quick or full") as caught:
        load_settings(tmp_path, {}, {})
    assert caught.value.where == "edgekit.toml:1"


def test_a_flag_that_was_not_given_hides_nothing(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {"offline": False}, {"EDGEKIT_OFFLINE": "1"})
    assert settings.offline is True


def test_relative_paths_start_where_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, here = tmp_path / "project", tmp_path / "here"
    for folder in (project, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    write(project, 'dist_dir = "out"\n')
    assert load_settings(project, {}, {}).dist_dir == project / "out"
    assert load_settings(project, {"dist_dir": "out"}, {}).dist_dir == here / "out"
    assert load_settings(project, {}, {"EDGEKIT_DIST_DIR": "out"}).dist_dir == here / "out"


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ("\njob = 3\n", "edgekit.toml:2", "did you mean jobs?"),
        ("[license]\ndeny = []\n", "edgekit.toml:1", "did you mean licenses?"),
        ("[licenses]\ndney = []\n", "edgekit.toml:2", "did you mean deny?"),
        ('jobs = "3"\n', "edgekit.toml:1", None),
        ("jobs = 0\n", "edgekit.toml:1", "at once"),
        ("offline = 1\n", "edgekit.toml:1", None),
        ("[licenses]\ndeny = [1]\n", "edgekit.toml:2", None),
        ('cache_dir = ""\n', "edgekit.toml:1", None),
        ("jobs = \n", "edgekit.toml:1", None),
    ],
)
def test_a_wrong_file_is_located(tmp_path: Path, text: str, where: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text), {}, {})
    assert caught.value.where == where
    if hint:
        assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "value"),
    [("EDGEKIT_JOBS", "many"), ("EDGEKIT_JOBS", "0"), ("EDGEKIT_OFFLINE", "perhaps")],
)
def test_a_wrong_variable_is_named(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path, {}, {name: value})
    assert caught.value.where == name
    assert value in caught.value.message
