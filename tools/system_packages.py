"""Install the system packages that some tests need, where that can be done; else say so.

It never fails: tests/conftest.py leaves out what cannot run and, under CI=true, fails for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from edgekit.toolchain.userspace import APT_COMMAND, APT_PACKAGES

# Programs, and the tests that need them.
NEEDED = {
    "qemu-aarch64-static": "qemu",
    "mmdebstrap": "qemu",
    "mosquitto": "mosquitto",
    "sshd": "sshd",
    "chromium": "chromium",
    "ffmpeg": "media",
    "arecord": "media",
}
_OTHERS = ("mosquitto", "openssh-server", "chromium", "ffmpeg", "alsa-utils")
PACKAGES = (*APT_PACKAGES, *_OTHERS)
COMMAND = f"{APT_COMMAND} {' '.join(_OTHERS)}"
# Debian keeps servers where a user's PATH does not look.
_FOLDERS = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))


def main() -> None:
    """Install what is missing."""
    missing = [program for program in NEEDED if shutil.which(program, path=_FOLDERS) is None]
    if not missing:
        return
    if shutil.which("apt-get") and os.geteuid() == 0:
        print(f"  installing {' '.join(PACKAGES)}", file=sys.stderr, flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]
        for command in (
            [*apt, "update"],
            [*apt, "install", "-y", "--no-install-recommends", *PACKAGES],
        ):
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    missing = [program for program in NEEDED if shutil.which(program, path=_FOLDERS) is None]
    if missing:
        groups = sorted({NEEDED[program] for program in missing})
        print(
            f"  left out: the tests marked {', '.join(groups)}, for {', '.join(missing)} cannot be "
            f"installed here.\n  hint: {COMMAND}   (as root)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
