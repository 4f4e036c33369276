"""Makes a file from objects and from what the host has already, and gives it its name only when it is right.

* The target appears complete, on disk, and right, or not at all. A block device is
  written in place; it is complete when `fetch` has returned.
* Killed at any point, the next call goes on from the regions that are whole in the unfinished file.
* It is right when the digests of its regions are the index's, and their digest the manifest's `regions`; where a
  manifest has none, when its SHA-256 is the manifest's.
* A local file that lies (it was changed, or its index is of another file) costs the download of the regions
  it spoiled, nothing else. Wrong data from the source itself is a CorruptError.
* Memory is bounded by the number of workers, not by the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from kiosk import files
from kiosk.errors import CorruptError, StorageError, UsageError
from kiosk.log import logger
from kiosk.model.manifest import Artifact, Object
from kiosk.store import difference, foreign, plan
from kiosk.store.device import Device, is_device
from kiosk.store.index import BLOCK, MAX_STORED, REGION, Index, decode
from kiosk.store.objects import MissingObject, ObjectSource, Progress, check, quiet
from kiosk.store.partial import Partial, index_file
from kiosk.store.regions import digest_of_regions
from kiosk.store.work import Base, Metered, Work

log = logger(__name__)

WORKERS = 8
Way = Literal["packs", "difference"]
Announce = Callable[[Sequence[Object], int], object]
"""Told, before any of them is read, the packs and groups that will be read, in the order of the file, and how
many bytes of disk the file will take besides what it has. What it raises ends the fetch."""


def nobody(_objects: Sequence[Object], _bytes: int) -> None:
    """An announcement that nobody hears."""


@dataclass(frozen=True)
class Seed:
    """An older file on this host, the object that holds its index, and, where it is known, the file's digest
    (only then differences can refer to it). Without an index, the file may be anything (raw, qcow2, a device),
    and is searched for blocks where that pays."""

    path: Path
    index: Object | None = None
    digest: str | None = None


@dataclass(frozen=True)
class FetchReport:
    """What a fetch took: compressed bytes and objects read from the source (indexes included), bytes of the
    file that the host had already, seconds, regions fetched anew because a local file was wrong, and which way
    was the cheapest: packs, or a difference."""

    bytes_moved: int
    requests: int
    bytes_reused: int
    seconds: float
    regions_repaired: int = 0
    way: Way = "packs"


def fetch(
    artifact: Artifact,
    target: Path,
    source: ObjectSource,
    seeds: Sequence[Seed] = (),
    progress: Progress = quiet,
    *,
    announce: Announce = nobody,
    workers: int = WORKERS,
) -> FetchReport:
    """Makes `target` the artifact. `progress` is told the file's bytes as they become right, `announce` what
    will be read."""
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
    if artifact.regions is not None and digest_of_regions(index.regions) != artifact.regions:
        raise CorruptError("its index is of a file with other regions", where=artifact.file)
    with files.storage_errors(target), ExitStack() as stack:
        kind = Device if is_device(target) else Partial
        partial = stack.enter_context(kind(target, index.size))
        work = Work(index, partial, metered, workers, progress, whole=artifact.regions is None)
        try:
            chosen, repaired = _make(work, artifact, _open_seeds(seeds, metered, stack), metered, announce)
            if partial.keeps_index:
                files.write(index_file(target), stored)
                files.remove_leftovers(index_file(target))  # nobody else has the unfinished file
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
        way="difference" if chosen.base else "packs",
    )


@dataclass(frozen=True)
class _Usable:
    """A seed that can be read; without `held` it is not known yet which blocks it has."""

    digest: str | None
    file: BinaryIO
    held: plan.Held | None


@dataclass(frozen=True)
class _Way:
    """A plan, the seeds that it copies from, and the base of the difference that it uses."""

    todo: plan.Plan
    seeds: tuple[BinaryIO, ...] = ()
    base: Base | None = None


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


def _open_seeds(seeds: Sequence[Seed], source: ObjectSource, stack: ExitStack) -> list[_Usable]:
    """The older files that can be used; one that is gone, or whose index is, is passed over."""
    found: list[_Usable] = []
    for seed in seeds:
        try:
            f = stack.enter_context(seed.path.open("rb"))
            held = None
            if seed.index is not None:
                index = decode(_index_bytes(seed.index, seed.path, source), seed.index.digest)
                held = plan.Held.by(index)
        except (OSError, MissingObject, CorruptError) as e:
            log.warning("%s is not used: %s", seed.path, e)
            continue
        found.append(_Usable(seed.digest, f, held))
    return found


def _cheapest(
    index: Index,
    wanted: bytes,
    artifact: Artifact,
    usable: Sequence[_Usable],
    itself: BinaryIO | None,
    source: ObjectSource,
) -> _Way:
    """The way that moves the fewest bytes, with what stands in the target `itself` where it can tell.

    A difference is looked at only where it promises to be shorter, and files of which nothing is known only for
    what packs would have to bring.
    """
    held = [u.held for u in usable if u.held is not None]
    files = [u.file for u in usable if u.held is not None]
    todo = plan.make(index, wanted, held)
    looks = [(one.file, foreign.search) for one in usable if one.held is None]
    if itself is not None:
        looks.insert(0, (itself, foreign.standing))
    for file, look in looks:
        if (found := look(file, index, todo, source)) is not None:
            held.append(plan.Held.by(found))
            files.append(file)
            todo = plan.make(index, wanted, held)
    best = _Way(todo, tuple(files))
    least = todo.moved
    for one in usable:
        for offered in artifact.differences:
            if offered.base != one.digest or offered.groups.size + offered.size >= least:
                continue
            try:
                groups = difference.load(source, offered.groups, index)
            except (MissingObject, CorruptError) as e:
                log.warning("the difference to %s is not used: %s", offered.base, e)
                continue
            todo = plan.make(index, wanted, held, groups)
            if todo.moved < least:
                best, least = _Way(todo, tuple(files), Base(one.file.fileno(), groups.groups)), todo.moved
    return best


def _make(
    work: Work, artifact: Artifact, usable: Sequence[_Usable], source: ObjectSource, announce: Announce
) -> tuple[_Way, int]:
    """Fills the unfinished file until it is right. Returns the way taken, and how many regions had to be fetched
    anew."""
    index, partial = work.index, work.partial
    wanted = bytearray(b"\1" * index.region_count)
    if partial.found:
        for region in range(index.region_count):
            if partial.holds(index, region):
                wanted[region] = 0
        partial.prepare(index, bytes(wanted))
    way = _cheapest(index, bytes(wanted), artifact, usable, partial.itself, source)
    # what was right in the target
    work.reused += sum(index.runs.count) - way.todo.reused - way.todo.downloaded
    announce(work.reads(way.todo, way.base), work.needs(way.todo, way.seeds))
    filled = work.fill(way.todo, bytes(wanted), way.seeds, way.base)
    repaired = sum(filled.wrong)
    if repaired:
        log.warning("%s: %d regions made from local files are wrong; fetching them", partial.target, repaired)
        partial.prepare(index, filled.wrong)
        todo = plan.make(index, filled.wrong, ())
        announce(work.reads(todo), work.needs(todo))
        filled = work.fill(todo, filled.wrong)
    if any(filled.wrong):
        at = filled.wrong.index(1) * REGION
        raise CorruptError(
            f"its objects make other bytes than its index says, first at {at}", where=artifact.file
        )
    if filled.digest is not None and filled.digest != artifact.digest:
        raise CorruptError(
            f"its index makes the digest {filled.digest} instead of {artifact.digest}", where=artifact.file
        )
    return way, repaired
