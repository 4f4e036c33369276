"""Runs a program and prints what it says as it comes, line by line: for the journal, and for the reason when it fails.

What the program leaves running does not hold us up. One that does not end in time is ended with all that it started.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Mapping, Sequence

from contextualize.errors import Refused

LINE = 4096


def run(argv: Sequence[str], name: str, timeout: float, env: Mapping[str, str], cwd: Path) -> None:
    """Runs the program to its end, within `timeout` seconds, in exactly this environment. Refused with the last line
    of what it said where it fails, is not done in time, or can't be started."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
        )
    except (OSError, ValueError) as e:
        raise Refused(f"{name}: can't be started: {e!s:.200}") from None
    last = _until_ended(process, name, time.monotonic() + timeout)
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise Refused(f"{name}: was not done after {timeout:.0f} s")
    if process.returncode != 0:
        raise Refused(f"{name}: ended with status {process.returncode}: {last[-300:]}")


def _until_ended(process: subprocess.Popen[bytes], name: str, end: float) -> str:
    """Prints what a process says until it has ended, or until `end`; returns the last line. A pipe holds less than
    one read takes, so what was said before the end is all read by the last one."""
    assert process.stdout is not None
    pipe, ended = process.stdout.fileno(), os.pidfd_open(process.pid)
    os.set_blocking(pipe, False)
    waiting, left, last, over = [pipe, ended], b"", "", False
    try:
        while not over and time.monotonic() < end:
            over = ended in select.select(waiting, [], [], max(0.0, end - time.monotonic()))[0]
            with contextlib.suppress(BlockingIOError):
                data = os.read(pipe, 1 << 20)
                if not data and pipe in waiting:
                    waiting.remove(pipe)
                *lines, left = (left + data).split(b"\n")
                for line in lines:
                    last = _say(name, line) or last
                if len(left) > LINE:
                    last, left = _say(name, left), b""
    finally:
        os.close(ended)
        process.stdout.close()
    if over:
        process.wait()
    return _say(name, left) or last if left else last


def _say(name: str, line: bytes) -> str:
    text = line[:LINE].decode(errors="replace").rstrip()
    print(f"{name}: {text}", flush=True)
    return text
