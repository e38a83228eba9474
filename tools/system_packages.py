"""Install the system packages that some tests need, where that can be done; else say so.

It never fails: tests/conftest.py leaves out what cannot run and, under CI=true, fails for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from edgekit.toolchain.userspace import APT_COMMAND, APT_PACKAGES

# Programs, the packages they come from, and the tests that need them.
NEEDED = {"qemu-aarch64-static": "qemu", "mmdebstrap": "qemu"}


def main() -> None:
    """Install what is missing."""
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if not missing:
        return
    if shutil.which("apt-get") and os.geteuid() == 0:
        print(f"  installing {' '.join(APT_PACKAGES)}", file=sys.stderr, flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]
        for command in (
            [*apt, "update"],
            [*apt, "install", "-y", "--no-install-recommends", *APT_PACKAGES],
        ):
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        groups = sorted({NEEDED[program] for program in missing})
        print(
            f"  left out: the tests marked {', '.join(groups)}, for {', '.join(missing)} cannot be "
            f"installed here.\n  hint: {APT_COMMAND}   (as root)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
