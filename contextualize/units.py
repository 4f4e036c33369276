"""Which unit files a layer may bring: a short list of sections and keys, read from the text itself.

A list of what is allowed, because systemd has hundreds of keys, and a new version brings more. A program
is started by its plain absolute path, from the layer or from the base (`+` and its like run as root
whatever `User=` says, so nothing may stand before the slash). An experiment's service runs as a user that
the same layer declares; a site's may run as root.
"""

from __future__ import annotations

import re
from typing import Dict, Iterator, List, Sequence, Tuple

from contextualize.document import LayerName
from contextualize.rules import UNIT_LIMIT
from contextualize.tree import below

ALLOWED = {
    "Unit": {"Description", "Documentation", "After", "Wants", "Requires"},
    "Service": {
        "Type", "ExecStart", "ExecStartPre", "ExecStop", "ExecReload", "User", "Group", "Environment",
        "WorkingDirectory", "Restart", "RestartSec", "TimeoutStartSec", "TimeoutStopSec", "RemainAfterExit",
        "RuntimeDirectory", "StateDirectory", "KillMode", "KillSignal", "Nice", "LimitNOFILE", "LimitCORE",
        "MemoryMax", "CPUQuota", "TasksMax", "StandardOutput", "StandardError", "SyslogIdentifier",
        "NoNewPrivileges", "PrivateTmp", "ProtectSystem", "ProtectHome",
    },
    "Install": {"WantedBy"},
}  # fmt: skip
PROGRAMS = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")


def unit_faults(
    layer: LayerName, unit: str, data: bytes, users: Sequence[str], services: Sequence[str]
) -> Iterator[str]:
    """What is wrong with the text of a unit; `users` and `services` are those that the layer declares."""
    if len(data) > UNIT_LIMIT:
        yield f"{unit}: larger than {UNIT_LIMIT} bytes"
        return
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        yield f"{unit}: has characters that are not ASCII"
        return
    found: Dict[str, List[str]] = {}
    for line, section, key, value in _assignments(text):
        if key == "":
            yield f"{unit}: line {line}: not a plain `Key=value` line"
        elif key not in ALLOWED.get(section, ()):
            yield f"{unit}: line {line}: a layer may not set {key!r:.60} in [{section[:40]}]"
        else:
            found.setdefault(key, []).append(value)
            yield from (
                f"{unit}: line {line}: {fault}" for fault in _value_faults(layer, key, value, services)
            )
    yield from (f"{unit}: {fault}" for fault in _user_faults(layer, found, users))
    if not found.get("ExecStart"):
        yield f"{unit}: has no ExecStart"


def _assignments(text: str) -> Iterator[Tuple[int, str, str, str]]:
    """Every line that says something: its number, section, key (empty where it is none of a key) and value.
    A line that continues on the next, or holds a control character (such as a carriage return, which ends no
    line for systemd), is refused: what is checked must be what systemd reads."""
    section = ""
    for number, line in enumerate(text.split("\n"), 1):
        words = line.strip(" \t")
        if any(ord(c) < 32 and c != "\t" for c in words) or words.endswith("\\"):
            yield number, section, "", ""
            continue
        if not words or words[0] in "#;":
            continue
        header = re.fullmatch(r"\[([A-Za-z]+)\]", words)
        if header:
            section = header.group(1)
            continue
        assignment = re.fullmatch(r"([A-Za-z]+)\s*=\s*([^\\\x7f]*)", words)
        if assignment:
            yield number, section, assignment.group(1), assignment.group(2)
        else:
            yield number, section, "", ""


def _value_faults(layer: LayerName, key: str, value: str, services: Sequence[str]) -> Iterator[str]:
    if key.startswith("Exec"):
        program = value.split(" ")[0]
        if not re.fullmatch(r"/[A-Za-z0-9_./+-]+", program) or ".." in program.split("/"):
            yield f"{key} must begin with the plain absolute path of a program"
        elif not any(below(program, folder) for folder in (layer.prefix, *PROGRAMS)):
            yield f"{key}: the program {program:.120} is neither in the layer nor in the base's {PROGRAMS[0]}"
        if ";" in value.split(" "):
            yield f"{key} must name one command"
    elif key in ("Wants", "Requires"):
        for other in value.split():
            if other not in services:
                yield f"{key}: {other:.80} is not a service of this layer"
    elif key in ("RuntimeDirectory", "StateDirectory"):
        own = f"kiosk-layer-{layer.owner}"
        if not re.fullmatch(rf"{own}(?:-[a-z0-9-]+)?", value):
            yield f"{key}: must be {own} or begin with {own}-"
    elif key == "KillMode" and value not in ("control-group", "mixed"):
        yield f"{key}: must be control-group or mixed: nothing of a service outlives it"
    elif key == "TimeoutStopSec" and not (
        re.fullmatch(r"[0-9]{1,3}s?", value) and int(value.rstrip("s")) <= 300
    ):
        yield f"{key}: must be at most 300 seconds, written as 300 or 300s: the machine's end waits for it"
    elif key in ("StandardOutput", "StandardError") and value not in ("journal", "null", "inherit"):
        yield f"{key}: must be journal, null or inherit"


def _user_faults(layer: LayerName, found: Dict[str, List[str]], users: Sequence[str]) -> Iterator[str]:
    for key in ("User", "Group"):
        values = found.get(key, [])
        if len(values) > 1:
            yield f"sets {key} twice"
        if (
            layer.kind == "experiment"
            and (key == "User" or values)
            and (not values or values[0] not in users)
        ):
            yield f"an experiment's service must have {key}= with a user that the layer declares"
