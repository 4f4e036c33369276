"""A real sshd on loopback whose `/` is a small tree: a physical node that can be read over ssh."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiosk.golden.settings import SshSettings
from kiosk.run import run, tool
from tests.simulators import ssh_keys

PROGRAMS = ("sh", "tar", "env", "nice", "ionice", "cat", "sleep", "awk", "date", "find", "sed", "grep")


@dataclass(frozen=True)
class Node:
    """The node: its root folder and how it is reached."""

    root: Path
    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def settings(self, **more: Any) -> SshSettings:
        """Settings that reach it."""
        known = {
            "kind": "ssh",
            "host": "127.0.0.1",
            "port": self.port,
            "identity": self.folder / "user",
            "known_hosts": self.folder / "known_hosts",
        }
        return SshSettings.model_validate({**known, **more})

    def sessions(self) -> list[int]:
        """The processes that serve connections."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in path.read_text().split()]


def with_programs(root: Path) -> None:
    """Puts a shell, tar and what else is needed into a root folder, with their libraries."""
    wanted = {Path(tool(name)) for name in PROGRAMS}
    for program in sorted(wanted):
        target = root / "usr/bin" / program.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(program.resolve(), target)  # a link such as awk becomes what it means
        for word in run(["ldd", program], timeout=20).split():
            if word.startswith("/"):
                library = root / word.lstrip("/")
                library.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, library)
    (root / "bin").symlink_to("usr/bin")
    (root / "dev").mkdir()
    os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))


@contextlib.contextmanager
def node(folder: Path) -> Iterator[Node]:
    """Runs the node while the block lasts; its files may be changed below `root` at any time."""
    root = folder / "root"
    root.mkdir(parents=True)
    with_programs(root)
    port = ssh_keys.make(folder)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM yes\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nPermitRootLogin yes\n"
        f'ForceCommand chroot {root} /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            [tool("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")],
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        _reachable(port, process, folder / "sshd.log")
        yield Node(root, folder, port, process)
    finally:
        process.terminate()
        process.wait()
        _end_below(root)


def _end_below(root: Path) -> None:
    """Ends what still runs in the node, as a node that is switched off does."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and str((entry / "root").readlink()).startswith(str(root)):
                os.kill(int(entry.name), signal.SIGKILL)


def _reachable(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.02)


def wrap_tar(root: Path, script: str) -> None:
    """Puts a shell script in the place of the node's tar, which it may use as `tar.real`."""
    (root / "usr/bin/tar").rename(root / "usr/bin/tar.real")
    (root / "usr/bin/tar").write_text(f"#!/bin/sh\n{script}\n")
    (root / "usr/bin/tar").chmod(0o755)
