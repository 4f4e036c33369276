"""What stands in a part of a disk, or in a file that is no disk, by the marks that each kind leaves at its place.

Only marks are looked at: a kind says who would read it, not that it is sound.
"""

from __future__ import annotations

import os
import struct
import uuid
from dataclasses import dataclass

EXT = ("ext2", "ext3", "ext4")
ENCRYPTED = {"luks": "LUKS", "bitlocker": "BitLocker"}
_SIGNATURES = (
    ("luks", 0, b"LUKS\xba\xbe"),
    ("bitlocker", 3, b"-FVE-FS-"),
    ("lvm", 536, b"LVM2 001"),
    ("lvm", 24, b"LVM2 001"),
    ("lvm", 1048, b"LVM2 001"),
    ("lvm", 1560, b"LVM2 001"),
    ("raid", 4096, b"\xfc\x4e\x2b\xa9"),
    ("raid", 0, b"\xfc\x4e\x2b\xa9"),
    ("xfs", 0, b"XFSB"),
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("ntfs", 3, b"NTFS    "),
    ("squashfs", 0, b"hsqs"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("verity", 0, b"verity\0\0"),
    ("swap", 4086, b"SWAPSPACE2"),
    ("vfat", 82, b"FAT32   "),
    ("vfat", 54, b"FAT16   "),
    ("vfat", 54, b"FAT12   "),
    ("iso9660", 32769, b"CD001"),
)
_CONTAINERS = (
    ("a qcow2 image", 0, b"QFI\xfb"),
    ("a VMDK image", 0, b"KDMV"),
    ("a VMDK image", 0, b"COWD"),
    ("a VMDK descriptor", 0, b"# Disk DescriptorFile"),
    ("a VHD image", 0, b"conectix"),
    ("a VHDX image", 0, b"vhdxfile"),
    ("a VDI image", 64, b"\x7f\x10\xda\xbe"),
)
_OTHERS = (("an ISO image", 32769, b"CD001"),)
_PACKED = (
    ("a gzip file", 0, b"\x1f\x8b"),
    ("an xz file", 0, b"\xfd7zXZ\0"),
    ("a zstd file", 0, b"\x28\xb5\x2f\xfd"),
    ("a bzip2 file", 0, b"BZh"),
    ("a zip file", 0, b"PK\3\4"),
    ("a tar archive (an OVA is one)", 257, b"ustar"),
)
_HEAD = 0x10000 + 4096


@dataclass(frozen=True)
class Content:
    """`kind` is a name of the table above, ext2, ext3 or ext4, `empty`, or `unknown`."""

    kind: str
    uuid: str = ""
    label: str = ""


def identify(fd: int, offset: int, size: int) -> Content:
    """What the part of `size` bytes at `offset` holds."""
    head = os.pread(fd, min(_HEAD, size), offset)
    if (at := head[1080:1082]) and at == b"\x53\xef":
        return Content(_ext(head[1024:2048]), *_named(head, 1024 + 104, 1024 + 120, 16))
    for kind, place, mark in _SIGNATURES:
        if head.startswith(mark, place):
            if kind == "xfs":
                return Content(kind, *_named(head, 32, 108, 12))
            if kind == "btrfs":
                return Content(kind, *_named(head, 0x10020, 0x1012B, 256))
            return Content(kind)
    return Content("unknown" if any(head) else "empty")


def container(fd: int, size: int) -> tuple[str, str] | None:
    """What a file is that is no raw disk: its name, and what to do about it."""
    head = os.pread(fd, _HEAD, 0)
    convert = "Convert it with `qemu-img convert -O raw FILE disk.raw`, or import it with `kiosk import`."
    advice = {
        convert: _CONTAINERS,
        "Unpack it first, or import it with `kiosk import`.": _PACKED,
        "Give the disk of an installed system.": _OTHERS,
    }
    for hint, table in advice.items():
        for name, place, mark in table:
            if head.startswith(mark, place):
                return name, hint
    if size >= 512 and os.pread(fd, 8, size - 512) == b"conectix":
        return "a VHD image", convert
    return None


def _ext(superblock: bytes) -> str:
    compat, incompat, ro_compat = struct.unpack_from("<III", superblock, 92)
    if incompat & ~0x17 or ro_compat & ~0x7:  # what ext3 knows: file types, recovery, a journal, META_BG
        return "ext4"
    return "ext3" if compat & 0x4 else "ext2"


def _named(head: bytes, own: int, label: int, length: int) -> tuple[str, str]:
    if len(head) < own + 16:
        return "", ""
    text = head[label : label + length].split(b"\0")[0]
    return str(uuid.UUID(bytes=head[own : own + 16])), text.decode(errors="replace")
