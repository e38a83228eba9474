"""A device's log is read as what it is: text from outside."""

from __future__ import annotations

import pytest

from edgekit.fleet.device_log import MOST_LINES, LogLine, read_lines
from edgekit.wire.errors import DeviceError

GOOD = {"time_s": 1.5, "level": "INFO", "text": "x"}


def test_lines_are_read_and_what_is_none_is_left_out():
    odd = [{**GOOD, "time_s": "1"}, {**GOOD, "time_s": True}, {"text": "x"}, 5, None, [GOOD]]
    assert read_lines({"lines": [GOOD, *odd]}, "cam") == [LogLine(1.5, "INFO", "x")]
    assert len(read_lines({"lines": [GOOD] * 1000}, "cam")) == MOST_LINES


@pytest.mark.parametrize("answer", [None, [], {}, {"lines": "x"}, "lines"])
def test_an_answer_that_is_no_log_is_said(answer):
    with pytest.raises(DeviceError, match="cam answers with no log"):
        read_lines(answer, "cam")
