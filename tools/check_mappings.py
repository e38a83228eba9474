"""Try the agent's mappings against a real Home Assistant and a real Sparkplug host.

Installs both into environments of their own (700 MB, three minutes), lets a real agent publish at a
real mosquitto, and prints what held. Exits with 1 where something did not.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mapping_hosts import environments  # noqa: E402
from mapping_hosts.checks import Checks  # noqa: E402
from mapping_hosts.home_assistant import HomeAssistant  # noqa: E402
from mapping_hosts.scenario import Scenario  # noqa: E402

from edgekit import __version__  # noqa: E402 - tests/ stands beside the package
from tests.agent_broker import find_mosquitto  # noqa: E402


def main() -> int:
    """Install, try, and tell.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--environments", type=Path, help="keep them there; made anew by default")
    parser.add_argument("--python", type=Path, help="for Home Assistant; the newest by default")
    parser.add_argument("--home-assistant", default="homeassistant", help="pip's requirement")
    options = parser.parse_args()
    logging.getLogger("paho").addHandler(logging.NullHandler())
    mosquitto = find_mosquitto()
    if mosquitto is None:
        print("error: mosquitto is missing; apt-get install -y mosquitto", file=sys.stderr)
        return 4
    with tempfile.TemporaryDirectory(prefix="edgekit-mappings-") as scratch:
        kept = (options.environments or Path(scratch)).resolve()
        newest = options.python or environments.newest_python()
        hass = home_assistant(kept / "home-assistant", newest, options.home_assistant)
        print("  installing pysparkplug", file=sys.stderr)
        spb = environments.make(kept / "sparkplug", Path(sys.executable), "pysparkplug")
        version = environments.version_of
        tables = (
            Checks(f"Home Assistant {version(hass, 'homeassistant')}"),
            Checks(f"Sparkplug 3.0.0 by pysparkplug {version(spb, 'pysparkplug')}"),
        )
        print("  a real agent publishes; about two minutes", file=sys.stderr)
        home = HomeAssistant(hass, Path(scratch) / "home")
        with Scenario(Path(scratch), home, spb, *tables) as scenario:
            scenario.run()
    said = subprocess.run([mosquitto, "-h"], capture_output=True, text=True, check=False).stdout
    print(f"edgekit {__version__}, {said.splitlines()[0]}")
    for table in tables:
        print(table.show())
    return int(any(table.failed for table in tables))


def home_assistant(folder: Path, python: Path, requirement: str) -> Path:
    """Make Home Assistant's environment and return its Python."""
    print(f"  installing {requirement} for {python}", file=sys.stderr)
    inside = environments.make(folder, python, requirement)
    # It asks for these when it starts, and would install them then.
    environments.complete_home_assistant(inside, requirement, "mqtt", "frontend")
    return inside


if __name__ == "__main__":
    sys.exit(main())
