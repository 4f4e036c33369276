"""Patterns for paths below a root: `*`, `?` and `[…]` stand for characters of one name (a leading dot as well), `**`
for any number of names. None of them matches a slash, and capitals matter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


class Kept:
    """Paths that match one of some patterns, with all that is below them."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = [compiled(p) for p in patterns]

    def covers(self, parts: Sequence[str]) -> bool:
        """Whether the path or a folder above it matches."""
        if not self.patterns:
            return False
        heads = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        return any(p.fullmatch(head) for head in heads for p in self.patterns)


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression for whole paths below the root."""
    names = pattern.split("/")
    text = "".join("(?:[^/]+/)*" if n == "**" else name_regex(n) + "/" for n in names)
    text = text + "[^/]+" if names[-1] == "**" else text.removesuffix("/")
    return re.compile(text, re.DOTALL)


def name_regex(name: str) -> str:
    """One name of a pattern as a regular expression; it never matches a slash."""
    text = ""
    for piece in re.findall(r"\[!?[^\]/]+\]|.", name, re.DOTALL):
        if piece == "*":
            text += "[^/]*"
        elif piece == "?":
            text += "[^/]"
        elif len(piece) > 1:
            inner = piece[1:-1]
            negated = inner.startswith("!")
            chars = re.sub(r"([\\^\[])", r"\\\1", inner.removeprefix("!"))
            text += f"[^/{chars}]" if negated else f"[{chars}]"
        else:
            text += re.escape(piece)
    return text
