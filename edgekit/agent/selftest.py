"""A bundle's self-test, in a process of its own: ``python -m edgekit.agent.selftest BUNDLE …``.

A new bundle may crash the runtime, hang in it, or eat all memory. So it is tried in a child, which
is killed at its deadline with all that it started, and which the kernel takes first when memory
runs out. The child prints one JSON document (``edgekit.selftest/1``); a child that dies without
one has its exit code or signal in the result.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from edgekit.runtime.host import host_kind
from edgekit.wire.canonical import canonical_json
from edgekit.wire.errors import EXIT_OK, DeviceError, EdgekitError, GateError, TrustError
from edgekit.wire.selftest import MAX_DETAIL, MAX_REASON, SelfTestResult, parse_self_test
from edgekit.wire.signing import RAW_KEY_BYTES, PublicKey
from edgekit.wire.strict import parse_object

COMMAND: tuple[str, ...] = (sys.executable, "-X", "faulthandler", "-m", "edgekit.agent.selftest")
MAX_OUTPUT_BYTES = 1 << 20
_TAIL_BYTES = 16 * 1024
_MAX_FILE_BYTES = 256 << 20


@dataclass(frozen=True)
class SelfTestSettings:
    """How a self-test runs.

    Attributes:
        deadline_s: Wall time after which the process is killed.
        rounds: Rounds over the golden samples that are timed.
        timing_s: No further round begins after this time.
        where: Name of this device in the measurements; the kind of its CPU where empty.
    """

    deadline_s: float = 300.0
    rounds: int = 5
    timing_s: float = 20.0
    where: str = ""


DEFAULT_SETTINGS = SelfTestSettings()


class SelfTest:
    """A self-test that runs. Making it starts the process.

    Args:
        bundle: The ``.ekb`` file.
        sha256: Digest that it must have.
        keys: Of which one must have signed it.
        settings: How it runs.
        command: What is started, before the arguments; tests put another program there.
        env: Its whole environment; None passes ours on.
        clock_s: Monotonic clock in seconds.

    Raises:
        DeviceError: The process cannot be started.
    """

    def __init__(
        self,
        bundle: Path,
        sha256: str,
        keys: Sequence[PublicKey],
        *,
        settings: SelfTestSettings = DEFAULT_SETTINGS,
        command: Sequence[str] = COMMAND,
        env: Mapping[str, str] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sha256 = sha256
        self._settings = settings
        self._clock_s = clock_s
        self._began_s = clock_s()
        self._cancelled = threading.Event()
        # Files, not pipes: nobody has to read while it runs, and nothing fills our memory.
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - wait() closes it
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - wait() closes it
        try:
            self._process = subprocess.Popen(
                [*command, *_arguments(bundle, sha256, keys, settings)],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._errors,
                env=None if env is None else dict(env),
                start_new_session=True,
            )
        except OSError as error:
            self._close()
            raise DeviceError(f"the self-test cannot be started: {error.strerror}") from error

    def cancel(self) -> None:
        """Stop it, from any thread; :meth:`wait` then says so."""
        self._cancelled.set()
        if self._process.poll() is None:
            self._kill()

    def wait(self) -> SelfTestResult:
        """Wait until it ends, at most until its deadline, and kill what is left of it.

        Returns:
            The result, also of a process that crashed, hung or was stopped.
        """
        left_s = self._settings.deadline_s - (self._clock_s() - self._began_s)
        late = False
        try:
            self._process.wait(max(0.0, left_s))
        except subprocess.TimeoutExpired:
            late = True
        finally:
            self._kill()
            code = self._process.wait()
        duration_s = max(0.0, self._clock_s() - self._began_s)
        try:
            output, errors = _tail(self._output, MAX_OUTPUT_BYTES), _tail(self._errors, _TAIL_BYTES)
        finally:
            self._close()
        return self._result(code, output, errors, duration_s, late=late)

    def _result(
        self, code: int, output: bytes, errors: bytes, duration_s: float, *, late: bool
    ) -> SelfTestResult:
        nothing = SelfTestResult(
            sha256=self._sha256,
            passed=False,
            reason="",
            duration_s=duration_s,
            host=host_kind(),
            exit_code=code if code >= 0 else None,
            signal=_signal_name(-code) if code < 0 else None,
            detail=_last_words(errors),
        )
        if self._cancelled.is_set():
            return replace(nothing, reason="it was stopped")
        if late:
            return replace(
                nothing, reason=f"it hung: no answer within {self._settings.deadline_s:g} s"
            )
        if code < 0:
            return replace(nothing, reason=f"its process was ended by {nothing.signal}")
        try:
            said = parse_self_test(parse_object(output, "self-test", most_bytes=MAX_OUTPUT_BYTES))
        except TrustError:
            return replace(nothing, reason=f"its process ended with {code} and said nothing")
        if said.sha256 != self._sha256 or said.passed != (code == EXIT_OK):
            return replace(nothing, reason=f"its process ended with {code} and said otherwise")
        return replace(said, duration_s=duration_s, exit_code=code)

    def _kill(self) -> None:
        """Kill whatever is left of the group; the leader may have left children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _close(self) -> None:
        self._output.close()
        self._errors.close()


def run_self_test(
    bundle: Path,
    sha256: str,
    keys: Sequence[PublicKey],
    *,
    settings: SelfTestSettings = DEFAULT_SETTINGS,
) -> SelfTestResult:
    """Run a bundle's self-test in a process of its own and wait for it.

    Args:
        bundle: The ``.ekb`` file.
        sha256: Digest that it must have.
        keys: Of which one must have signed it.
        settings: How it runs.

    Returns:
        The result, also of a process that crashed or hung.

    Raises:
        DeviceError: The process cannot be started.
    """
    return SelfTest(bundle, sha256, keys, settings=settings).wait()


def main(argv: Sequence[str]) -> int:
    """Run the self-test here and print its result: the child's side.

    Args:
        argv: See ``--help``.

    Returns:
        0 where it passed, 6 where not, or the exit code of the error that stands in the result.
    """
    arguments = _parser().parse_args(argv)
    output = _only_ours()
    _be_the_first_to_go()
    result, code = _run(arguments)
    output.write(canonical_json(result.to_json()) + b"\n")
    output.flush()
    return code


def _run(arguments: argparse.Namespace) -> tuple[SelfTestResult, int]:
    # Imported here: the parent never loads the runtime.
    from edgekit.agent.selftest_run import Timing, run_here
    from edgekit.wire.bundle import open_bundle

    keys = [PublicKey(raw) for raw in arguments.key]
    try:
        with (
            open_bundle(arguments.bundle, keys) as bundle,
            tempfile.TemporaryDirectory(prefix="edgekit-selftest-") as folder,
        ):
            if bundle.sha256() != arguments.sha256:
                raise TrustError("not the bundle that was to be tested", where=str(bundle.path))
            result = run_here(
                bundle,
                arguments.sha256,
                where=arguments.where or host_kind(),
                timing=Timing(arguments.rounds, arguments.timing_s),
                folder=Path(folder),
                clock_ns=time.perf_counter_ns,
            )
    except EdgekitError as error:
        reason = _plain(str(error), MAX_REASON) or type(error).__name__
        return SelfTestResult(arguments.sha256, False, reason, 0.0, host_kind()), error.exit_code
    result = replace(result, reason=_plain(result.reason, MAX_REASON))
    return result, EXIT_OK if result.passed else GateError.exit_code


def _only_ours() -> IO[bytes]:
    """Return the standard output, and send what libraries print to the standard error instead."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return output


def _be_the_first_to_go() -> None:
    """Let the kernel take this process before any other when memory runs out; leave no core."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edgekit.agent.selftest")
    parser.add_argument("bundle", type=Path, help="The .ekb file.")
    parser.add_argument("--sha256", required=True, help="Digest that it must have.")
    parser.add_argument(
        "--key", type=_raw_key, action="append", default=[], help="A trusted key, 64 hex digits."
    )
    parser.add_argument("--rounds", type=int, default=DEFAULT_SETTINGS.rounds)
    parser.add_argument("--timing-s", type=float, default=DEFAULT_SETTINGS.timing_s)
    parser.add_argument("--where", default="", help="Name of this device in the measurements.")
    return parser


def _arguments(
    bundle: Path, sha256: str, keys: Sequence[PublicKey], settings: SelfTestSettings
) -> list[str]:
    trusted = [word for key in keys for word in ("--key", key.raw.hex())]
    timing = ["--rounds", str(settings.rounds), "--timing-s", str(settings.timing_s)]
    return [str(bundle), "--sha256", sha256, *trusted, *timing, f"--where={settings.where}"]


def _raw_key(text: str) -> bytes:
    raw = bytes.fromhex(text)
    if len(raw) != RAW_KEY_BYTES:
        raise ValueError
    return raw


def _tail(file: IO[bytes], most_bytes: int) -> bytes:
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, size_bytes - most_bytes))
    return file.read(most_bytes)


def _last_words(errors: bytes) -> str:
    lines = [line.strip() for line in errors.decode(errors="replace").splitlines()]
    return _plain(" / ".join(line for line in lines if line)[-MAX_DETAIL:], MAX_DETAIL)


def _plain(text: str, most: int) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:most]


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
