"""Makes a file from objects and from what the host has already, and gives it its name only when it is right.

* The target appears complete, on disk, and with the artifact's digest, or not at all. A block device is
  written in place; it is complete when `fetch` has returned.
* Killed at any point, the next call goes on from the regions that are whole in the unfinished file.
* A local file that lies (it was changed, or its index is of another file) costs the download of the regions
  it spoiled, nothing else. Wrong data from the source itself is a CorruptError.
* Memory is bounded by the number of workers, not by the file.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kiosk import files
from kiosk.errors import CorruptError, StorageError, UsageError
from kiosk.log import logger
from kiosk.model.manifest import Artifact, Object
from kiosk.store import foreign, plan
from kiosk.store.device import Device, is_device
from kiosk.store.index import BLOCK, MAX_STORED, REGION, decode
from kiosk.store.objects import MissingObject, ObjectSource, Progress, check, quiet
from kiosk.store.partial import Partial, index_file
from kiosk.store.work import Metered, Work

log = logger(__name__)

WORKERS = 8


@dataclass(frozen=True)
class Seed:
    """An older file on this host, and the object that holds its index. Without one, the file may be anything
    (raw, qcow2, a device), and is searched for blocks where that pays."""

    path: Path
    index: Object | None = None


@dataclass(frozen=True)
class FetchReport:
    """What a fetch took: compressed bytes and objects read from the source (indexes included), bytes of the
    file that the host had already, seconds, and regions fetched anew because a local file was wrong."""

    bytes_moved: int
    requests: int
    bytes_reused: int
    seconds: float
    regions_repaired: int = 0


def fetch(
    artifact: Artifact,
    target: Path,
    source: ObjectSource,
    seeds: Sequence[Seed] = (),
    progress: Progress = quiet,
    *,
    workers: int = WORKERS,
) -> FetchReport:
    """Makes `target` the artifact. `progress` is told the file's bytes as they become right."""
    began = time.monotonic()
    if artifact.index is None:
        raise UsageError("was never published: its manifest names no index", where=artifact.file)
    metered = Metered(source)
    stored = _index_bytes(artifact.index, target, metered)
    index = decode(stored, artifact.index.digest)
    if index.size != artifact.size:
        raise CorruptError(
            f"its index makes {index.size} bytes instead of {artifact.size}", where=artifact.file
        )
    with files.storage_errors(target), ExitStack() as stack:
        kind = Device if is_device(target) else Partial
        partial = stack.enter_context(kind(target, index.size))
        held, opened = _open_seeds(seeds, metered, stack)
        unknown = _open_unknown(seeds, stack)
        work = Work(index, partial, metered, opened, workers, progress)
        try:
            repaired = _make(work, artifact, held, opened, unknown, metered)
            if partial.keeps_index:
                files.write(index_file(target), stored)
            partial.finish()
        except (OSError, StorageError):
            partial.discard()  # a disk kept full would stop the VMs that run from it
            raise
    return FetchReport(
        bytes_moved=metered.bytes,
        requests=metered.requests,
        bytes_reused=work.reused * BLOCK,
        seconds=time.monotonic() - began,
        regions_repaired=repaired,
    )


def _index_bytes(wanted: Object, target: Path, source: ObjectSource) -> bytes:
    """The index: as an earlier fetch kept it beside the file, else from the source."""
    if wanted.size > MAX_STORED:
        raise CorruptError(
            f"an index of {wanted.size} bytes is more than any kiosk writes", where=wanted.digest
        )
    kept = index_file(target)
    try:
        with kept.open("rb") as f:
            return check(f.read(wanted.size + 1), wanted, str(kept))
    except (FileNotFoundError, CorruptError):
        return source.read(wanted)


def _open_seeds(
    seeds: Sequence[Seed], source: ObjectSource, stack: ExitStack
) -> tuple[list[plan.Held], list[BinaryIO]]:
    """The older files that can be used; one that is gone, or whose index is, is passed over."""
    held: list[plan.Held] = []
    opened: list[BinaryIO] = []
    for seed in seeds:
        if seed.index is None:
            continue
        try:
            f = stack.enter_context(seed.path.open("rb"))
            index = decode(_index_bytes(seed.index, seed.path, source), seed.index.digest)
        except (OSError, MissingObject, CorruptError) as e:
            log.warning("%s is not used: %s", seed.path, e)
            continue
        held.append(plan.Held(index))
        opened.append(f)
    return held, opened


def _open_unknown(seeds: Sequence[Seed], stack: ExitStack) -> list[BinaryIO]:
    """The local files without an index that can be read."""
    opened: list[BinaryIO] = []
    for seed in seeds:
        if seed.index is None:
            try:
                opened.append(stack.enter_context(seed.path.open("rb")))
            except OSError as e:
                log.warning("%s is not used: %s", seed.path, e.strerror)
    return opened


def _make(
    work: Work,
    artifact: Artifact,
    held: list[plan.Held],
    opened: list[BinaryIO],
    unknown: Sequence[BinaryIO],
    source: ObjectSource,
) -> int:
    """Fills the unfinished file until its digest is right. Returns how many regions had to be fetched anew."""
    index, partial = work.index, work.partial
    wanted = bytearray(b"\1" * index.region_count)
    if partial.found:
        for region in range(index.region_count):
            if partial.holds(index, region):
                wanted[region] = 0
        partial.prepare(index, bytes(wanted))
    todo = plan.make(index, bytes(wanted), held)
    for file in unknown:
        if (found := foreign.search(file, index, todo, source)) is not None:
            held.append(plan.Held(found))
            opened.append(file)
            todo = plan.make(index, bytes(wanted), held)
    digest = work.fill(todo, bytes(wanted))
    if digest == artifact.digest:
        return 0
    wrong = bytes(0 if partial.holds(index, r) else 1 for r in range(index.region_count))
    if not any(wrong):
        raise CorruptError(
            f"its index makes the digest {digest} instead of {artifact.digest}", where=artifact.file
        )
    log.warning("%s: %d regions made from local files are wrong; fetching them", partial.target, sum(wrong))
    partial.prepare(index, wrong)
    digest = work.fill(plan.make(index, wrong, ()), wrong)
    if digest != artifact.digest:
        bad = next((r for r in range(index.region_count) if not partial.holds(index, r)), None)
        place = "" if bad is None else f", first at byte {bad * REGION}"
        raise CorruptError(
            f"its objects make the digest {digest} instead of {artifact.digest}{place}", where=artifact.file
        )
    return sum(wrong)
