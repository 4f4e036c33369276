"""Small disks of other makers, in all formats, by the programs that make them in earnest."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from pathlib import Path

from kiosk.run import run

MIB = 1 << 20
ESP, LINUX = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
LAYOUT = f"label: gpt\nstart=2048, size=4096, type={ESP}, name=efi\nstart=6144, size=8192, type={LINUX}, name=root\n"
OPTIONS = {"streamOptimized": ["-o", "subformat=streamOptimized"], "fixed": ["-o", "subformat=fixed"]}


def raw_disk(path: Path, layout: str = LAYOUT, seed: int = 1) -> Path:
    """A disk of 8 MiB with partitions, and bytes of its own in the last of them."""
    with path.open("wb") as f:
        f.truncate(8 * MIB)
        f.seek(4 * MIB)
        f.write(random.Random(seed).randbytes(700_000))
    run(["sfdisk", "--quiet", path], timeout=30, input=layout.encode())
    return path


def converted(raw: Path, format: str, target: Path, kind: str = "") -> Path:
    """The same disk in another format, as qemu-img calls it."""
    options = OPTIONS.get(kind, [])
    run(["qemu-img", "convert", "-f", "raw", "-O", format, *options, raw, target], timeout=60)
    return target


def ova(target: Path, members: dict[str, bytes], *, digests: bool = True) -> Path:
    """An archive with these files, after them the digests of all."""
    lines = [f"SHA256({name})= {hashlib.sha256(data).hexdigest()}" for name, data in members.items()]
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in (members | ({"a.mf": "\n".join(lines).encode()} if digests else {})).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target
