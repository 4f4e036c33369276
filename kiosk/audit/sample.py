"""One file's content as the checks see it: whole when it is small, else a window of it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cached_property

from kiosk.audit.model import Hit
from kiosk.disk.volume import Node

WHOLE = 4 << 20
"""Files up to so many bytes are looked at whole, larger ones through windows of WINDOW bytes."""
WINDOW = 1 << 20
OVERLAP = 8192


@dataclass(frozen=True)
class Sample:
    """`data` begins at byte `start` of the file `node`; `whole` when it is all of it. `pristine` when the file is
    what its package brought. `inside` names what it was unpacked from (`gzip`)."""

    node: Node
    data: bytes
    start: int = 0
    whole: bool = True
    pristine: bool = False
    inside: str = ""
    _lines: list[int] = field(default_factory=list, compare=False)

    @property
    def path(self) -> bytes:
        """The path in the image."""
        return self.node.path

    @cached_property
    def name(self) -> bytes:
        """The last part of the path."""
        return self.path.rpartition(b"/")[2]

    @property
    def head(self) -> bool:
        """Whether it begins where the file begins."""
        return self.start == 0

    @cached_property
    def text(self) -> bool:
        """Whether it looks like text: no NUL among the first bytes."""
        return b"\0" not in self.data[:8192]

    def hit(self, check: str, message: str, at: int | None = None, item: str | None = None) -> Hit:
        """A hit in this file; `at` is a place in `data`, told as a line where the line can be known."""
        line = self._line(at) if at is not None and self.text and self.whole and not self.inside else None
        where = f" (inside {self.inside})" if self.inside else ""
        return Hit(check, self.path, message + where, line, item)

    def _line(self, at: int) -> int:
        if not self._lines:
            position = self.data.find(b"\n")
            self._lines.append(-1)
            while position >= 0:
                self._lines.append(position)
                position = self.data.find(b"\n", position + 1)
        return bisect_left(self._lines, at)
