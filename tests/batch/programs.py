"""Programs that print what was recorded, so that a driver runs real commands: their words decide what is printed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RECORDED = Path(__file__).parent / "recorded"


@dataclass(frozen=True)
class Printed:
    """What a program prints and how it ends; `sleeps` seconds before that, and `repeat` times."""

    text: str | bytes = ""
    status: int = 0
    error: str = ""
    sleeps: float = 0
    repeat: int = 1


def recorded(name: str) -> dict[str, Printed]:
    """The commands of a recording, each with what it printed. Of a command that is there twice, the first."""
    text = (RECORDED / name).read_bytes().decode(errors="surrogateescape")
    found: dict[str, Printed] = {}
    for command, output, status in re.findall(r"^\$ (.*)\n((?:.*\n)*?)\[rc=([0-9]+)\]$", text, re.MULTILINE):
        found.setdefault(command, Printed(output.encode(errors="surrogateescape"), int(status)))
    return found


def install(folder: Path, commands: Mapping[str, Printed]) -> Path:
    """Writes the programs into `folder/bin` (again, where they are there) and returns that."""
    programs: dict[str, list[tuple[str, Printed]]] = {}
    for command, printed in commands.items():
        name, _, words = command.partition(" ")
        programs.setdefault(name, []).append((words, printed))
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    for name, cases in programs.items():
        lines = [
            "#!/bin/sh",
            f"printf '%s\\n' \"{name} $*\" >> {shlex.quote(str(folder / 'calls'))}",
            'case "$*" in',
        ]
        for number, (words, printed) in enumerate(cases):
            kept = folder / f"{name}.{number}"
            kept.write_bytes(printed.text if isinstance(printed.text, bytes) else printed.text.encode())
            wait = f"sleep {printed.sleeps}; " if printed.sleeps else ""
            shown = f"cat {shlex.quote(str(kept))}"
            if printed.repeat != 1:
                shown = f"i=0; while [ $i -lt {printed.repeat} ]; do {shown}; i=$((i+1)); done"
            error = f"printf '%s\\n' {shlex.quote(printed.error)} >&2; " if printed.error else ""
            pattern = shlex.quote(words) if words != "*" else "*"
            lines.append(f"{pattern}) {wait}{shown}; {error}exit {printed.status};;")
        lines.append(f"*) echo '{name}: illegal option' >&2; exit 255;;")
        (folder / "bin" / name).write_text("\n".join([*lines, "esac", ""]))
        (folder / "bin" / name).chmod(0o755)
    return folder / "bin"


def calls(folder: Path) -> list[str]:
    """The commands that were run since `install`, in their order."""
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []
