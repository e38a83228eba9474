"""The last lines of the log are told, bounded, and never raise."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edgekit.agent.logbook import MAX_LINE, MAX_LINES, Logbook
from edgekit.wire.errors import UsageError
from edgekit.wire.messages import MAX_CONTROL_BYTES, Reply, parse_reply
from edgekit.wire.values import tidy


@pytest.fixture
def log():
    book = Logbook()
    logger = logging.getLogger("edgekit.test_logbook")
    logger.addHandler(book)
    logger.setLevel(logging.INFO)
    yield logger, book
    logger.removeHandler(book)


def test_the_newest_lines_come_oldest_first(log):
    logger, book = log
    for number in range(MAX_LINES + 30):
        logger.info("line %d", number)
    logger.warning("hot")
    found = book.answer({"lines": 3})["lines"]
    last = MAX_LINES + 29
    said = [(line["level"], line["text"].rpartition(": ")[2]) for line in found]
    assert said == [("INFO", f"line {last - 1}"), ("INFO", f"line {last}"), ("WARNING", "hot")]
    assert len(book.answer({"lines": MAX_LINES})["lines"]) == MAX_LINES


def test_an_exception_is_one_line_and_a_bad_call_is_kept(log):
    logger, book = log
    try:
        Path("/dev/null/x").read_bytes()
    except OSError:
        logger.exception("the disk")
    book.handle(logging.LogRecord("x", logging.INFO, __file__, 1, "%d and %d", (1,), None))
    first, second = book.answer({})["lines"]
    assert first["text"].partition("the disk: ")[2].startswith("NotADirectoryError: ")
    assert second["text"].endswith("%d and %d")


@pytest.mark.parametrize("character", ["x", "é", "\x00", "\ud800", '"', "\U0001f600"])
def test_all_of_it_fits_a_reply(log, character):
    _, book = log
    for _ in range(MAX_LINES):
        # Not through the logger: what captures logs need not take half a character.
        text = character * 2 * MAX_LINE
        book.handle(logging.LogRecord("x", logging.INFO, __file__, 1, text, (), None))
    result = tidy({"result": book.answer({"lines": MAX_LINES})})["result"]
    reply = Reply("id", ok=True, result=result).to_bytes()
    assert len(reply) <= MAX_CONTROL_BYTES
    assert len(parse_reply(reply).result["lines"]) >= 10


@pytest.mark.parametrize("lines", [0, -1, MAX_LINES + 1, True, "5", None, 2.0, [1]])
def test_what_is_no_number_of_lines_is_said(lines):
    with pytest.raises(UsageError, match="from 1 to 200"):
        Logbook().answer({"lines": lines})
