from __future__ import annotations

import pytest

from edgekit.runtime.options import Options
from edgekit.wire.errors import ConfigError


def options(**values) -> Options:
    return Options(values, "a-task")


def test_reads_by_type_and_takes_ints_for_floats():
    read = options(side=4, name="x", deep=True, many=[1, 2.5], one=3, words="a")
    assert read.get("side", float) == 4.0
    assert read.get("name", str) == "x"
    assert read.get("deep", bool) is True
    assert read.numbers("many") == (1.0, 2.5)
    assert read.numbers("one") == (3.0,)
    assert read.strings("words") == ("a",)
    assert read.get("absent", int, 7) == 7
    read.close()


@pytest.mark.parametrize(
    ("values", "read"),
    [
        ({"x": "1"}, lambda o: o.get("x", int)),
        ({"x": True}, lambda o: o.get("x", int)),
        ({"x": True}, lambda o: o.within("x", 0, 2)),
        ({"x": 3}, lambda o: o.within("x", 0, 2)),
        ({"x": float("nan")}, lambda o: o.within("x", 0, 2)),
        ({"x": []}, lambda o: o.numbers("x")),
        ({"x": [1, "2"]}, lambda o: o.numbers("x")),
        ({"x": [float("nan")]}, lambda o: o.numbers("x")),
        ({"x": [1]}, lambda o: o.strings("x")),
        ({}, lambda o: o.get("x", int)),
        ({}, lambda o: o.strings("x")),
    ],
)
def test_wrong_values_name_the_option_and_its_owner(values, read):
    with pytest.raises(ConfigError, match="a-task") as caught:
        read(options(**values))
    assert '"x"' in caught.value.message


def test_a_mistyped_choice_gets_the_closest():
    with pytest.raises(ConfigError) as caught:
        options(fit="strech").choice("fit", ("crop", "stretch"))
    assert caught.value.hint == "did you mean stretch?"


def test_an_unread_option_is_refused():
    read = options(treshold=1)
    read.get("threshold", float, 0.5)
    with pytest.raises(ConfigError, match="treshold") as caught:
        read.close()
    assert caught.value.hint == "did you mean threshold?"
