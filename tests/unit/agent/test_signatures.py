"""Signatures checked in a child: what it says counts, and nothing else does."""

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent.signatures import ApartKey, answer, apart, ask_child
from edgekit.wire.errors import DeviceError
from edgekit.wire.signing import PrivateKey

KEY = PrivateKey(bytes(32))
DATA = b'{"schema": "edgekit.bundle/1"}'
SIGNATURE = KEY.sign(DATA)


def asking(said):
    """A key whose child says this, and the questions that it got."""
    questions = []

    def ask(question: bytes) -> bytes:
        questions.append(question)
        return said(question) if callable(said) else said

    return ApartKey(KEY.public.raw, ask=ask), questions


def test_a_real_child_tells_a_signature_from_others():
    (key,) = apart([KEY.public])
    assert key.verifies(DATA, SIGNATURE)
    assert not key.verifies(DATA + b" ", SIGNATURE)
    assert not key.verifies(DATA, SIGNATURE[:-1] + bytes([SIGNATURE[-1] ^ 1]))


def test_the_agent_does_not_load_the_signing_library():
    code = (
        "import sys; from edgekit.agent.signatures import apart\n"
        "from edgekit.wire.signing import PublicKey\n"
        f"(key,) = apart([PublicKey(bytes.fromhex('{KEY.public.raw.hex()}'))])\n"
        f"assert key.verifies({DATA!r}, bytes.fromhex('{SIGNATURE.hex()}'))\n"
        "print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_holds_is_asked_once():
    key, questions = asking(answer)
    assert key.verifies(DATA, SIGNATURE)
    assert key.verifies(DATA, SIGNATURE)
    assert len(questions) == 1
    assert not key.verifies(b"other", SIGNATURE)
    assert not key.verifies(b"other", SIGNATURE)
    assert len(questions) == 3


def test_few_answers_are_remembered():
    key, _ = asking(answer)
    for index in range(100):
        data = b"%d" % index
        assert key.verifies(data, KEY.sign(data))
    assert len(key.known) == 64


@given(st.binary(max_size=80))
def test_only_an_answer_to_this_very_question_counts(said):
    key, _ = asking(said)
    with pytest.raises(DeviceError, match="could not be checked"):
        key.verifies(DATA, SIGNATURE)


def test_an_answer_to_another_question_does_not_count():
    other = hashlib.sha256(b"other").digest()
    key, _ = asking(other + b"holds")
    with pytest.raises(DeviceError, match="could not be checked"):
        key.verifies(DATA, SIGNATURE)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("edgekit.agent.signatures._PAUSE_S", 0.01)
    monkeypatch.setattr("edgekit.agent.signatures._DEADLINE_S", 5.0)
    return monkeypatch


def child(code):
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (child("import os; os.abort()"), "ended with -6"),
        (("/nowhere/python",), "No such file"),
        (child("print('holds')"), "something else"),
    ],
)
def test_a_child_that_fails_has_checked_nothing(impatient, command, why):
    impatient.setattr("edgekit.agent.signatures.COMMAND", command)
    with pytest.raises(DeviceError, match=f"could not be checked.*{why}"):
        ApartKey(KEY.public.raw).verifies(DATA, SIGNATURE)


def test_a_child_that_hangs_is_not_waited_for(impatient):
    impatient.setattr("edgekit.agent.signatures._DEADLINE_S", 0.3)
    impatient.setattr("edgekit.agent.signatures.COMMAND", child("import time; time.sleep(60)"))
    with pytest.raises(DeviceError, match="does not end"):
        ApartKey(KEY.public.raw).verifies(DATA, SIGNATURE)


def test_a_child_that_fails_once_is_started_again(impatient, tmp_path):
    mark = tmp_path / "failed"
    code = (
        f"import os, sys; from edgekit.agent.signatures import main; mark = {str(mark)!r}\n"
        "if os.path.exists(mark): sys.exit(main())\n"
        "open(mark, 'w').close(); os.abort()"
    )
    impatient.setattr("edgekit.agent.signatures.COMMAND", child(code))
    assert ApartKey(KEY.public.raw).verifies(DATA, SIGNATURE)
    assert mark.exists()


def test_the_child_takes_no_module_of_the_folder_it_is_in(tmp_path, monkeypatch):
    (tmp_path / "hashlib.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert ApartKey(KEY.public.raw).verifies(DATA, SIGNATURE)


def test_what_cannot_be_signed_is_not_asked():
    key, questions = asking(answer)
    assert not key.verifies(DATA, SIGNATURE[:-1])
    assert not key.verifies(bytes((1 << 20) + 1), SIGNATURE)
    assert not questions


def test_the_child_refuses_what_is_no_question(impatient):
    for question in (b"", bytes(96 + (1 << 20) + 1)):
        with pytest.raises(DeviceError, match="ended with 2"):
            ask_child(question)
