from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edgekit.cli.main import run
from edgekit.wire.signing import load_private_key, load_public_key


@pytest.fixture
def key_file(tmp_path, monkeypatch):
    path = tmp_path / "keys" / "dev.pem"
    monkeypatch.setenv("EDGEKIT_KEY_FILE", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def read_json(capsys):
    return json.loads(capsys.readouterr().out)


def test_create_show_export(key_file, capsys, tmp_path):
    assert run(["keys", "create"]) == 0
    key = load_private_key(key_file).public
    assert key.label in capsys.readouterr().out
    assert run(["keys", "show"]) == 0
    shown = capsys.readouterr().out
    assert key.key_id in shown
    assert key.to_pem().decode() in shown
    assert run(["keys", "export"]) == 0
    assert capsys.readouterr().out == key.to_pem().decode()
    assert run(["keys", "export", "-o", "dev.pub.pem"]) == 0
    assert load_public_key(tmp_path / "dev.pub.pem") == key


def test_list_says_which_key_signs(key_file, capsys):
    assert run(["keys", "list", "--json"]) == 0
    assert read_json(capsys) == {"schema": "edgekit.keys.list/1", "keys": []}
    for arguments in (["keys", "create"], ["keys", "create", "release"]):
        assert run([*arguments, "--quiet"]) == 0
    key_file.with_name("open.pem").write_bytes(b"x")
    key_file.with_name("open.pem").chmod(0o644)
    capsys.readouterr()
    assert run(["keys", "list", "--json"]) == 0
    rows = {row["path"].rpartition("/")[2]: row for row in read_json(capsys)["keys"]}
    assert {name: row["signs"] for name, row in rows.items()} == {
        "dev.pem": True,
        "open.pem": False,
        "release.pem": False,
    }
    assert "others can read" in rows["open.pem"]["problem"]
    assert run(["keys", "list"]) == 0
    assert "others can read" in capsys.readouterr().out


def test_a_key_is_never_replaced(key_file, capsys):
    assert run(["keys", "create"]) == 0
    before = key_file.read_bytes()
    assert run(["keys", "create"]) == 2
    assert "never replaced" in capsys.readouterr().err
    assert key_file.read_bytes() == before


def test_without_a_key_the_next_step_is_named(key_file, capsys):
    assert run(["keys", "show"]) == 7
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "edgekit keys create" in captured.err


def test_a_name_that_is_a_path_is_refused(key_file, capsys):
    assert run(["keys", "create", "../x"]) == 2
    assert "not a key's name" in capsys.readouterr().err


def test_the_flag_comes_before_the_variable(key_file, capsys, tmp_path):
    other = tmp_path / "other.pem"
    assert run(["keys", "create", "--key-file", str(other), "--quiet"]) == 0
    assert capsys.readouterr().out.strip() == str(other)
    assert other.exists()
    assert not key_file.exists()


def test_no_secret_is_ever_printed(key_file, capsys):
    assert run(["keys", "create", "--json"]) == 0
    secret = key_file.read_text().splitlines()[1]
    for arguments in (["show"], ["list"], ["export"]):
        assert run(["keys", *arguments, "--json"]) == 0
        assert run(["keys", *arguments]) == 0
    captured = capsys.readouterr()
    assert secret not in captured.out + captured.err


def test_the_command_loads_no_toolchain_to_show_its_help():
    code = (
        "import sys; from edgekit.cli.main import run; run(['keys', '--help']); "
        "run(['bundle', '--help']); "
        "print([m for m in ('cryptography', 'numpy', 'onnx', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
