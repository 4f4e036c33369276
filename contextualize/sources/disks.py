"""Context disks: mounted read-only where only root can look, and read by plain names without any link.

A disk stays mounted until `verify` has read the signed metadata in its folder `kiosk`. While the machine lives it is
looked at again, for a drain that somebody asks for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import stat
from pathlib import Path
from typing import Dict, Optional

from contextualize.context import LIMIT, Instance
from contextualize.document import read as read_document
from contextualize.errors import Refused
from contextualize.machine import PRIVATE, Machine
from contextualize.sources import Told
from contextualize.sources.variables import variables

LABELS = {
    "CIDATA": "nocloud",
    "cidata": "nocloud",
    "config-2": "configdrive",
    "CONFIG-2": "configdrive",
    "CONTEXT": "opennebula",
}
MOUNT, AGAIN = f"{PRIVATE}/context", f"{PRIVATE}/again"
META = "openstack/latest/meta_data.json"
SCRIPT_LIMIT = 128 * 1024
PLAIN, PACKED, DRAIN = "KIOSK_CONTEXT", "KIOSK_CONTEXT_BASE64", "KIOSK_DRAIN"
DRAIN_FILE = "kiosk/drain"
UNKNOWN = ("START_SCRIPT", "START_SCRIPT_BASE64", "INIT_SCRIPTS", "USER_DATA", "USERDATA")
"""What OpenNebula's own agent would run, and kiosk's does not."""


def read(machine: Machine, link: str) -> Told:
    """What the disk says whose label made this link."""
    _mount(machine, link, MOUNT)
    kind = LABELS[link.rpartition("/")[2]]
    source = f"{kind}:{link}"
    if kind == "opennebula":
        return _opennebula(machine, source)
    name = "user-data" if kind == "nocloud" else "openstack/latest/user_data"
    instance = _openstack(machine) if kind == "configdrive" else None
    return Told(machine.inside(MOUNT, name, LIMIT), source, _bundle(machine), instance=instance)


def drain(machine: Machine, link: str) -> Optional[str]:
    """What the disk says now of a drain: its file kiosk/drain, or OpenNebula's variable KIOSK_DRAIN; None where it
    has nothing to say."""
    _mount(machine, link, AGAIN)
    try:
        if machine.exists(f"{AGAIN}/{DRAIN_FILE}"):
            return machine.inside(AGAIN, DRAIN_FILE, 64 * 1024).decode(errors="replace")
        if LABELS[link.rpartition("/")[2]] == "opennebula":
            return _variables(machine, AGAIN).get(DRAIN) or None
        return None
    finally:
        machine.unmount(AGAIN)


def _mount(machine: Machine, link: str, where: str) -> None:
    machine.folder(where, 0o700)
    machine.mount(link, where, "vfat,iso9660", "ro,nosuid,nodev,noexec")


def _variables(machine: Machine, where: str) -> Dict[str, str]:
    return variables(_script_of_variables(machine, where), "context.sh")


def _script_of_variables(machine: Machine, where: str) -> bytes:
    return machine.inside(where, "context.sh", 4 * LIMIT)


def release(machine: Machine) -> None:
    """Takes the disk away, where there is one."""
    if machine.exists(MOUNT):
        machine.unmount(MOUNT)


def _bundle(machine: Machine) -> Optional[Path]:
    folder = f"{MOUNT}/kiosk"
    return machine.path(folder) if stat.S_ISDIR(machine.mode(folder)) else None


def _openstack(machine: Machine) -> Optional[Instance]:
    """What the cloud knows of the machine; None where it does not say."""
    try:
        f = read_document(machine.inside(MOUNT, META, LIMIT), META)
        name = f.text("hostname", ".{1,300}") if f.has("hostname") else None
        return Instance("configdrive", f.text("uuid", ".{1,300}"), name)
    except Refused:
        return None


def _opennebula(machine: Machine, source: str) -> Told:
    data = _script_of_variables(machine, MOUNT)
    found = variables(data, "context.sh")
    for name in UNKNOWN:
        if found.get(name):
            raise Refused(f"context.sh: {name} is not done here: put it into the context document's hooks")
    document = _document(found)
    scripts = {
        name: text for name in ("prolog", "epilog", "init") if (text := _script(machine, name)) is not None
    }
    if "epilog" in scripts and "init" in scripts:
        raise Refused("the context disk has epilog.sh and init.sh, which are two names of one thing")
    others = {name: value for name, value in found.items() if name not in (PLAIN, PACKED)}
    beside = {f"{name}.sh": text.encode() for name, text in scripts.items()}
    if others:
        beside["context.sh"] = data
    return Told(
        document,
        source,
        _bundle(machine),
        scripts.get("prolog"),
        scripts.get("epilog", scripts.get("init")),
        others,
        {name: f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in beside.items()},
        Instance("opennebula", found["VMID"], found.get("SET_HOSTNAME")) if found.get("VMID") else None,
    )


def _document(found: Dict[str, str]) -> bytes:
    if (PLAIN in found) == (PACKED in found):
        raise Refused(f"context.sh: must have one of {PLAIN} and {PACKED}")
    if PLAIN in found:
        return found[PLAIN].encode()
    try:
        return base64.b64decode("".join(found[PACKED].split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"context.sh: {PACKED} is not base64") from None


def _script(machine: Machine, name: str) -> Optional[str]:
    if not machine.exists(f"{MOUNT}/{name}.sh"):
        return None
    try:
        text = machine.inside(MOUNT, f"{name}.sh", SCRIPT_LIMIT).decode()
    except UnicodeDecodeError:
        raise Refused(f"{name}.sh: not UTF-8") from None
    if "\0" in text:
        raise Refused(f"{name}.sh: has a zero byte")
    return text
