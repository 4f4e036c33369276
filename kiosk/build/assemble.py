"""From a clean tree to a bootable disk: verified root, unified kernel image, partition table. No mounts, no
device-mapper; the same tree, name, version and date give the same bytes.

Identifiers and the salt are derived from the image's name alone, so that they change no block between versions.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from kiosk.build import esp, ext4, gpt, uki
from kiosk.errors import BuildError
from kiosk.model.manifest import Partition, Verity
from kiosk.run import run
from kiosk.sanitise.tree import Tree

NAMESPACE = uuid.UUID("5a1c0de5-7e2b-5c3b-9b0e-6b696f736b31")
OS_RELEASE = ("usr/lib/os-release", "etc/os-release")
LARGEST_OS_RELEASE = 64 << 10
CMDLINE = (
    "root=/dev/mapper/root roothash={root_hash}"
    " systemd.verity_root_data=PARTLABEL=root systemd.verity_root_hash=PARTLABEL=verity"
    " rootfstype=ext4 systemd.volatile=overlay systemd.gpt_auto=0 console=ttyS0 quiet"
)


@dataclass(frozen=True)
class Boot:
    """A kernel and its initrd."""

    kernel: Path
    initrd: Path


@dataclass(frozen=True)
class Disk:
    """An assembled disk and what its manifest must say about it."""

    file: Path
    partitions: tuple[Partition, ...]
    verity: Verity
    cmdline: str


def boot_files(root: Path) -> Boot:
    """The one kernel of a tree and its initrd."""
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        names = ", ".join(k.name for k in kernels) or "none"
        raise BuildError(f"an image has one kernel, and this tree has {names}", where="/boot")
    initrd = kernels[0].with_name(kernels[0].name.replace("vmlinuz-", "initrd.img-"))
    if not initrd.is_file():
        raise BuildError("the tree has no initrd for its kernel", where=f"/boot/{initrd.name}")
    return Boot(kernels[0], initrd)


def os_release(root: Path) -> bytes:
    """The tree's os-release(5), links resolved inside the tree; BuildError where it has none."""
    with Tree(root) as tree:
        for name in OS_RELEASE:
            real = tree.resolve(name.split("/"))
            data = tree.read(real, LARGEST_OS_RELEASE) if real else None
            if data is not None:
                return data
    raise BuildError("the tree has no /usr/lib/os-release: is this a root file system?")


def assemble(
    root: Path, boot: Boot, target: Path, *, name: str, date: int, size: int | None, folder: Path
) -> Disk:
    """Writes the disk to `target`; `folder` is private and holds the partitions until they are copied."""
    ids = {
        part: str(uuid.uuid5(NAMESPACE, f"{name}/{part}")) for part in ("disk", "esp", "root", "verity", "fs")
    }
    data = folder / "root.img"
    ext4.make(root, data, uuid=ids["fs"], label="root", date=date, size=size)
    hashes = folder / "verity.img"
    salt = hashlib.sha256(f"kiosk/{name}".encode()).hexdigest()
    root_hash = _verity(data, hashes, salt=salt, uuid=ids["verity"])
    cmdline = CMDLINE.format(root_hash=root_hash)
    image = folder / "uki.efi"
    release = folder / "os-release"
    release.write_bytes(os_release(root))
    uki.make(
        image, kernel=boot.kernel, initrd=boot.initrd, cmdline=cmdline, os_release=release, folder=folder
    )
    system = folder / "esp.img"
    esp.make(system, image, serial=ids["esp"][:8], date=date)
    contents = (
        gpt.Content("esp", gpt.ESP, ids["esp"], system),
        gpt.Content("root", gpt.ROOT, ids["root"], data),
        gpt.Content("verity", gpt.VERITY, ids["verity"], hashes),
    )
    partitions = gpt.make(target, contents, uuid=ids["disk"])
    for part in (data, hashes, system, image):
        part.unlink()
    return Disk(
        target, partitions, Verity(root_hash=root_hash, salt=salt, data="root", hash="verity"), cmdline
    )


def _verity(data: Path, hashes: Path, *, salt: str, uuid: str) -> str:
    argv: list[str | Path] = ["veritysetup", "format", f"--salt={salt}", f"--uuid={uuid}", "--hash=sha256"]
    argv += ["--data-block-size=4096", "--hash-block-size=4096", "--format=1", data, hashes]
    printed = run(argv, timeout=1800)
    found = re.search(r"^Root hash:\s*([0-9a-f]{64})$", printed, re.MULTILINE)
    if found is None:
        raise BuildError("veritysetup printed no root hash", where=str(data))
    return found[1]
