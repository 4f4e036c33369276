"""Text that a guest wrote: bounded, and without anything that a terminal would act upon."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # control sequences: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # titles, device strings
    r"|\x1b[ -/]*[0-~]"
)


def printable(text: str, *, limit: int) -> str:
    """At most `limit` characters of `text`, without escape sequences and characters that are not shown.

    Line ends and tabs stay; what overwrites (a lone carriage return, a backspace, a change of the writing
    direction) goes.
    """
    plain = ESCAPES.sub("", text.replace("\r\n", "\n"))
    shown = "".join(c for c in plain if c in "\n\t" or unicodedata.category(c)[0] != "C")
    return shown if len(shown) <= limit else shown[:limit] + "…"


def line(text: str, *, limit: int) -> str:
    """The same, on one line."""
    return " ".join(printable(text, limit=limit).split())


def tail(path: Path, *, size: int) -> bytes:
    """The last `size` bytes of a file that may be large or missing; cut at a line where it is longer."""
    try:
        with path.open("rb") as f:
            length = f.seek(0, 2)
            f.seek(max(0, length - size))
            data = f.read(size)
    except FileNotFoundError:
        return b""
    return data if length <= size else data.partition(b"\n")[2] or data


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a console log, fit to be shown in a message."""
    text = printable(tail(path, size=65536).decode(errors="replace"), limit=65536)
    return [x[:300] for x in (one.strip() for one in text.splitlines()) if x][-count:]
