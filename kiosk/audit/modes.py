"""What modes say: setuid files, capabilities, device nodes, and what everyone may write."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator

from kiosk.audit.model import Hit
from kiosk.audit.owners import Owners
from kiosk.disk.volume import Node

CAPABILITIES = "security.capability"
_NEVER = re.compile(
    rb"(?:ba|da|z|k|mk|c|tc|fi|a)?sh|busybox|toybox|python[\d.]*|perl[\d.]*|ruby[\d.]*|lua[\d.]*|php[\d.]*|node|tclsh.*"
    rb"|vim?(?:\..*)?|view|nano|ed|emacs.*|find|cp|mv|dd|cat|tee|tar|cpio|gawk|mawk|awk|sed|less|more|env|nice|chmod"
    rb"|chown|install|ln|gdb|strace|rsync|ssh|scp|openssl|systemctl|docker|nsenter|unshare|chroot|xargs|make|git|socat"
    rb"|ncat|nc(?:\..*)?"
)
"""Programs that run others or write any file: no package brings them setuid."""
_DEVICES = {
    b"null": (1, 3), b"zero": (1, 5), b"full": (1, 7), b"random": (1, 8), b"urandom": (1, 9), b"kmsg": (1, 11),
    b"tty": (5, 0), b"console": (5, 1), b"ptmx": (5, 2),
}  # fmt: skip


def modes(node: Node, owned: Owners) -> Iterator[Hit]:
    """What one node's mode and attributes say."""
    mode, path = node.mode, node.path
    if stat.S_ISREG(mode):
        yield from _bits(node, owned)
        if CAPABILITIES in node.xattrs and path not in owned.files:
            yield Hit("capability-file", path, "has capabilities, and no package owns it")
        if mode & stat.S_IWOTH:
            yield Hit("world-writable", path, f"everyone may write it (mode {stat.S_IMODE(mode):04o})")
    elif stat.S_ISDIR(mode):
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield Hit("world-writable", path, f"a folder that all may write (mode {stat.S_IMODE(mode):04o})")
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        folder, _, name = path.rpartition(b"/")
        usual = folder == b"/dev" and stat.S_ISCHR(mode) and _DEVICES.get(name) == node.device
        whiteout = node.device == (0, 0) and stat.S_ISCHR(mode)
        if not usual and not whiteout:
            number = "{}:{}".format(*(node.device or ("?", "?")))
            yield Hit("device-node", path, f"the device {number}")


def _bits(node: Node, owned: Owners) -> Iterator[Hit]:
    bits = node.mode & (stat.S_ISUID | stat.S_ISGID)
    if not bits or not node.mode & 0o111:
        return
    what = "setuid" if bits & stat.S_ISUID else "setgid"
    expected = owned.files.get(node.path)
    whose = f"{what} {node.uid if bits & stat.S_ISUID else node.gid}"
    if expected is None:
        yield Hit("setuid-file", node.path, f"{whose}, and no package owns it")
    elif expected.mode is not None and bits & ~expected.mode:
        yield Hit("setuid-file", node.path, f"{whose}, and its package {expected.package} brings it without")
    elif _NEVER.fullmatch(node.path.rpartition(b"/")[2]):
        yield Hit("setuid-file", node.path, f"{whose}, and with it everyone is that user")
