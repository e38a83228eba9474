"""What a user sees who types half a command, or a wrong one."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("words", "default"),
    [(("keys",), ("keys", "list")), (("targets",), ("targets", "list"))],
    ids=["keys", "targets"],
)
def test_a_group_alone_shows_what_there_is(edgekit, words, default):
    assert edgekit(*words) == edgekit(*default)
    assert edgekit(*words, "--json") == edgekit(*default, "--json")
    assert "Commands:" in edgekit(*words, "--help").out


@pytest.mark.parametrize("words", [(), ("bundle",)], ids=["edgekit", "bundle"])
def test_nothing_asked_for_is_answered_with_the_help(edgekit, words):
    ran = edgekit(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: edgekit")
    assert "error" not in ran.err.splitlines()[0]


def test_help_of_commands_is_whole(edgekit):
    for words in ((), ("bundle",), ("targets",)):
        listed = edgekit(*words, "--help").out.partition("Commands:")[2]
        assert listed
        assert "..." not in listed


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("buid",), "no such command buid", "did you mean build?"),
        (("keys", "shw"), "no such command shw", "did you mean show?"),
        (("keys", "zzz"), "no such command zzz", "`edgekit keys --help` shows all"),
        (("build", "--quite"), "no such option --quite", "did you mean --quiet?"),
        (
            ("build",),
            "--target is missing",
            "`--target rpi5`, for one; `edgekit targets` shows all",
        ),
    ],
    ids=["command", "subcommand", "unlike any", "option", "target"],
)
def test_what_is_wrong_is_said_once(edgekit, words, message, hint):
    ran = edgekit(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: {message}\n  hint: {hint}\n"
