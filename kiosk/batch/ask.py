"""A batch system's commands: each ends within its time, what it prints is bounded, and those that ask are counted.

What a command prints is handed on piece by piece, so that a table of any length needs the memory of a piece. A
program that is not there, does not end, or prints too much is a BatchError like any other: nothing is known then.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kiosk.errors import BatchError, MissingToolError
from kiosk.log import logger
from kiosk.run import deadline, ended, environment, tool

log = logger(__name__)

PIECE = 1 << 20
MOST = 1 << 30
SAID = 1 << 14
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?")
"""A host's name, which is no option of a command and no list."""
SHOWN = 60
"""So many characters of a word are shown in an error: a table's columns can be hundreds."""
CHOICES = ("SQUEUE_", "SINFO_", "SSHARE_", "SACCT_", "LSB_BJOBS_", "LSB_BHOSTS_", "LSB_BQUEUES_")
"""Of whoever starts kiosk: variables that have a command leave out rows or columns."""


@dataclass(frozen=True)
class Answer:
    """How a command ended: its status, what it printed (where that was kept), and what it said on standard error."""

    command: str
    status: int
    text: str
    error: str

    @property
    def said(self) -> str:
        """What it said in a line, for people; harmless to a terminal."""
        return plain(self.error.strip() or self.text.strip())

    def refused(self, what: str, hint: str | None = None) -> BatchError:
        """The error that this answer is."""
        said = f": {self.said}" if self.said else ""
        return BatchError(f"{what} (status {self.status}){said}", where=self.command, hint=hint)


def plain(text: str, most: int = 300) -> str:
    """One line without control characters, cut."""
    if len(text) <= most and text.isprintable():
        return " ".join(text.split())
    words = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * most]).split())
    return words if len(words) <= most else words[: most - 1] + "…"


class Commands:
    """Runs the commands of a batch system: those of `folder`, or of PATH. `timeout` is in seconds and for each, `most`
    the bytes that one may print."""

    def __init__(
        self,
        folder: Path | None = None,
        timeout: float = 60.0,
        most: int = MOST,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.queries = 0
        self._folder, self._timeout, self._most, self._env = folder, timeout, most, dict(env or {})

    def ask(self, name: str, *words: str) -> Answer:
        """Runs a command that asks, and keeps all that it prints."""
        pieces = self.pieces(name, *words)
        kept = []
        while True:
            try:
                kept.append(next(pieces))
            except StopIteration as end:
                found: Answer = end.value
                return Answer(found.command, found.status, "".join(kept), found.error)

    def tell(self, name: str, *words: str) -> Answer:
        """Runs a command that changes something; it is not counted."""
        queries = self.queries
        answer = self.ask(name, *words)
        self.queries = queries
        return answer

    def pieces(self, name: str, *words: str) -> Generator[str, None, Answer]:
        """Runs a command that asks, and yields what it prints in pieces of whole lines (all but the last, which is
        what the command printed last). Returns how it ended; BatchError where it did not end or printed too much."""
        path = name if self._folder is None else str(self._folder / name)
        try:
            argv = [tool(path), *words]
        except MissingToolError:
            where = "in PATH" if self._folder is None else f"in {self._folder}"
            hint = "`commands` in the table [batch] names the folder of the batch system's commands"
            raise BatchError(f"there is no program {name} {where}", hint=hint) from None
        self.queries += 1
        shown = " ".join([name, *(plain(word, SHOWN) for word in words)])
        log.debug("ask %s", shown)
        with tempfile.TemporaryFile() as errors:
            yield from self._read(argv, shown, errors)
            errors.seek(0)
            return Answer(shown, self._status, "", errors.read(SAID).decode(errors="replace"))

    def _read(self, argv: list[str], shown: str, errors: IO[bytes]) -> Generator[str, None, None]:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={k: v for k, v in environment(self._env).items() if not k.startswith(CHOICES)},
            start_new_session=True,
        )
        assert process.stdout is not None
        with process.stdout, ended(process), deadline(process, self._timeout) as late:
            rest, total = b"", 0
            while chunk := process.stdout.read(PIECE):
                total += len(chunk)
                if total > self._most:
                    raise BatchError(f"printed more than {self._most >> 20} MiB", where=shown)
                end = chunk.rfind(b"\n") + 1
                if end:
                    yield (rest + chunk[:end]).decode(errors="replace")
                    rest = chunk[end:]
                else:
                    rest += chunk
            if rest:
                yield rest.decode(errors="replace")
            self._status = process.wait()
        if late:
            hint = "is the batch system's master up? `timeout` in the table [batch] says how long to wait"
            raise BatchError(f"no answer within {self._timeout:g} s", where=shown, hint=hint)
