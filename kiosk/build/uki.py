"""The unified kernel image: systemd's EFI stub with command line, kernel and initrd, as one bootable file."""

from __future__ import annotations

from pathlib import Path

from kiosk.errors import MissingToolError
from kiosk.run import run

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
ALIGNMENT = 1 << 16


def stub() -> Path:
    """systemd's EFI stub; MissingToolError where it is not installed."""
    if not STUB.is_file():
        raise MissingToolError("systemd's EFI stub is not installed", hint="apt-get install systemd-boot-efi")
    return STUB


def make(target: Path, *, kernel: Path, initrd: Path, cmdline: str, os_release: Path, folder: Path) -> None:
    """Writes the unified kernel image; `folder` is for its parts."""
    words = folder / "cmdline"
    words.write_text(cmdline, encoding="utf-8")
    sections = [(".osrel", os_release), (".cmdline", words), (".linux", kernel), (".initrd", initrd)]
    argv: list[str | Path] = ["objcopy", "--enable-deterministic-archives", "--preserve-dates"]
    at = _end(stub())
    for name, content in sections:
        argv += [f"--add-section={name}={content}", f"--change-section-vma={name}={at:#x}"]
        at = _aligned(at + content.stat().st_size)
    run([*argv, stub(), target], timeout=120)


def _end(path: Path) -> int:
    """The first free address above the stub's own sections, so that none overlaps."""
    ends = [0]
    for line in run(["objdump", "--section-headers", "--wide", path], timeout=60).splitlines():
        words = line.split()
        if len(words) > 4 and words[0].isdecimal():
            ends.append(int(words[2], 16) + int(words[3], 16))
    return _aligned(max(ends))


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT
