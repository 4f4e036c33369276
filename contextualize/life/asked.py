"""Whether the source of the context asks for a drain now. Only root could have written there, or the cloud itself.

    nocloud, configdrive    the file kiosk/drain on the context disk; its first line is the reason
    opennebula              the same file, or KIOSK_DRAIN="REASON" in context.sh
    ec2                     /latest/meta-data/tags/instance/kiosk-drain, /latest/meta-data/kiosk-drain (the reason),
                            or /latest/meta-data/spot/instance-action: the cloud takes the machine back
    cmdline                 can't change

A source that can't be looked at is Refused, and asks for nothing.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Optional

from contextualize.errors import Refused
from contextualize.machine import PRIVATE, Machine

if TYPE_CHECKING:
    from http.client import HTTPConnection

MOUNT = f"{PRIVATE}/again"
FILE = "kiosk/drain"
VARIABLE = re.compile(r"^(?:export )?KIOSK_DRAIN=(['\"]?)([^'\"\n]{1,500})\1$", re.MULTILINE)
LIMIT = 64 * 1024
TIMEOUT = 5.0
TAGS = ("/latest/meta-data/tags/instance/kiosk-drain", "/latest/meta-data/kiosk-drain")
SPOT = "/latest/meta-data/spot/instance-action"


def asked(machine: Machine, source: str) -> Optional[str]:
    """The reason for which a drain is asked for, or None."""
    kind, _, where = source.partition(":")
    if kind == "ec2":
        return _metadata(where)
    if kind in ("nocloud", "configdrive", "opennebula"):
        return _disk(machine, kind, where)
    return None


def _disk(machine: Machine, kind: str, device: str) -> Optional[str]:
    """Reads the context disk again, mounted where only root can look."""
    machine.folder(MOUNT, 0o700)
    machine.mount(device, MOUNT, "vfat,iso9660", "ro,nosuid,nodev,noexec")
    try:
        if machine.exists(f"{MOUNT}/{FILE}"):
            return _reason(machine.inside(MOUNT, FILE, LIMIT))
        if kind == "opennebula":
            found = VARIABLE.search(machine.inside(MOUNT, "context.sh", 1 << 20).decode(errors="replace"))
            return _reason(found.group(2).encode()) if found else None
    finally:
        machine.unmount(MOUNT)
    return None


def _reason(data: bytes) -> str:
    """The first line, as a reason."""
    words = data.decode(errors="replace").strip().splitlines()
    return f"the context asks for it: {words[0].strip() if words else 'no reason given'}"


def _metadata(url: str) -> Optional[str]:
    """Asks EC2's metadata service (its second version, which wants a token first)."""
    from http.client import HTTPConnection, HTTPException

    place = re.fullmatch(r"http://([0-9A-Za-z.-]{1,100})(?::([0-9]{1,5}))?/?", url)
    if place is None:
        raise Refused(f"{url!r:.100} is not the address of a metadata service")
    connection = HTTPConnection(place.group(1), int(place.group(2) or 80), timeout=TIMEOUT)
    try:
        token = _get(
            connection, "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT"
        )
        if token is None or not re.fullmatch(rb"[!-~]{1,1000}", token):
            raise Refused("the metadata service gave no token")
        header = {"X-aws-ec2-metadata-token": token.decode()}
        for path in TAGS:
            found = _get(connection, path, header)
            if found is not None:
                return _reason(found)
        spot = _get(connection, SPOT, header)
        return None if spot is None else _spot(spot)
    except (OSError, HTTPException) as e:
        raise Refused(f"the metadata service does not answer: {type(e).__name__}: {e}") from None
    finally:
        connection.close()


def _get(
    connection: HTTPConnection, path: str, header: dict[str, str], method: str = "GET"
) -> Optional[bytes]:
    """An answer of a bounded size; None where there is no such thing."""
    connection.request(method, path, headers=header)
    answer = connection.getresponse()
    data = answer.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise Refused(f"the metadata service gave more than {LIMIT} bytes for {path}")
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise Refused(f"the metadata service gave status {answer.status} for {path}")
    return data


def _spot(data: bytes) -> str:
    """What the cloud is about to do with the machine."""
    try:
        said = json.loads(data)
    except ValueError:
        said = None
    action, when = (said.get("action"), said.get("time")) if isinstance(said, dict) else (None, None)
    return f"the cloud takes the machine back: {action or 'no word'} at {when or 'an unknown time'}"
