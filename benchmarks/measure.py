"""Runs one step as a process of its own and says what it took: seconds, processor seconds, peak memory.

A step may be a pipeline: its seconds are those of the whole, its processor seconds and its memory the sum of
its programs' (so the memory of a pipeline is an upper bound). What is measured is measured by time(1), whose
own small size is the floor, and not by this Python, whose size a child would inherit.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kiosk.run import CommandError, environment, tool

DROP_CACHES = Path("/proc/sys/vm/drop_caches")

LIMIT = 3600.0
CHUNK = 1 << 22
Argv = Sequence[str | Path]


@dataclass(frozen=True)
class Step:
    """What a step took. `peak` in bytes; `sync` are the seconds until its output was on disk after it ended."""

    seconds: float
    cpu: float
    peak: int
    sync: float = 0.0
    output: str = field(default="", repr=False)

    @property
    def durable(self) -> float:
        """Seconds until the output was on disk."""
        return self.seconds + self.sync

    def then(self, other: Step) -> Step:
        """Both, one after the other."""
        return Step(
            self.seconds + other.seconds,
            self.cpu + other.cpu,
            max(self.peak, other.peak),
            self.sync + other.sync,
            self.output + other.output,
        )


def step(
    *pipeline: Argv,
    output: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Step:
    """Runs the programs of `pipeline`, each reading what the one before prints, and measures them.

    With `output`, that file is brought to disk afterwards, which `sync` says. Raises CommandError when a
    program fails, MissingToolError when it is not installed.
    """
    commands = [[tool(str(argv[0])), *map(str, argv[1:])] for argv in pipeline]
    timer = tool("time")
    os.sync()  # so that no step pays for what the one before left to write
    with tempfile.TemporaryDirectory(prefix="kiosk-bench-") as folder:
        figures = [Path(folder, f"time{n}") for n in range(len(commands))]
        errors = Path(folder, "errors")
        began = time.monotonic()
        with errors.open("wb") as err:
            processes: list[subprocess.Popen[bytes]] = []
            for command, file in zip(commands, figures, strict=True):
                before = processes[-1].stdout if processes else None
                processes.append(
                    subprocess.Popen(
                        [timer, "-q", "-f", "%U %S %M", "-o", str(file), *command],
                        stdin=before or subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=err,
                        env=environment(env),
                        cwd=cwd,
                    )
                )
                if before is not None:
                    before.close()
            printed = _end(processes, commands)
        seconds = time.monotonic() - began
        for process, command in zip(processes, commands, strict=True):
            if process.returncode != 0:
                text = printed + errors.read_bytes()
                raise CommandError(command, process.returncode, text.decode(errors="replace"))
        taken = [file.read_text().split()[-3:] for file in figures]
        said = printed.decode(errors="replace") + errors.read_text(errors="replace")
    return Step(
        seconds,
        sum(float(user) + float(system) for user, system, _ in taken),
        sum(int(peak) * 1024 for _, _, peak in taken),
        0.0 if output is None else _to_disk(output),
        said,
    )


def _end(processes: Sequence[subprocess.Popen[bytes]], commands: Sequence[Argv]) -> bytes:
    try:
        printed, _ = processes[-1].communicate(timeout=LIMIT)
        for process in processes:
            process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        raise CommandError(
            [str(word) for word in commands[-1]], -9, f"not done after {LIMIT:.0f} s"
        ) from None
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return printed


def _to_disk(path: Path) -> float:
    began = time.monotonic()
    with path.open("rb") as f:
        os.fsync(f.fileno())
    return time.monotonic() - began


def warm(*paths: Path) -> None:
    """Reads files, or all files below folders, so that every step finds its input in the page cache, and nothing
    else: a cache that is full of other steps' files makes whoever writes next wait for its pages."""
    os.sync()
    DROP_CACHES.write_text("1\n")
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                _read(file)


def _read(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        at = 0
        while at < size:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:  # nothing but a hole up to the end
                return
            end = os.lseek(fd, at, os.SEEK_HOLE)
            while at < end:
                at += len(os.pread(fd, min(CHUNK, end - at), at))
    finally:
        os.close(fd)


def held(path: Path) -> int:
    """Bytes that a file, or all files below a folder, need: holes are not counted."""
    everything = path.rglob("*") if path.is_dir() else [path]
    found = [p.stat() for p in everything if p.is_file() and not p.is_symlink()]
    return sum(min(info.st_size, info.st_blocks * 512) for info in found)
