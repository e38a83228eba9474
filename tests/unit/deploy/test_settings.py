"""The settings after a deployment."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from edgekit.agent.config import load_config
from edgekit.deploy.settings import Wanted, changes, check_overlay, merge, plain_name
from edgekit.wire.errors import ConfigError
from edgekit.wire.signing import generate_key

KEY = generate_key().public.to_pem().decode()
FILES = PurePosixPath("/opt/edgekit/files")
WANTED = Wanted("digits", "rpi5", FILES / ("ab" * 32) / "digits.ekb", KEY, {})


def first() -> str:
    return merge(None, WANTED, hostname="Kitchen.local", state_dir="/var/lib/edgekit")


def again(text: str, wanted: Wanted = WANTED) -> str:
    return merge(text, wanted, hostname="x", state_dir="/x")


def test_the_agent_reads_the_first_settings(tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_text(first())
    config = load_config(tmp_path / "agent.json")
    assert (config.device, config.target, config.fleet) == ("kitchen", "rpi5", "lab")
    assert config.bundles == (Path(WANTED.bundle),)
    assert [key.to_pem().decode() for key in config.trusted_keys] == [KEY]


def test_what_says_it_all_stays_byte_by_byte() -> None:
    text = json.dumps(json.loads(first()))  # another layout
    assert again(text) == text
    assert changes(text, again(text)) == []


def test_a_new_bundle_takes_the_place_of_the_old_one_of_its_model_alone() -> None:
    text = json.dumps(json.loads(first()) | {"bundles": [str(WANTED.bundle), "/mine/digits.ekb"]})
    new = replace(WANTED, bundle=FILES / ("cd" * 32) / "digits.ekb")
    found = json.loads(again(text, new))["bundles"]
    assert found == ["/mine/digits.ekb", str(new.bundle)]
    other = replace(WANTED, model="ocr", bundle=FILES / ("ef" * 32) / "ocr.ekb")
    assert len(json.loads(again(text, other))["bundles"]) == 3


def test_another_signer_is_trusted_beside_the_first() -> None:
    key = generate_key().public.to_pem().decode()
    text = again(first(), replace(WANTED, key=key))
    assert json.loads(text)["trusted_keys"] == [KEY, key]
    assert changes(first(), text) == ["trusted_keys"]


def test_what_the_user_gives_is_laid_over() -> None:
    text = again(first(), replace(WANTED, overlay={"fleet": "north", "broker": {"host": "b"}}))
    assert json.loads(text)["fleet"] == "north"
    assert changes(first(), text) == ["broker", "fleet"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"schema": "edgekit.agent/9"}', "[" * 9999, '{"schema": 1}'],
    ids=range(6),
)
def test_what_are_no_settings_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        again(text)


def test_a_board_of_another_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="set up as 'rpi4', the bundle is for rpi5"):
        again(json.dumps(json.loads(first()) | {"target": "rpi4"}))


def test_what_is_not_the_users_to_set_is_refused() -> None:
    check_overlay({"fleet": "x", "http": {}})
    with pytest.raises(ConfigError) as caught:
        check_overlay({"fleets": "x"})
    assert caught.value.hint == "did you mean fleet?"


@pytest.mark.parametrize(
    ("host", "name"), [("RaspberryPi.local", "raspberrypi"), ("---", "device"), ("a_b c", "a_b-c")]
)
def test_a_host_becomes_a_devices_name(host: str, name: str) -> None:
    assert plain_name(host) == name
