"""``hf:OWNER/NAME@REVISION`` through the real client, against a hub of our own on this machine."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.wire.canonical import digest_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="needs huggingface_hub"
)

SCRIPT = """
import json, sys
from pathlib import Path
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import ignore
from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources import fetch
from edgekit.wire.errors import EdgekitError
root, uri, sha256, offline = sys.argv[1:]
try:
    path = fetch(SourceRef(uri, sha256), cache=Cache(Path(root)), folder=Path(),
                 on_event=ignore, offline=bool(offline))
    print(json.dumps(sorted(p.relative_to(path).as_posix() for p in path.rglob("*"))))
except EdgekitError as error:
    print(json.dumps([type(error).__name__, error.message, error.hint]))
"""

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "vocab.txt": b"a\nb\n",
    "pytorch_model.bin": b"pickled",
    "modeling_evil.py": b"import os",
}
KEPT = ["config.json", "model.safetensors", "vocab.txt"]
SHA = digest_of([[name, hashlib.sha256(FILES[name]).hexdigest()] for name in KEPT])
URI = "hf:own/name@v1"


@pytest.fixture
def hub(site):
    document = {
        "id": "own/name",
        "modelId": "own/name",
        "sha": site.commit,
        "siblings": [{"rfilename": name} for name in FILES],
    }
    site.files["/api/models/own/name/revision/v1"] = json.dumps(document).encode()
    for name, data in FILES.items():
        site.files[f"/own/name/resolve/{site.commit}/{name}"] = data
    return site


def get(site, root: Path, sha256: str = "", offline: str = ""):
    environment = {
        **os.environ,
        "HF_ENDPOINT": site.url,
        "HF_HOME": str(root / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root / "cache"), URI, sha256, offline],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_a_checkpoint_on_the_hub(hub, tmp_path: Path) -> None:
    kind, message, hint = get(hub, tmp_path)
    assert (kind, hint) == ("ConfigError", f'add sha256 = "{SHA}"')
    assert "has no sha256" in message
    asked = len(hub.asked)
    assert get(hub, tmp_path, SHA) == KEPT
    assert get(hub, tmp_path, SHA, offline="yes") == KEPT
    assert len(hub.asked) == asked
    assert not any(path.endswith((".bin", ".py")) for path, _ in hub.asked)


def test_another_content_is_refused(hub, tmp_path: Path) -> None:
    kind, message, _ = get(hub, tmp_path, "0" * 64)
    assert kind == "TrustError"
    assert SHA in message
    assert get(hub, tmp_path, "0" * 64, offline="yes")[0] == "BuildError"


def test_a_repository_that_is_not_there(site, tmp_path: Path) -> None:
    kind, message, hint = get(site, tmp_path, "0" * 64)
    assert kind == "BuildError"
    assert "cannot be fetched" in message
    assert "no network" in hint


def test_no_network(site, tmp_path: Path) -> None:
    site.url = "http://127.0.0.1:9"
    kind, message, _ = get(site, tmp_path, "0" * 64)
    assert (kind, "cannot be fetched" in message) == ("BuildError", True)
