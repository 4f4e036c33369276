"""Whether the source of the context asks for a drain now. Only root could have written there, or the cloud itself.

    nocloud, configdrive    the file kiosk/drain on the context disk; its first line is the reason
    opennebula              the same file, or KIOSK_DRAIN='REASON' in context.sh
    ec2                     /latest/meta-data/tags/instance/kiosk-drain, /latest/meta-data/kiosk-drain (the reason),
                            or /latest/meta-data/spot/instance-action: the cloud takes the machine back
    cmdline                 can't change

A source that can't be looked at is Refused, and asks for nothing.
"""

from __future__ import annotations

import json
import re
from typing import Optional

from contextualize.errors import Refused
from contextualize.machine import Machine
from contextualize.sources import disks

LIMIT = 64 * 1024
PATIENCE = 10.0
"""Seconds for all that a metadata service is asked in one look."""
TAGS = ("/latest/meta-data/tags/instance/kiosk-drain", "/latest/meta-data/kiosk-drain")
SPOT = "/latest/meta-data/spot/instance-action"
SERVICE = r"http://([0-9A-Za-z.-]{1,100})(?::([0-9]{1,5}))?"


def asked(machine: Machine, source: str) -> Optional[str]:
    """The reason for which a drain is asked for, or None."""
    kind, _, where = source.partition(":")
    if kind == "ec2":
        return _metadata(where)
    if kind in disks.LABELS.values():
        said = disks.drain(machine, where)
        return None if said is None else _reason(said)
    return None


def _reason(text: str) -> str:
    """The first line, as a reason."""
    words = text.strip().splitlines()
    return f"the context asks for it: {words[0].strip() if words else 'no reason given'}"


def _metadata(url: str) -> Optional[str]:
    from contextualize.sources import ec2

    place = re.fullmatch(SERVICE, url)
    if place is None:
        raise Refused(f"{url!r:.100} is not the address of a metadata service")
    try:
        with ec2.session(place.group(1), int(place.group(2) or 80), PATIENCE) as get:
            for path in TAGS:
                found = get(path, LIMIT)
                if found is not None:
                    return _reason(found.decode(errors="replace"))
            spot = get(SPOT, LIMIT)
            return None if spot is None else _spot(spot)
    except ec2.NotYet as e:
        raise Refused(f"the metadata service does not answer: {e}") from None


def _spot(data: bytes) -> str:
    """What the cloud is about to do with the machine."""
    try:
        said = json.loads(data)
    except ValueError:
        said = None
    action, when = (said.get("action"), said.get("time")) if isinstance(said, dict) else (None, None)
    return f"the cloud takes the machine back: {action or 'no word'} at {when or 'an unknown time'}"
