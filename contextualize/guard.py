"""Closes an address to every user but root, by a rule of the kernel's routing. Needs no program.

    ip rule add to ADDRESS uidrange 1-4294967294 prohibit priority 1 protocol kernel

says the same. The rule is as the kernel's own, because systemd-networkd removes those of others when it starts.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from contextualize.errors import Refused

NEW_RULE, ERROR = 32, 2
REQUEST_ACKNOWLEDGE_CREATE_EXCLUSIVE = 0x1 | 0x4 | 0x400 | 0x200
PROHIBIT, BY_KERNEL = 8, 2
DESTINATION, PRIORITY, USERS, PROTOCOL = 1, 6, 20, 21
FIRST, LAST = 1, 0xFFFF_FFFE
"""The users: all but root, and but -1, which is nobody's number."""


def only_root(address: str) -> None:
    """Has the kernel refuse (EACCES) every other user's way to the address. Refused where the kernel has no such
    rules; where it has no addresses of that family, nothing is to be closed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    rule = struct.pack("=BBBBBBBBI", family, len(packed) * 8, 0, 0, 0, 0, 0, PROHIBIT, 0)
    rule += _attribute(DESTINATION, packed) + _attribute(PRIORITY, struct.pack("=I", 1))
    rule += _attribute(USERS, struct.pack("=II", FIRST, LAST)) + _attribute(PROTOCOL, bytes([BY_KERNEL]))
    header = struct.pack("=IHHII", 16 + len(rule), NEW_RULE, REQUEST_ACKNOWLEDGE_CREATE_EXCLUSIVE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(5)
        try:
            kernel.bind((0, 0))
            kernel.send(header + rule)
            answer = kernel.recv(4096)
        except OSError as e:
            raise Refused(f"{address} can't be closed to users: {e.strerror}") from None
    kind, failed = struct.unpack_from("=4xH10xi", answer)
    if kind != ERROR or -failed not in (0, errno.EEXIST, errno.EAFNOSUPPORT):
        raise Refused(
            f"{address} can't be closed to users: {os.strerror(-failed) if kind == ERROR else 'no answer'}"
        )


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
