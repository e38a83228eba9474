"""TOML with lines: every key is found, every mistake is named where it stands."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.wire.errors import ConfigError
from edgekit.wire.located import load_toml, parse_toml

EXAMPLE = """\
name = "a"
[source]
uri = "file:x"   # a comment with = and [brackets]
shape = [
  1,
  2,
]
[[inputs]]
name = "x"
[[inputs]]
name = "y"
[accept]
"top 1" = { min = 0.9, vs = "fp32" }
a.b = 3
text = '''
fake = 1
[nothere]
'''
last = true
"""


def test_every_key_knows_its_line():
    root = parse_toml(EXAMPLE, "r.toml")

    assert root.where("name") == "r.toml:1"
    assert root.table("source").where("uri") == "r.toml:3"
    assert [t.where("name") for t in root.tables("inputs")] == ["r.toml:9", "r.toml:11"]
    accept = root.table("accept")
    assert accept.where("top 1") == "r.toml:13"
    assert accept.table("top 1").where("vs") == "r.toml:13"
    assert accept.where("last") == "r.toml:19"
    assert ("accept", "fake") not in root.lines


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True),
        st.integers()
        | st.booleans()
        | st.text(st.characters(codec="ascii", exclude_categories=["C"])),
        min_size=1,
    )
)
def test_lines_match_what_was_written(values):
    import json

    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
    root = parse_toml(text, "f")

    assert tomllib.loads(text) == values
    assert [root.where(key) for key in values] == [f"f:{i + 1}" for i in range(len(values))]


def test_malformed_toml_names_file_and_line():
    with pytest.raises(ConfigError) as error:
        parse_toml("a = 1\nb = = 2\n", "models/x.toml")

    assert error.value.where == "models/x.toml:2"


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    root = parse_toml("titel = 'x'\n", "f.toml")
    root.optional("title", str)

    with pytest.raises(ConfigError, match="unknown key") as error:
        root.close()

    assert error.value.where == "f.toml:1"
    assert error.value.hint == "did you mean title?"


@pytest.mark.parametrize(("text", "kind"), [("k = true", int), ("k = 'a'", int), ("k = 1", str)])
def test_a_value_of_another_type_is_refused(text, kind):
    with pytest.raises(ConfigError, match="expected"):
        parse_toml(text, "f").get("k", kind)


def test_an_integer_does_for_a_float_and_a_missing_key_is_named():
    root = parse_toml("k = 2", "f")

    assert root.get("k", float) == 2.0
    with pytest.raises(ConfigError, match='"gone" is missing'):
        root.get("gone", str)


def test_a_huge_or_binary_file_is_refused(tmp_path):
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (2 << 20))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")

    for path in (huge, binary, tmp_path / "missing.toml"):
        with pytest.raises(ConfigError):
            load_toml(path)
