"""The disk: a GUID partition table, written by sfdisk, and the partitions' content, copied with its holes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kiosk.model.manifest import Partition
from kiosk.run import run

SECTOR = 512
MIB = 1 << 20
CHUNK = 1 << 20
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
ROOT = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
VERITY = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"


@dataclass(frozen=True)
class Content:
    """A partition to be: its label, type and identifier, and the file with its content."""

    label: str
    type: str
    uuid: str
    file: Path


def make(target: Path, contents: Sequence[Content], *, uuid: str) -> tuple[Partition, ...]:
    """Writes the disk image and returns where its partitions are. Partitions begin at whole MiB."""
    partitions: list[Partition] = []
    at = MIB
    for content in contents:
        size = -(-content.file.stat().st_size // MIB) * MIB
        partitions.append(
            Partition(label=content.label, type=content.type, uuid=content.uuid, offset=at, size=size)
        )
        at += size
    with target.open("xb") as f:
        f.truncate(at + MIB)
    run(
        ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", target],
        timeout=60,
        input=_script(partitions, uuid),
    )
    with target.open("r+b") as disk:
        for content, partition in zip(contents, partitions, strict=True):
            copy_into(content.file, disk.fileno(), partition.offset)
    return tuple(partitions)


def _script(partitions: Sequence[Partition], uuid: str) -> bytes:
    lines = ["label: gpt", f"label-id: {uuid}", "unit: sectors", "first-lba: 2048"]
    lines += [
        f"start={p.offset // SECTOR}, size={p.size // SECTOR}, type={p.type}, uuid={p.uuid}, name={p.label}"
        for p in partitions
    ]
    return "\n".join([*lines, ""]).encode()


def copy_into(source: Path, disk: int, offset: int) -> None:
    """Copies a file into an open disk image at an offset; what is zero stays a hole."""
    zero = bytes(CHUNK)
    with source.open("rb") as f:
        at = 0
        while chunk := f.read(CHUNK):
            if chunk != zero[: len(chunk)]:
                _write_nonzero(disk, chunk, offset + at)
            at += len(chunk)


def _write_nonzero(disk: int, chunk: bytes, offset: int, block: int = 4096) -> None:
    zero, start = bytes(block), 0
    while start < len(chunk):
        if chunk[start : start + block] == zero[: len(chunk) - start]:
            start += block
            continue
        end = start + block
        while end < len(chunk) and chunk[end : end + block] != zero[: len(chunk) - end]:
            end += block
        os.pwrite(disk, chunk[start:end], offset + start)
        start = end
