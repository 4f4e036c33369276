"""Programs whose output is not trusted to end: what they print is bounded, in bytes and in time.

`told` runs one program and keeps of what it prints what fits; `piped` hands the bytes of one program to another
and lets the caller count them on the way. Both end what they started, whatever happens.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kiosk.log import logger
from kiosk.run import deadline, ended, environment, tool

log = logger(__name__)

CHUNK = 1 << 18
KEPT = 1 << 18


@dataclass(frozen=True)
class Ended:
    """How a program ended. `status` is negative for a signal; `text` is what it said, `cut` that there was more than
    was kept; `late` says that it was ended because its time was up, `unread` that who read what it wrote ended before
    it. `error` is what it said on standard error, where that was asked for apart."""

    status: int
    text: str
    late: bool = False
    cut: bool = False
    unread: bool = False
    error: str = ""

    @property
    def lines(self) -> list[str]:
        """The lines of the text that hold something."""
        return [line for line in self.text.splitlines() if line.strip()]


class _Listener:
    """Reads a stream in a thread: to its end, keeping its first and last bytes, or no further than `most` bytes."""

    def __init__(self, stream: IO[bytes], most: int | None = None) -> None:
        self._stream = stream
        self._most = most
        self._first = bytearray()
        self._last = b""
        self.cut = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:  # nobody else may close it: that would wait for this thread
            while chunk := self._stream.read1(1 << 16):  # type: ignore[attr-defined]
                room = (self._most or KEPT) - len(self._first)
                self._first += chunk[:room]
                if self._most and len(chunk) > room:
                    self.cut = True
                    return  # and closed, which ends who writes there
                rest = self._last + chunk[room:]
                self.cut = self.cut or len(rest) > KEPT
                self._last = rest[-KEPT:]

    def text(self) -> str:
        """All that was kept. A stream that somebody else holds open is not waited for."""
        self._thread.join(timeout=5)
        middle = b"\n...\n" if self.cut and not self._most else b""
        return (self._first + middle + self._last).decode(errors="replace")


def told(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    most: int | None = None,
) -> Ended:
    """Runs a program to its end; what it prints is in `text`: the first and the last of both streams, or, with `most`,
    all of standard output, and of standard error in `error`. Who prints more than `most` bytes finds the stream
    closed. No status is an error here."""
    words = [tool(str(argv[0])), *map(str, argv[1:])]
    log.debug("run %s", shlex.join(words))
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if most is None else subprocess.PIPE,
        env=environment(env),
        start_new_session=True,
    )
    with ended(process), deadline(process, timeout) as late:
        listeners = [_Listener(s, most) for s in (process.stdout, process.stderr) if s is not None]
        status = process.wait()
        text, *error = [listener.text() for listener in listeners]
    cut = any(listener.cut for listener in listeners)
    return Ended(status, text, late=bool(late), cut=cut, error="".join(error))


def piped(
    source: Sequence[str | Path],
    target: Sequence[str | Path],
    *,
    on_bytes: Callable[[int], None],
    timeout: float,
) -> tuple[Ended, Ended]:
    """Runs `source | target` and returns how both ended, with what each said on standard error.

    `on_bytes` is told the length of each piece before it is handed over: what it raises ends both, and it may
    wait, which slows both down. After `timeout` seconds both are killed.
    """
    left, right = ([tool(str(words[0])), *map(str, words[1:])] for words in (source, target))
    log.debug("run %s | %s", shlex.join(left), shlex.join(right))
    none, pipe = subprocess.DEVNULL, subprocess.PIPE
    options = {"env": environment(), "start_new_session": True, "stderr": pipe}
    writer = subprocess.Popen(left, stdin=none, stdout=pipe, **options)  # type: ignore[call-overload]
    with ended(writer), deadline(writer, timeout) as late:
        reader = subprocess.Popen(right, stdin=pipe, stdout=none, **options)  # type: ignore[call-overload]
        with ended(reader), deadline(reader, timeout):
            listeners = [_Listener(process.stderr) for process in (writer, reader)]
            unread = not _hand_over(writer.stdout, reader.stdin, on_bytes)
            statuses = [writer.wait(), reader.wait()]
            texts = [listener.text() for listener in listeners]
    (first, second), (said, heard) = statuses, listeners
    return (
        Ended(first, texts[0], late=bool(late), cut=said.cut, unread=unread),
        Ended(second, texts[1], late=bool(late), cut=heard.cut),
    )


def _hand_over(source: IO[bytes], target: IO[bytes], on_bytes: Callable[[int], None]) -> bool:
    """Copies until the source has ended; False when the target takes no more before that."""
    try:
        while chunk := source.read1(CHUNK):  # type: ignore[attr-defined]
            on_bytes(len(chunk))
            target.write(chunk)
        target.flush()
    except BrokenPipeError:
        return False
    finally:
        source.close()
        with contextlib.suppress(BrokenPipeError):
            target.close()
    return True
