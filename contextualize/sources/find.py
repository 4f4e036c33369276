"""Chooses the source: the one that the kernel's command line names, or the one that is there."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Dict, Optional

from contextualize.context import LIMIT
from contextualize.errors import Refused
from contextualize.machine import Machine
from contextualize.sources import Told, disks

SOURCES = ("nocloud", "configdrive", "opennebula", "ec2", "cmdline")
PATIENCE = 60.0
"""Seconds to wait for a disk."""
WORD, DOCUMENT = "kiosk.context", "kiosk.context_base64"
VENDOR = "/sys/class/dmi/id/sys_vendor"


def find(machine: Machine) -> Told:
    """What the one source of this machine says; Refused when there is none, or more than one."""
    words = _words(machine)
    fixed = words.get(WORD)
    if fixed is not None and fixed not in SOURCES:
        raise Refused(f"{WORD}={fixed:.40} on the kernel's command line is none of {', '.join(SOURCES)}")
    if fixed == "cmdline" or DOCUMENT in words:
        told = _cmdline(words, fixed)
    elif fixed == "ec2":
        told = _ec2()
    else:
        told = _disk(machine, fixed) or _ec2()
    return told._replace(document=unpacked(told.document))


def _words(machine: Machine) -> Dict[str, str]:
    """The kernel's words that are for us. One that stands there twice names nothing."""
    text = machine.read("/proc/cmdline", 64 * 1024).decode(errors="replace")
    found: Dict[str, str] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name in (WORD, DOCUMENT):
            if name in found:
                raise Refused(f"{name}= is twice on the kernel's command line")
            found[name] = value
    return found


def _cmdline(words: Dict[str, str], fixed: Optional[str]) -> Told:
    if fixed not in (None, "cmdline"):
        raise Refused(f"the kernel's command line says {WORD}={fixed}, and has a {DOCUMENT}= itself")
    if DOCUMENT not in words:
        raise Refused(f"the kernel's command line says {WORD}=cmdline, and has no {DOCUMENT}=")
    try:
        return Told(base64.b64decode(words[DOCUMENT], validate=True), "cmdline")
    except (binascii.Error, ValueError):
        raise Refused(f"{DOCUMENT}= on the kernel's command line is not base64 (was it cut off?)") from None


def _disk(machine: Machine, fixed: Optional[str]) -> Optional[Told]:
    """What the one context disk says; None where there is none and the firmware says that this is EC2."""
    labels = [label for label, kind in disks.LABELS.items() if fixed in (None, kind)]
    links = [f"/dev/disk/by-label/{label}" for label in labels]
    if fixed is None and _is_ec2(machine) and not any(machine.exists(link) for link in links):
        return None
    link = machine.appears(links, PATIENCE)
    there = [(device, label) for device, label in machine.file_systems() if label in labels]
    if len(there) > 1:
        shown = ", ".join(f"{device} ({label})" for device, label in sorted(there))
        raise Refused(f"more than one disk looks like a source of context: {shown}")
    return disks.read(machine, link)


def _is_ec2(machine: Machine) -> bool:
    return machine.exists(VENDOR) and machine.read(VENDOR, 4096).strip() == b"Amazon EC2"


def _ec2() -> Told:
    from contextualize.sources import ec2

    return ec2.read()


def unpacked(data: bytes) -> bytes:
    """The same document where it is packed with gzip; at most one byte more than a document may have."""
    if data[:2] != b"\x1f\x8b":
        return data
    unpacker = zlib.decompressobj(wbits=31)
    try:
        found = unpacker.decompress(data, LIMIT + 1)
    except zlib.error as e:
        raise Refused(f"context: not valid gzip: {e}") from None
    if len(found) <= LIMIT and (not unpacker.eof or unpacker.unused_data):
        raise Refused("context: gzip that is cut off, or has something behind it")
    return found
