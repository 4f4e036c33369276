"""A tree with every kind of file, and how two volumes are compared."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kiosk.disk.volume import Volume

DATE = 1_700_000_000
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in [(1, 6, -1 & 0xFFFFFFFF), (2, 4, 70000), (4, 4, -1 & 0xFFFFFFFF), (0x10, 4, -1 & 0xFFFFFFFF),
                  (0x20, 0, -1 & 0xFFFFFFFF)]
)  # fmt: skip


def plant(root: Path, *, many: int = 300) -> Path:
    """Makes a tree that looks like a root file system and has one of everything."""
    chance = random.Random(1)
    for folder in ("etc", "usr/lib", "usr/bin", "dev", "many", "empty", "run", f"{'n' * 255}/deep"):
        (root / folder).mkdir(parents=True)
    root.chmod(0o755)
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    (root / "usr/lib/os-release").write_text("ID=debian\n")
    (root / "etc/fstab").write_text("# nothing\n")
    (root / "usr/lib/large").write_bytes(chance.randbytes(3 << 20))
    (root / "usr/lib/none").write_bytes(b"")
    (root / "usr/lib/short").write_bytes(b"s" * 100)
    (root / os.fsdecode(b"usr/lib/\xffodd\nname")).write_bytes(b"odd")
    (root / f"{'n' * 255}/deep/{'m' * 255}").write_bytes(b"long name")
    with (root / "usr/lib/sparse").open("wb") as f:
        f.truncate(40 << 20)
        for at in (0, 5 << 20, 17 << 20):
            f.seek(at)
            f.write(b"data" * 1500)
    (root / "usr/bin/ping").write_bytes(b"program")
    os.setxattr(root / "usr/bin/ping", "security.capability", CAPABILITY)
    (root / "usr/bin/su").write_bytes(b"program")
    (root / "usr/bin/su").chmod(0o4755)
    (root / "usr/bin/second").hardlink_to(root / "usr/bin/su")
    (root / "etc/second").hardlink_to(root / "usr/bin/su")
    os.setxattr(root / "etc/fstab", "system.posix_acl_access", ACL)
    os.setxattr(root / "usr", "system.posix_acl_default", ACL)
    os.setxattr(root / "usr/lib/large", "user.long", chance.randbytes(700))
    os.setxattr(root / "usr/lib/large", "user.empty", b"")
    os.setxattr(root / "usr/lib/large", "trusted.note", b"note")
    for i, length in enumerate((1, 59, 60, 61, 400, 1000)):
        (root / f"etc/link{i}").symlink_to("t" * length)
    os.chown(root / "etc/link1", 70000, 70001, follow_symlinks=False)
    os.chown(root / "usr/lib/short", 0xFFFE, 3_000_000_000)
    os.mkfifo(root / "run/fifo", 0o640)
    os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "dev/large", stat.S_IFBLK | 0o600, os.makedev(259, 200_000))
    for i in range(many):
        (root / f"many/{chance.randrange(1 << 64):016x}{'x' * (i % 40)}").write_bytes(b"%d" % i)
    for folder, names, others in os.walk(root, topdown=False):
        for name in [*names, *others, "."]:
            path = Path(folder) / name
            os.utime(path, (DATE, DATE + chance.randrange(10**8)), follow_symlinks=False)
    os.utime(root / "etc/fstab", (0, -5))
    return root


def plant_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))


def listing(volume: Volume) -> dict[bytes, tuple[object, ...]]:
    """What a volume says of each path (but for lost+found and the root's time), to be compared with another."""
    found: dict[bytes, tuple[object, ...]] = {}
    names: dict[int, bytes] = {}
    for node in volume.nodes():
        if node.path == b"/lost+found":
            continue
        digest = None
        if stat.S_ISREG(node.mode):
            content = hashlib.sha256()
            for piece in volume.read(node):
                content.update(piece)
            digest = content.hexdigest()
        folder = stat.S_ISDIR(node.mode)
        found[node.path] = (
            node.mode,
            node.uid,
            node.gid,
            None if folder else node.size,
            node.mtime if node.path != b"/" else None,
            names.setdefault(node.inode, node.path),
            None if folder else node.links,
            node.target,
            node.device,
            dict(node.xattrs),
            digest,
        )
    return found


def mkfs(tree: Path, image: Path, *options: str, kind: str = "ext4", size: str = "96M") -> Path:
    subprocess.run([f"mkfs.{kind}", "-q", "-F", *options, "-d", tree, image, size], check=True)
    return image


@contextlib.contextmanager
def mounted(image: Path, folder: Path, options: str = "loop") -> Iterator[Path]:
    """The image as the kernel shows it."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", options, image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
