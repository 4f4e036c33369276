"""A part of this machine with mounts, processes and a host name of its own: what runs in it ends with it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from kiosk.build.sandbox import namespaces


class Namespaces:
    """Folders of `places` (path: folder) stand in for those of this machine inside."""

    def __init__(self, places: Mapping[str, Path], hostname: str = "localhost") -> None:
        for path in places:
            Path(path).mkdir(parents=True, exist_ok=True)
        mounts = "".join(f"mount --bind '{folder}' '{path}'\n" for path, folder in places.items())
        script = f"{mounts}hostname {hostname}\necho there\nexec sleep infinity"
        self._holder = subprocess.Popen(
            [*namespaces(), "--uts", "--mount-proc", "sh", "-ec", script],
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"there\n"
        self.init = children(self._holder.pid)[0]

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command that runs another one inside."""
        return [
            "nsenter",
            f"--target={self.init}",
            "--root",
            "--wd",
            "--mount",
            "--uts",
            "--pid",
            "--",
            *argv,
        ]

    def close(self) -> None:
        """Ends all that runs inside."""
        self._holder.kill()
        self._holder.wait()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def signal_child(process: subprocess.Popen[bytes], number: int) -> None:
    """Signals what runs inside for a `nsenter` that waits for it, or a process that is none."""
    inside = Path(f"/proc/{process.pid}/comm").read_text() == "nsenter\n"
    for pid in children(process.pid) if inside else [process.pid]:
        os.kill(pid, number)
