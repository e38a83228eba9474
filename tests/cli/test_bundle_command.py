from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.cli.main import run
from edgekit.toolchain.keys import create_key
from edgekit.toolchain.pack import write_bundle
from edgekit.wire.bundle import open_bundle
from edgekit.wire.canonical import sha256_file

WIRE = Path(__file__).parents[1] / "wire"
FIXTURE = str(WIRE / "bundle-v1.ekb")
PUBLIC = str(WIRE / "bundle-v1.pub.pem")


@pytest.fixture
def key_file(tmp_path, monkeypatch):
    path = tmp_path / "keys" / "dev.pem"
    monkeypatch.setenv("EDGEKIT_KEY_FILE", str(path))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def own(key_file, tmp_path):
    """A bundle signed by this machine's own key, with a higher serial and a smaller contract."""
    key, _ = create_key(key_file)
    with open_bundle(Path(FIXTURE), None) as bundle:
        members = {name: bundle.read(name) for name in bundle.manifest.members}
        draft = replace(
            bundle.manifest, serial=8, title="[bold]Ours[/]", contract=bundle.manifest.contract[:1]
        )
    members["model.onnx"] += b"\0"
    return str(write_bundle(tmp_path / "own.ekb", draft, members, key).path)


def test_show_says_what_it_is_and_who_signed_it(own, capsys):
    assert run(["bundle", "show", own]) == 0
    out = capsys.readouterr().out
    assert "tiny 8 → rpi5" in out
    assert "signed by dev-" in out
    assert "[bold]Ours[/]" in out
    assert "n=200, 0.943 to 0.989, measured on x86-64-vnni" in out
    assert "predicted for rpi5" in out
    assert "pipeline/labels.txt" in out
    assert max(len(line) for line in out.splitlines() if own not in line) <= 100


def test_show_marks_an_unknown_signer(key_file, capsys):
    assert run(["bundle", "show", FIXTURE]) == 0
    assert "signature not checked" in capsys.readouterr().out
    assert run(["bundle", "show", FIXTURE, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "edgekit.bundle.show/1"
    assert document["signature_checked"] is False
    assert run(["bundle", "show", FIXTURE, "--json", "--key", PUBLIC]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["signature_checked"] is True
    assert document["sha256"] == sha256_file(Path(FIXTURE))
    assert document["manifest"]["model"] == "tiny"
    assert [row["outcome"] for row in document["contract"]] == ["pass"] * 3


def test_verify_accepts_what_the_own_key_signed(own, capsys):
    assert run(["bundle", "verify", own, "--target", "rpi5", "--installed-serial", "8"]) == 0
    assert "genuine" in capsys.readouterr().out
    assert run(["bundle", "verify", own, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "edgekit.bundle.verify/1"
    assert (document["model"], document["serial"], document["members"]) == ("tiny", 8, 11)


def test_verify_accepts_a_given_key(key_file, capsys):
    assert run(["bundle", "verify", FIXTURE, "--key", PUBLIC, "--quiet"]) == 0
    assert capsys.readouterr().out.strip() == FIXTURE


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([FIXTURE], "no key to check"),
        ([FIXTURE, "--key", PUBLIC, "--target", "rpi4"], "is for target rpi5, this is rpi4"),
        ([FIXTURE, "--key", PUBLIC, "--installed-serial", "9"], "lower than the installed 9"),
        ([PUBLIC, "--key", PUBLIC], "not an edgekit bundle"),
    ],
)
def test_verify_refuses_with_the_reason(key_file, capsys, arguments, reason):
    assert run(["bundle", "verify", *arguments]) == 7
    captured = capsys.readouterr()
    assert captured.out == ""
    assert reason in captured.err
    assert arguments[0] in captured.err


def test_verify_refuses_another_signer(own, capsys):
    assert run(["bundle", "verify", FIXTURE]) == 7
    assert "not trusted here (trusted: dev-" in capsys.readouterr().err


def test_verify_refuses_a_changed_byte(own, capsys):
    path = Path(own)
    data = bytearray(path.read_bytes())
    data[data.index(b"cat\ndog")] ^= 1
    path.write_bytes(data)
    assert run(["bundle", "verify", own, "--json"]) == 7
    document = json.loads(capsys.readouterr().out)
    assert document["error"] == "TrustError"
    assert document["message"] == (
        'the digest of member "pipeline/labels.txt" is not the one in the manifest'
    )
    assert run(["bundle", "show", own]) == 7


def test_show_refuses_a_signature_that_does_not_hold(own, capsys):
    path = Path(own)
    data = bytearray(path.read_bytes())
    data[data.index(b"manifest.sig") + 20] ^= 1
    path.write_bytes(data)
    assert run(["bundle", "show", own]) == 7


def test_a_missing_file_is_a_usage_error(key_file, capsys):
    for name in ("show", "verify"):
        assert run(["bundle", name, "none.ekb"]) == 2
        assert "none.ekb: no such file" in capsys.readouterr().err


def test_diff_shows_what_changed(own, capsys):
    assert run(["bundle", "diff", FIXTURE, own]) == 0
    out = capsys.readouterr().out
    for text in ("serial", "model.onnx", "contract[size_mib]", "pass → –"):
        assert text in out
    assert run(["bundle", "diff", FIXTURE, own, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "edgekit.bundle.diff/1"
    assert {"field": "serial", "old": 7, "new": 8} in document["fields"]
    assert [row["path"] for row in document["members"]] == ["model.onnx"]


def test_golden_samples_take_one_line_unless_asked(own, capsys):
    shown = {}
    for more in ((), ("--verbose",)):
        assert run(["bundle", "show", own, *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        shown[more] = [line for line in lines if line.startswith("  golden/")]
    assert len(shown["--verbose",]) > 1
    (line,) = shown[()]
    assert f"{len(shown['--verbose',])} files" in line


def test_diff_of_a_bundle_with_itself(capsys):
    assert run(["bundle", "diff", FIXTURE, FIXTURE]) == 0
    assert "the same bytes" in capsys.readouterr().out
    assert run(["bundle", "diff", FIXTURE, FIXTURE, "--quiet"]) == 0
    assert capsys.readouterr().out.strip() == "same"
