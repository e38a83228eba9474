"""Whether a board can be deployed to, and how."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from edgekit.deploy.decide import (
    EXTRAS,
    PREFIX,
    Order,
    SentFile,
    check_board,
    check_prefix,
    check_space,
    choose_way,
    environment_id,
    with_extras,
)
from edgekit.runtime.tasks import task_names
from edgekit.wire.errors import DeviceError, UsageError

FILE = SentFile(Path("x"), "x.whl", "ab" * 32, 10)
ORDER = Order(FILE, "digits", "rpi5", "arm64", "00" * 32, "PEM", FILE)
PI: dict[str, Any] = {
    "python": "3.11.2",
    "bits": 64,
    "machine": "aarch64",
    "user": "pi",
    "is_root": False,
    "has_sudo": True,
    "has_systemd": True,
    "has_venv": True,
    "free_bytes": 8 << 30,
    "is_writable": False,
}


def test_a_pi_is_taken_and_systemd_runs_the_agent_through_sudo() -> None:
    check_board(PI, ORDER, "pi")
    way = choose_way(PI, PREFIX, "pi", service=True)
    assert (way.as_root, way.service, str(way.config)) == (True, True, "/etc/edgekit/agent.json")
    assert not choose_way(PI | {"is_root": True}, PREFIX, "pi", service=True).as_root


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"machine": "armv7l"}, "the board is armv7l"),
        ({"machine": "x86_64"}, "the bundle is for rpi5"),
        ({"bits": 32}, "32-bit"),
        ({"has_venv": False}, "has no venv"),
    ],
    ids=str,
)
def test_what_will_not_do_is_refused_with_the_next_step(changed: dict[str, Any], word: str) -> None:
    with pytest.raises(DeviceError, match=word) as caught:
        check_board(PI | changed, ORDER, "pi")
    assert caught.value.hint
    assert caught.value.where == "pi"


@pytest.mark.parametrize(
    ("changed", "service", "why"),
    [
        ({"has_systemd": False}, True, "no systemd"),
        ({"has_sudo": False}, True, "no root: it does not start at boot"),
        ({}, False, "as --no-service asks"),
    ],
    ids=str,
)
def test_without_systemd_or_root_it_is_started_directly(
    changed: dict[str, Any], service: bool, why: str
) -> None:
    way = choose_way(PI | {"is_writable": True} | changed, PREFIX, "pi", service=service)
    assert (way.as_root, way.service, way.why) == (False, False, why)
    assert str(way.config) == "/opt/edgekit/agent.json"
    with pytest.raises(DeviceError, match="nor write to /opt/edgekit"):
        choose_way(PI | changed, PREFIX, "pi", service=service)


def test_a_full_board_is_refused() -> None:
    check_space({"free_bytes": 100 << 20}, 100 << 20, "pi")
    with pytest.raises(DeviceError, match="100 MiB free, and 101 MiB are needed"):
        check_space({"free_bytes": 100 << 20}, 101 << 20, "pi")


@pytest.mark.parametrize(
    "prefix",
    ["/", "/usr", "/home", "opt", "/opt/../etc", "/opt/a\nb", "/opt/$(x)", "/" + "a" * 300],
)
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(UsageError):
        check_prefix(PurePosixPath(prefix))


def test_a_folder_of_ones_own_is_a_prefix() -> None:
    for prefix in ("/opt/edgekit", "/home/pi/edge kit", "/srv"):
        check_prefix(PurePosixPath(prefix))


def test_an_environment_is_named_by_what_makes_it() -> None:
    names = {
        environment_id(ORDER, "3.11.2"),
        environment_id(ORDER, "3.12.0"),
        environment_id(replace(ORDER, extras=("image",)), "3.11.2"),
        environment_id(replace(ORDER, wheels=(FILE,)), "3.11.2"),
        environment_id(replace(ORDER, wheel=replace(FILE, sha256="cd" * 32)), "3.11.2"),
    }
    assert len(names) == 5
    assert environment_id(replace(ORDER, model="other"), "3.11.2") in names


def test_what_other_models_need_stays() -> None:
    text = replace(ORDER, extras=("text",))
    assert with_extras(text, ["image", "--index-url=x"]).extras == ("image", "text")
    assert with_extras(ORDER, []).extras == ()


def test_every_task_says_which_packages_it_needs() -> None:
    assert sorted(EXTRAS) == task_names()
