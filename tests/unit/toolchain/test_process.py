from __future__ import annotations

import os
import select
import sys
from pathlib import Path

import pytest

from edgekit.toolchain.process import MAX_OUTPUT_BYTES, run
from edgekit.wire.errors import BuildError, MissingToolError


def python(script: str, **options):
    options.setdefault("timeout_s", 60)
    return run([sys.executable, "-c", script], missing="install it", **options)


def ends(pid: int) -> bool:
    """Wait until a process that was killed is gone; the kernel needs a moment."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 30)[0])
    finally:
        os.close(descriptor)


def test_output_code_and_input() -> None:
    done = python("import sys; print(sys.stdin.read()); sys.exit(3)", stdin=b"hello")
    assert (done.code, done.output) == (3, "hello\n")


def test_lines_are_heard() -> None:
    heard: list[str] = []
    python("print('a'); print('b')", on_line=heard.append)
    assert heard == ["a", "b"]


def test_the_tail_prefers_errors() -> None:
    done = python("print('ERROR: this'); print('bye')")
    assert done.tail() == "ERROR: this"
    assert python("print('x\\n\\ny')").tail(1) == "y"


def test_long_output_is_cut() -> None:
    done = python(f"print('x' * {3 * MAX_OUTPUT_BYTES}); print('end')")
    assert len(done.output) <= MAX_OUTPUT_BYTES
    assert done.output.endswith("end\n")


def test_a_missing_program_says_how_to_install_it() -> None:
    with pytest.raises(MissingToolError) as caught:
        run(["no-such-program-here"], timeout_s=1, missing="apt-get install it")
    assert caught.value.hint == "apt-get install it"


def test_a_program_that_does_not_read_is_no_error() -> None:
    assert python("pass", stdin=b"x" * 1000).code == 0


def test_when_the_time_is_up_the_whole_group_goes(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = (
        "import subprocess, sys, time;"
        "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"open({str(pid_file)!r}, 'w').write(str(c.pid)); time.sleep(600)"
    )
    with pytest.raises(BuildError, match="was stopped"):
        python(script, timeout_s=3)
    assert ends(int(pid_file.read_text()))


def test_what_a_program_leaves_behind_is_ended(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys;"
        "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); print(c.pid)"
    )
    done = python(script)
    assert ends(int(done.output))


def test_the_environment_can_be_given() -> None:
    done = python(
        "import os; print(os.environ.get('A'), 'HOME' in os.environ)",
        env={"A": "1", "PATH": os.environ["PATH"]},
    )
    assert done.output == "1 False\n"
