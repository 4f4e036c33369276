"""What a file is, by its first and last bytes, and what in its header must not be there. Nothing is run for this.

A format is looked for here and then stated to qemu-img, which never guesses. A disk image may name other files that
belong to it (backing files, external data files, extents, parents): whoever opens it opens those, too, be it
/etc/shadow. So images that name others are refused before any program sees them.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Literal, get_args

from kiosk.errors import CorruptError, PolicyError, UsageError

Format = Literal["raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx", "ova"]
FORMATS: tuple[Format, ...] = get_args(Format)
Compression = Literal["gzip", "bzip2"]
DRIVERS: dict[str, str] = {f: f for f in FORMATS if f != "ova"} | {"vhd": "vpc"}
"""The formats as qemu-img names them."""
HINT_ALONE = (
    "Only an image that is one file is imported. Make one where it is trusted: qemu-img convert -O qcow2 ..."
)

_COMPRESSIONS: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"BZh": "bzip2"}
_HEAD = 128 << 10
_SECTOR = 512
_VDI_MAGIC = 0xBEDA107F
_CORRUPT, _EXTERNAL_DATA = 1 << 1, 1 << 2
_DIFFERENCING = 4


def compression(path: Path) -> Compression | None:
    """How a file is compressed, by its first bytes."""
    with path.open("rb") as f:
        head = f.read(8)
    return next((name for magic, name in _COMPRESSIONS.items() if head.startswith(magic)), None)


def detect(path: Path, shown: str, stated: Format | None = None) -> Format:
    """The format of a file, which is called `shown` in errors. What is no disk image that kiosk knows is a
    UsageError, as is a format that was stated wrongly; an encrypted image is a PolicyError."""
    with path.open("rb") as f:
        head = f.read(_HEAD)
        size = os.fstat(f.fileno()).st_size
        tail = os.pread(f.fileno(), _SECTOR, max(0, size - _SECTOR))
    where = shown
    if head.startswith(b"LUKS\xba\xbe"):
        raise PolicyError(
            "is encrypted (LUKS)", where=where, hint="Import it decrypted: kiosk keeps no secrets."
        )
    found = _by_magic(head, tail, where)
    if found is not None and stated not in (None, found) and not (stated == "raw" and found == "vhd"):
        raise UsageError(
            f"is {found}, not {stated}", where=where, hint="Leave out --format, or state that one."
        )
    if stated is not None and found is None and stated != "raw":
        raise UsageError(f"is not {stated}", where=where)
    if found is None and stated is None and head[510:512] != b"\x55\xaa":
        raise UsageError(
            "is not a disk image that kiosk knows",
            where=where,
            hint=f"Formats: {', '.join(FORMATS)}. A raw disk without a boot sector needs --format raw.",
        )
    return stated or found or "raw"


def _by_magic(head: bytes, tail: bytes, where: str) -> Format | None:
    if head.startswith(b"QFI\xfb"):
        return "qcow2"
    if head.startswith(b"KDMV"):
        return "vmdk"
    if head.startswith((b"COWD", b"# Disk DescriptorFile")):
        raise PolicyError("is a VMDK that names other files", where=where, hint=HINT_ALONE)
    if head[0x40:0x44] == _VDI_MAGIC.to_bytes(4, "little"):
        return "vdi"
    if head.startswith(b"vhdxfile"):
        return "vhdx"
    if head[257:262] == b"ustar":
        return "ova"
    if head.startswith(b"conectix") or tail.startswith(b"conectix"):
        return "vhd"
    return None


def refuse_references(path: Path, shown: str, format: Format) -> None:
    """PolicyError when an image names other files or is encrypted, CorruptError when its header is damaged."""
    with path.open("rb") as f:
        head = f.read(_HEAD)
        size = os.fstat(f.fileno()).st_size
        tail = os.pread(f.fileno(), _SECTOR, max(0, size - _SECTOR))
    try:
        if format == "qcow2":
            _qcow2(head)
        elif format == "vmdk":
            _vmdk(head)
        elif format == "vdi":
            _vdi(head, size)
        elif format == "vhd":
            _vhd(tail)
    except struct.error:
        raise CorruptError("is shorter than its header", where=shown, hint=TRUNCATED) from None
    except PolicyError as e:
        raise PolicyError(e.what, where=shown, hint=e.hint) from None
    except CorruptError as e:
        raise CorruptError(e.what, where=shown, hint=TRUNCATED) from None


TRUNCATED = "The file is damaged or was not copied to its end; get it again."


def _qcow2(head: bytes) -> None:
    version, backing, _, _, _, crypt = struct.unpack_from(">IQIIQI", head, 4)
    if version not in (2, 3):
        raise CorruptError(f"is a qcow2 of version {version}, which is not known")
    if backing:
        raise PolicyError("names a backing file", hint=HINT_ALONE)
    if crypt:
        raise PolicyError("is encrypted", hint="Import it decrypted: kiosk keeps no secrets.")
    features = struct.unpack_from(">Q", head, 72)[0] if version == 3 else 0
    if features & _EXTERNAL_DATA:
        raise PolicyError("names an external data file", hint=HINT_ALONE)
    if features & _CORRUPT:
        raise CorruptError("is marked as corrupt")


def _vmdk(head: bytes) -> None:
    (capacity,) = struct.unpack_from("<Q", head, 12)
    at, length = struct.unpack_from("<QQ", head, 28)
    if not capacity:
        raise PolicyError("is a VMDK that is only a description of other files", hint=HINT_ALONE)
    if (at + length) * _SECTOR > len(head):
        raise CorruptError("has its description in a place where none is read")
    if b"parentFileNameHint" in head:
        raise PolicyError("names a parent", hint=HINT_ALONE)


def _vdi(head: bytes, size: int) -> None:
    (kind,) = struct.unpack_from("<I", head, 0x4C)
    (data,) = struct.unpack_from("<I", head, 0x158)
    block, _, _, allocated = struct.unpack_from("<4I", head, 0x178)
    if kind not in (1, 2):
        raise PolicyError("is a VDI that needs another (differencing)", hint=HINT_ALONE)
    if data + allocated * block > size:
        raise CorruptError(f"has {size} bytes, its header says {data + allocated * block}")


def _vhd(tail: bytes) -> None:
    if not tail.startswith(b"conectix"):
        raise CorruptError("has no footer")
    if struct.unpack_from(">I", tail, 60)[0] == _DIFFERENCING:
        raise PolicyError("is a VHD that needs another (differencing)", hint=HINT_ALONE)
