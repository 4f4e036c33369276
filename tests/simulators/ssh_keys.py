"""Keys and an address for an sshd of a test's own on loopback."""

from __future__ import annotations

import socket
from pathlib import Path

from kiosk.run import run


def make(folder: Path) -> int:
    """Makes `host`, `user` and `known_hosts` in a folder, for a server at the free port that is returned."""
    for name in ("host", "user"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], timeout=20)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    public = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n")
    return port
