"""Kerberos keytabs and caches, core dumps, and journals: binary formats that their first bytes tell."""

from __future__ import annotations

from collections.abc import Iterator

from kiosk.audit.model import Hit
from kiosk.audit.sample import Sample

_DUMPS = ((b"KDUMP   ", "a kernel's dump"), (b"makedumpfile", "a kernel's dump"))


def binaries(sample: Sample) -> Iterator[Hit]:
    """What the beginning of a file says."""
    data = sample.data
    if not sample.head or len(data) < 16:
        return
    if data[0] == 5 and data[1] in (1, 2) and _keytab(data):
        yield sample.hit("kerberos-keytab", "a Kerberos keytab")
    elif data[0] == 5 and data[1] in (3, 4) and _ccache(data):
        yield sample.hit("kerberos-cache", "a Kerberos credential cache")
    elif data.startswith(b"\x7fELF"):
        order = "big" if data[5] == 2 else "little"
        if int.from_bytes(data[16:18], order) == 4:  # type: ignore[arg-type]
            yield sample.hit("core-dump", "a core dump of a program")
    elif data.startswith(b"LPKSHHRH"):
        yield sample.hit("log", "a systemd journal")
    elif data.startswith(b"ProblemType: "):
        yield sample.hit("core-dump", "a crash report")
    for magic, what in _DUMPS:
        if data.startswith(magic):
            yield sample.hit("core-dump", what)


def _keytab(data: bytes) -> bool:
    """Whether the first entry makes sense: its size, the number of the principal's parts, the realm's length."""
    order = "big" if data[1] == 2 else "little"
    at = 2
    for _ in range(1000):
        size = int.from_bytes(data[at : at + 4], order, signed=True)  # type: ignore[arg-type]
        at += 4
        if size >= 0:
            break
        at -= size  # a hole where an entry was removed
    parts = int.from_bytes(data[at : at + 2], order)  # type: ignore[arg-type]
    realm = int.from_bytes(data[at + 2 : at + 4], order)  # type: ignore[arg-type]
    return 16 <= size <= 65536 and 1 <= parts <= 16 and 1 <= realm <= 512 and at + 4 + realm <= len(data)


def _ccache(data: bytes) -> bool:
    """Whether a principal follows the head."""
    at = 2
    if data[1] == 4:
        at += 2 + int.from_bytes(data[2:4], "big")
    parts = int.from_bytes(data[at + 4 : at + 8], "big")
    realm = int.from_bytes(data[at + 8 : at + 12], "big")
    return at <= 1024 and 1 <= parts <= 16 and 1 <= realm <= 512 and at + 12 + realm <= len(data)
