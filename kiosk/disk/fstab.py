"""Which file systems belong to a machine's tree: its /etc/fstab, as far as it speaks of the system's own folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SIZE = 1 << 20
_SYSTEM = {"boot", "etc", "home", "opt", "root", "srv", "usr", "var"}
_READ = {"ext2", "ext3", "ext4", "xfs", "btrfs", "auto"}
_OCTAL = re.compile(rb"\\([0-7]{3})")
_BY = {"by-uuid": "UUID", "by-label": "LABEL", "by-partuuid": "PARTUUID", "by-partlabel": "PARTLABEL"}
_DEVICE = re.compile(r"^(/dev/(?:[shv]d[a-z]+|xvd[a-z]+|(?:nvme\d+n|mmcblk)\d+p))(\d+)$")


@dataclass(frozen=True)
class Entry:
    """A line: what is mounted (as written), where, of what kind, with which options."""

    source: str
    folder: bytes
    kind: str
    options: tuple[str, ...]

    @property
    def may_be_missing(self) -> bool:
        return bool({"nofail", "noauto"} & set(self.options))

    @property
    def subvolume(self) -> str | None:
        return next((o.partition("=")[2].lstrip("/") for o in self.options if o.startswith("subvol=")), None)

    @property
    def device(self) -> tuple[str, int] | None:
        """(disk, number of the partition) of a source like /dev/vda2."""
        found = _DEVICE.match(self.source)
        return (found[1], int(found[2])) if found else None


def entries(text: bytes) -> Iterator[Entry]:
    """The root's line and those of folders that belong to the system; none of networks, memory, or scratch."""
    for line in text.splitlines():
        words = line.split()
        if len(words) < 3 or words[0].startswith(b"#"):
            continue
        folder = b"/" + _OCTAL.sub(lambda m: bytes([int(m[1], 8) & 255]), words[1]).strip(b"/")
        top = folder.split(b"/")[1].decode(errors="replace")
        kind = words[2].decode(errors="replace")
        if kind in _READ and words[1].startswith(b"/") and (not top or top in _SYSTEM):
            options = words[3].decode(errors="replace").split(",") if len(words) > 3 else []
            source = _tagged(words[0].decode(errors="replace").replace('"', ""))
            yield Entry(source, folder, kind, tuple(options))


def _tagged(source: str) -> str:
    """udev's links in /dev/disk (udev(7)) as the tags that they stand for."""
    for folder, tag in _BY.items():
        if source.startswith(f"/dev/disk/{folder}/"):
            return f"{tag}={source.rpartition('/')[2]}"
    return source
