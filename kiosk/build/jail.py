"""The first process of a build's own mount and process namespaces (see `sandbox`). Not for use by hand.

    python -m kiosk.build.jail PROGRAM [ARGUMENT ...]

When this process ends, in whatever way, the kernel ends every process of the build and takes away every
mount that it made.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType

KEPT = ("DIB_", "KIOSK_")
NAMES = {"PATH", "LC_ALL", "HOME", "USER", "TMP_DIR", "ARCH", "ELEMENTS_PATH", "SOURCE_DATE_EPOCH"}
NAMES |= {"http_proxy", "https_proxy", "no_proxy"}


def main(argv: list[str]) -> int:
    """Runs the program to its end, collecting what it leaves behind, and returns its status."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        os._exit(143)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    os.umask(0o022)
    env = {k: v for k, v in os.environ.items() if k in NAMES or k.startswith(KEPT)}
    if not os.path.ismount("/dev/pts"):
        subprocess.run(["mount", "-t", "devpts", "devpts", "/dev/pts"], check=False)
    child = subprocess.Popen(argv, env=env)
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
