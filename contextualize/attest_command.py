"""`kiosk-attest`: prints what this machine is, and answers whether it is what somebody requires.

    0  it holds          1  it does not, and the output says what
    2  wrong usage       3  there is no attestation: this is no kiosk node, or it is not ready

Works for every user, needs no privilege, and changes nothing. The attestation can be changed by root only, and so
is believed only where it belongs to root.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional

from contextualize import attested
from contextualize.errors import Refused

ATTESTATION, LIFE = "run/kiosk/attestation.json", "run/kiosk/life.json"
LIMIT = 1 << 20
HOLDS, FAILS, USAGE, ABSENT = range(4)
HELP = """usage: kiosk-attest [--json] [--require REQUIREMENTS] [--stops-after SECONDS]

Prints what this machine is and how that was verified. With --require or --stops-after it says instead whether
they hold: exit code 0 they do, 1 they do not (and which), 2 wrong usage, 3 there is no attestation.

  --require image=NAME[@VERSION|@>=VERSION],layer=VO/NAME[@...],layer=site/SITE/NAME[@...],site=SITE[/NAME[@...]],
            farm=NAME,without=WORD
  --stops-after SECONDS   this machine lives at least so long from now (a job that runs may live so long)
  --json                  print JSON

example: kiosk-attest --require 'image=debian-12-worker@>=20260301.1,layer=atlas/software' --stops-after 7200
"""


class Asked(NamedTuple):
    """What the command line says."""

    json: bool
    require: Optional[str]
    stops_after: Optional[int]


class Absent(Exception):
    """There is no attestation that could be believed."""


def main(words: List[str], root: Path = Path("/")) -> int:
    """Does what the words say; its status is the program's."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP, end="")
        return HOLDS
    try:
        asked = _asked(words)
        wanted = attested.parse(asked.require) if asked.require is not None else []
    except Refused as e:
        print(f"kiosk-attest: {e.reason} (see kiosk-attest --help)", file=sys.stderr)
        return USAGE
    try:
        attestation, life = _read(root / ATTESTATION), _read(root / LIFE, needed=False)
        if asked.require is None and asked.stops_after is None:
            print(json.dumps(attestation, indent=2) if asked.json else _text(attestation, life))
            return HOLDS
        return _answer(asked, list(attested.faults(attestation, wanted)), life, root)
    except (Absent, Refused) as e:
        print(f"kiosk-attest: there is no attestation: {e}", file=sys.stderr)
        return ABSENT


def _asked(words: List[str]) -> Asked:
    found: Dict[str, str] = {}
    left = list(words)
    as_json = False
    while left:
        word, equals, value = left.pop(0).partition("=")
        if word == "--json" and not equals:
            as_json = True
        elif word in ("--require", "--stops-after") and word not in found:
            if not equals and not left:
                raise Refused(f"{word} needs a value")
            found[word] = value if equals else left.pop(0)
        else:
            raise Refused(f"{word!r:.80} is not understood, or stands twice")
    seconds = found.get("--stops-after")
    if seconds is not None and not (seconds.isascii() and seconds.isdecimal() and len(seconds) < 10):
        raise Refused(f"{seconds!r:.40} is not a number of seconds")
    return Asked(as_json, found.get("--require"), None if seconds is None else int(seconds))


def _read(path: Path, *, needed: bool = True) -> Dict[str, Any]:
    """A document of root's; with `needed` false one that is not there is empty."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as e:
        if not needed and isinstance(e, FileNotFoundError):
            return {}
        raise Absent(f"{path}: {e.strerror}") from None
    with os.fdopen(fd, "rb") as f:
        at = os.fstat(fd)
        if not stat.S_ISREG(at.st_mode) or at.st_uid != 0 or at.st_mode & 0o022:
            raise Absent(f"{path}: others than root can write it")
        data = f.read(LIMIT)
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Absent(f"{path}: is not a JSON object")
    return found


def _answer(asked: Asked, faults: List[Any], life: Dict[str, Any], root: Path) -> int:
    """Says whether everything holds."""
    if asked.stops_after is not None:
        left = _left(life, root)
        if left is None:
            faults.append((f"stops-after {asked.stops_after}", "nobody knows when this machine stops"))
        elif left < asked.stops_after:
            faults.append((f"stops-after {asked.stops_after}", f"this machine stops within {left} s"))
    if asked.json:
        found = [{"requirement": requirement, "why": why} for requirement, why in faults]
        print(json.dumps({"holds": not faults, "faults": found}, indent=2))
    else:
        for requirement, why in faults:
            print(f"{requirement}: {why}")
    return FAILS if faults else HOLDS


def _left(life: Dict[str, Any], root: Path) -> Optional[int]:
    """Whole seconds until the machine stops at the latest: by the kernel's clock, which nobody sets."""
    stops = life.get("stops_uptime")
    if not isinstance(stops, (int, float)) or isinstance(stops, bool):
        return None
    uptime = float((root / "proc/uptime").read_text(encoding="ascii").split()[0])
    return max(0, int(stops - uptime))


def _text(attestation: Dict[str, Any], life: Dict[str, Any]) -> str:
    """The attestation for people."""
    get = attestation.get

    def inside(key: str) -> Dict[str, Any]:
        return _object(get(key))

    image, context, farm = inside("image"), inside("context"), inside("farm")
    rows = [
        ("node", f"{inside('node').get('name')} ({inside('node').get('id')})"),
        ("image", f"{image.get('name')}@{image.get('version')}, signed by {image.get('role')}"),
        ("root hash", f"{image.get('root_hash')}, enforced by the kernel"),
    ]
    for layer in get("layers") or []:
        where = f"at {layer.get('prefix')}, signed by {layer.get('role')}"
        rows.append(("layer", f"{layer.get('name')}@{layer.get('version')} {where}"))
    rows += [
        ("context", f"{context.get('digest')} from {context.get('source')}"),
        *[("", f"and {name}: {digest}") for name, digest in sorted(_object(context.get("scripts")).items())],
        ("switched on", ", ".join(get("switched_on") or []) or "nothing"),
        ("farm", f"{farm.get('name')} ({farm.get('kind')})" if farm else "none"),
        ("drains", str(get("drains"))),
        ("stops", f"{life.get('stops') or get('stops')} at the latest"),
    ]
    if life.get("state") in ("draining", "stopping"):
        rows.append((str(life["state"]), f"since {life.get('since')}: {life.get('reason')}"))
    return "\n".join(f"{key:<12} {value}" for key, value in rows)


def _object(value: object) -> Dict[str, Any]:
    return value if isinstance(value, dict) else {}


def run() -> NoReturn:
    """The program."""
    status = FAILS
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
