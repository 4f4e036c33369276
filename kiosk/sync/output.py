"""`kiosk fetch`: one file of a published version, straight from the kiosk to a file or a block device.

* A file, raw or qcow2, appears under its name complete and verified, or not at all; what was there before
  stays until then.
* A block device is written in place. What is right on it already is left alone. It is complete when the call
  has returned; every error, and a kill, leaves it incomplete, and the same call completes it.
* Killed at any point, the same call goes on from the bytes that are there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kiosk.errors import BusyError, KioskError, NotFoundError, StorageError, UsageError
from kiosk.files import free_bytes, fsync_dir, sha256, storage_errors
from kiosk.model.manifest import Artifact
from kiosk.run import CommandError, run
from kiosk.store.device import is_device
from kiosk.store.fetch import Seed, fetch
from kiosk.store.index import MAX_STORED
from kiosk.store.objects import ObjectSource, named
from kiosk.store.partial import index_file

Format = Literal["raw", "qcow2"]
SLOWEST = 2_000_000
"""Bytes a second that a conversion must reach, beside two minutes that it always has."""


@dataclass(frozen=True)
class Output:
    """What a fetch took. `already`: the file was there, the same to the byte, and nothing was fetched."""

    moved: int = 0
    reused: int = 0
    requests: int = 0
    seconds: float = 0.0
    already: bool = False


def put(
    artifact: Artifact,
    source: ObjectSource,
    output: Path,
    *,
    format: Format = "raw",
    seeds: Sequence[Path] = (),
    progress: Callable[[int], object] = lambda _done: None,
) -> Output:
    """Makes `output` the artifact. `seeds` are local files that may hold some of its bytes."""
    begin = time.monotonic()
    check(output, format)
    if is_device(output):
        with device_errors(output):
            done = _fetch(artifact, source, output, seeds, progress)
    elif format == "raw":
        done = _raw(artifact, source, output, seeds, progress)
    else:
        between = output.with_name(f".{output.name}.raw")
        done = _raw(artifact, source, between, seeds, progress)
        _convert(between, output, artifact.size)
    return Output(done.moved, done.reused, done.requests, time.monotonic() - begin, done.already)


def check(output: Path, format: Format) -> None:
    """UsageError unless `output` is a block device, a file, or a name for one in a folder that is there."""
    if is_device(output):
        if format != "raw":
            raise UsageError(
                f"a block device can't hold {format}", where=str(output), hint="Use --format raw."
            )
        return
    if output.exists() and not output.is_file():
        raise UsageError("is neither a file nor a block device", where=str(output))
    if not output.parent.is_dir():
        raise NotFoundError("there is no such folder", where=str(output.parent))


def _raw(
    artifact: Artifact,
    source: ObjectSource,
    output: Path,
    seeds: Sequence[Path],
    progress: Callable[[int], object],
) -> Output:
    if output.is_file() and output.stat().st_size == artifact.size and sha256(output) == artifact.digest:
        progress(artifact.size)
        return Output(reused=artifact.size, already=True)
    return _fetch(artifact, source, output, seeds, progress)


def _fetch(
    artifact: Artifact,
    source: ObjectSource,
    output: Path,
    seeds: Sequence[Path],
    progress: Callable[[int], object],
) -> Output:
    older = [local_seed(path) or Seed(path) for path in seeds]
    if (before := local_seed(output)) is not None:
        older.insert(0, before)
    report = fetch(artifact, output, source, older, progress)
    return Output(report.bytes_moved, report.bytes_reused, report.requests)


def local_seed(path: Path) -> Seed | None:
    """A local file as a seed, where an earlier fetch has kept its index beside it."""
    try:
        with index_file(path).open("rb") as f:
            return Seed(path, named(f.read(MAX_STORED))) if path.is_file() else None
    except OSError:
        return None


def _convert(raw: Path, output: Path, size: int) -> None:
    """Makes a qcow2 of a raw file that is right, and removes the raw one."""
    new = output.with_name(f".{output.name}.qcow2")
    with storage_errors(output), _alone(raw):
        new.unlink(missing_ok=True)
        try:
            _room(raw, output)
            argv: list[str | Path] = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, new]
            run(argv, timeout=120 + size / SLOWEST)
            _to_disk(new)
            new.replace(output)
        except CommandError as e:
            if os.strerror(errno.ENOSPC) not in e.output:
                raise
            _remove(raw)
            raise _full(output, "the disk is full") from None
        except StorageError:
            _remove(raw)
            raise
        finally:
            new.unlink(missing_ok=True)
        fsync_dir(output.parent)
        _remove(raw)


def _room(raw: Path, output: Path) -> None:
    needed, free = raw.stat().st_blocks * 512, free_bytes(output.parent)
    if needed > free:
        raise _full(output, f"making it takes {needed >> 20} MiB more, and {free >> 20} MiB are free")


def _full(output: Path, what: str) -> StorageError:
    hint = "Free some space and run the command again; nothing was left half-written."
    return StorageError(what, where=str(output), hint=hint)


def _to_disk(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.fchmod(fd, 0o644)
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(raw: Path) -> None:
    raw.unlink(missing_ok=True)
    index_file(raw).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(raw: Path) -> Iterator[None]:
    """Holds a lock on the raw file, so that two calls don't convert it at a time."""
    with raw.open("rb") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError("another kiosk is already making this file", where=str(raw)) from None
        yield


@contextlib.contextmanager
def device_errors(device: Path) -> Iterator[None]:
    """A device that fails under us is a StorageError that says so."""
    try:
        yield
    except KioskError:
        raise
    except OSError as e:
        raise StorageError(e.strerror or str(e), where=str(device), hint="See dmesg.") from e
