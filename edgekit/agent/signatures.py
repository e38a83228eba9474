"""Signatures checked in a process of its own: ``python -m edgekit.agent.signatures``.

The signing library takes 7 MB, which a board need not keep for the two or three signatures that an
agent checks in its life. The bytes that are checked are those in the agent's own memory: the
child gets key, signature and data through a pipe, and answers with the digest of all of them. Only
that answer counts; a child that crashes, hangs or says anything else has checked nothing.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from edgekit.wire.errors import DeviceError
from edgekit.wire.manifest import MAX_MANIFEST_BYTES
from edgekit.wire.signing import RAW_KEY_BYTES, SIGNATURE_BYTES, PublicKey

# -P: no module of the folder that the agent happens to stand in.
COMMAND = (sys.executable, "-P", "-m", "edgekit.agent.signatures")
_DEADLINE_S = 25.0  # for all tries; the watchdog of a service waits 30
_TRIES = 3
_PAUSE_S = 0.5
_MAX_KNOWN = 64
_HOLDS, _DOES_NOT = b"holds", b"does not hold"

# Takes the child's whole input and returns its whole output.
Ask = Callable[[bytes], bytes]


def ask_child(question: bytes) -> bytes:
    """Start the child, and return what it says; one that fails is started again, twice.

    A board that is out of memory for a moment must not lose the model that it serves.

    Raises:
        DeviceError: It cannot be started, fails or does not end.
    """
    end_s = time.monotonic() + _DEADLINE_S
    why = ""
    for attempt in range(_TRIES):
        time.sleep(_PAUSE_S * attempt)
        left_s = max(_PAUSE_S, end_s - time.monotonic())
        try:
            done = subprocess.run(
                COMMAND, input=question, capture_output=True, timeout=left_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise _failed("it does not end") from error
        except OSError as error:
            why = str(error.strerror)
            continue
        if done.returncode == 0:
            return done.stdout
        why = f"it ended with {done.returncode}"
    raise _failed(why)


def _failed(why: str) -> DeviceError:
    return DeviceError(
        f"a signature could not be checked: the process for it failed: {why}",
        hint="`python -m edgekit.agent.signatures < /dev/null` shows why",
    )


@dataclass(frozen=True)
class ApartKey(PublicKey):
    """A key that checks signatures in a child, and remembers those that hold.

    Attributes:
        ask: Starts the child.
        known: Digests of what was found to hold.
    """

    ask: Ask = field(default=ask_child, compare=False, repr=False)
    known: dict[bytes, None] = field(default_factory=dict, compare=False, repr=False)

    def verifies(self, data: bytes, signature: bytes) -> bool:
        """Tell whether a signature over some bytes was made with this key.

        Args:
            data: The exact bytes that were signed, at most 1 MiB.
            signature: 64 bytes; any other length is simply not a signature.

        Raises:
            DeviceError: It could not be checked: a board without memory for it, for instance.
        """
        if len(signature) != SIGNATURE_BYTES or len(data) > MAX_MANIFEST_BYTES:
            return False
        question = self.raw + signature + data
        digest = hashlib.sha256(question).digest()
        if digest in self.known:
            return True
        said = self.ask(question)
        if said not in {digest + _HOLDS, digest + _DOES_NOT}:
            raise _failed("it answers something else")
        holds = said == digest + _HOLDS
        if holds:
            while len(self.known) >= _MAX_KNOWN:
                self.known.pop(next(iter(self.known)))
            self.known[digest] = None
        return holds


def apart(keys: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
    """Return keys that check signatures in a child."""
    return tuple(ApartKey(key.raw, key.name) for key in keys)


def answer(question: bytes) -> bytes:
    """Check a signature here: the child's side.

    Args:
        question: 32 bytes of a key, 64 of a signature, and the data.

    Returns:
        The question's sha256, and whether the signature holds.
    """
    key, rest = question[:RAW_KEY_BYTES], question[RAW_KEY_BYTES:]
    holds = PublicKey(key).verifies(rest[SIGNATURE_BYTES:], rest[:SIGNATURE_BYTES])
    return hashlib.sha256(question).digest() + (_HOLDS if holds else _DOES_NOT)


def main() -> int:
    """Answer one question from the standard input."""
    most = RAW_KEY_BYTES + SIGNATURE_BYTES + MAX_MANIFEST_BYTES
    question = sys.stdin.buffer.read(most + 1)
    if not RAW_KEY_BYTES + SIGNATURE_BYTES <= len(question) <= most:
        sys.stderr.write("expected: a key, a signature and the data, raw\n")
        return 2
    sys.stdout.buffer.write(answer(question))
    return 0


if __name__ == "__main__":
    sys.exit(main())
