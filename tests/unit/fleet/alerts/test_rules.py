"""alerts.toml: strict, with the line of what is wrong and the word that was meant."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.alerts.kinds import KINDS, show
from edgekit.fleet.alerts.rules import KEYS, AlertSettings, load_alerts, read_alerts
from edgekit.wire.errors import ConfigError
from edgekit.wire.located import parse_toml

ROOT = Path(__file__).resolve().parents[4]


def read(text: str, folder: Path = Path()) -> AlertSettings:
    return read_alerts(parse_toml(text, "alerts.toml"), folder)


def test_without_a_file_each_kind_is_watched(tmp_path):
    settings = load_alerts(tmp_path / "alerts.toml")
    assert set(settings.rules) == set(KINDS)
    assert settings.channels == {}
    assert all(rule.name == rule.kind.name for rule in settings.rules.values())


def test_a_rule_replaces_the_default_of_its_name_and_others_stay():
    rules = read('[rules.temperature]\nabove = 70\nlabels = {site = "roof"}').rules
    assert rules["temperature"].above == 70
    assert rules["temperature"].clear == 65, "the gap goes along"
    assert rules["temperature"].labels == {"site": "roof"}
    assert set(rules) == set(KINDS)


def test_a_rule_is_switched_off_and_the_defaults_are_left_out():
    assert "drift" not in read("[rules.drift]\nenabled = false").rules
    assert list(read('defaults = false\n[rules.hot]\nkind = "temperature"').rules) == ["hot"]


@pytest.mark.parametrize(
    ("text", "message", "hint", "line"),
    [
        ("[rules.hot]\nkind = 'temprature'", "nothing called", "temperature", 2),
        ("[rules.temperature]\nabov = 3", 'unknown key "abov"', "above", 2),
        ("[rules.temperature]\nabove = 3\nclear = 4", "is over above", "", 3),
        ("[rules.offline]\nabove = 3", "yes or no", "for_s", 2),
        ("[rules.drift]\nfor_s = -1", "within 0", "", 2),
        ("[rules.drift]\nfor_s = true", "bool", "", 2),
        ("[rules.drift]\nseverity = 'bad'", "no severity", "critical", 2),
        ("[rules.drift]\nchannels = ['phne']", "no channel", "", 2),
        ("[rules.'../x']\nabove = 1", "is no name", "", 1),
        ("[rulse.x]", 'unknown key "rulse"', "rules", 1),
        ("[channels.a]\nkind = 'webhok'", "no kind of channel", "webhook", 2),
        ("[channels.a]\nkind = 'ntfy'", '"url" or "url_file"', "", 1),
        ("[channels.a]\nkind = 'ntfy'\nurl = 'file:///etc/passwd'", "no http or https", "", 3),
        ("[channels.a]\nkind = 'ntfy'\nhost = 'x'", "no key of ntfy", "", 3),
        ("[channels.a]\nkind = 'mqtt'\ntopic = 'a/#'", "without wildcards", "", 3),
        ("[channels.a]\nkind = 'ntfy'\nurl = 'http://a/'\ntokn_file = 'x'", "unknown", "token", 4),
        ("[[silence]]\nuntil = 2026-12-24T08:00:00", "with a zone", "Z", 2),
        ("[[silence]]\nuntil = 'tomorrow'", "with a zone", "Z", 2),
        ("[[silence]]\nlabels = {a = 1}", "must hold strings", "", 2),
        ("[rules.x\n", "malformed", "", 1),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text, message, hint, line):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert caught.value.where == f"alerts.toml:{line}"


def test_a_password_does_not_travel_in_the_open(tmp_path):
    (tmp_path / "p").write_text("hunter2\n")
    text = (
        "[channels.m]\nkind='smtp'\nhost='mail.example'\nfrom='a@b'\nto=['c@d']\n"
        "username='u'\npassword_file='p'\n"
    )
    channel = read(text, tmp_path).channels["m"]
    assert (channel.secret, channel.tls, channel.port) == ("hunter2", "starttls", 587)
    assert "hunter2" not in repr(channel)
    with pytest.raises(ConfigError, match="unencrypted"):
        read(text + "tls='none'", tmp_path)
    assert read(text.replace("mail.example", "127.0.0.1") + "tls='none'", tmp_path).channels


def test_a_secret_url_is_in_no_message(tmp_path):
    (tmp_path / "u").write_text("http s://hooks.example/SECRET")
    with pytest.raises(ConfigError) as caught:
        read("[channels.m]\nkind='webhook'\nurl_file='u'", tmp_path)
    assert "SECRET" not in str(caught.value)
    (tmp_path / "u").write_text("https://hooks.example/SECRET")
    channel = read("[channels.m]\nkind='webhook'\nurl_file='u'", tmp_path).channels["m"]
    assert channel.where == "hooks.example"
    assert "SECRET" not in repr(channel)


def test_an_address_with_a_line_break_is_none():
    text = "[channels.m]\nkind='smtp'\nhost='h'\nfrom=\"a@b\\nBcc: x@y\"\nto=['c@d']"
    with pytest.raises(ConfigError, match="no e-mail address"):
        read(text)


def test_a_silence_ends():
    silence = read(
        "[[silence]]\nrule='temp*'\ndevice='cam-?'\nuntil=2026-12-24T08:00:00Z\n"
        "labels={site='roof'}"
    ).silences[0]
    end_s = dt.datetime(2026, 12, 24, 8, tzinfo=dt.UTC).timestamp()
    roof = {"site": "roof", "a": "b"}
    assert silence.covers("temperature", "cam-1", roof, end_s - 1)
    assert not silence.covers("temperature", "cam-1", roof, end_s)
    assert not silence.covers("temperature", "cam-10", roof, end_s - 1)
    assert not silence.covers("temperature", "cam-1", {}, end_s - 1)
    assert not silence.covers("drift", "cam-1", roof, end_s - 1)


def test_every_key_is_documented():
    text = (ROOT / "docs" / "fleet-alerts.md").read_text(encoding="utf-8")
    for key in KEYS:
        assert f"`{key}`" in text, key
    for kind in KINDS.values():
        row = re.search(rf"^\| `{kind.name}` .*$", text, re.MULTILINE)
        assert row, kind.name
        if not kind.is_switch:
            assert show(kind.above, kind.unit) in row.group(0), kind.name


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ConfigError):
        read(text)


@given(
    st.dictionaries(
        st.sampled_from([key.rpartition(".")[2] for key in KEYS if key.startswith("rules.")]),
        st.one_of(st.text(max_size=5), st.integers(), st.floats(), st.booleans()),
    )
)
def test_any_value_of_a_rule_is_read_or_refused(values):
    from edgekit.wire.located import Table

    table = Table({"rules": {"drift": values}}, "alerts.toml", {})
    try:
        rule = read_alerts(table, Path()).rules.get("drift")
    except ConfigError:
        return
    assert rule is None or rule.clear <= rule.above
