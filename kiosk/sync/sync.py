"""`kiosk sync`: verify, fetch what is missing, switch.

Metadata first, from the root of trust; then each version into a folder of its own, every file checked against
the signed manifest; only then the version's folder gets its name and `current` moves, never to an older
version unless a signed roll-out calls the newer one back. Whatever goes wrong, what is current stays current
(fail-static), and the next run goes on from the bytes that are there. One image's trouble does not keep the
others from being brought up to date.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kiosk.config import Settings
from kiosk.errors import Interrupted, KioskError, StorageError, UsageError, VerificationError
from kiosk.files import remove_leftovers, remove_tree, sha256, write
from kiosk.log import logger
from kiosk.model.manifest import Artifact, Manifest
from kiosk.model.names import Ref, with_version
from kiosk.progress import bar
from kiosk.store import locate
from kiosk.store.fetch import Announce, FetchReport, Seed, Way, fetch, nobody
from kiosk.store.objects import ObjectSource, Progress, quiet
from kiosk.sync.host import HostCache, kept_artifacts
from kiosk.sync.offer import Offer, offer, this_host
from kiosk.trust.client import TrustedRepository

log = logger(__name__)

State = Literal["fetched", "switched", "current", "would fetch", "not yet", "failed"]
SEEDS = 2
"""How many older versions of an image are looked through for bytes that need not be fetched."""


@dataclass(frozen=True)
class Result:
    """What became of one image or layer. `moved` bytes came over the network in `requests`; `reused` bytes of
    the files were on this host already; `ways` says for each file fetched whether packs or a difference came."""

    name: str
    version: str
    state: State
    size: int = 0
    moved: int = 0
    reused: int = 0
    requests: int = 0
    seconds: float = 0.0
    error: str | None = None
    ways: dict[str, Way] = field(default_factory=dict)


@dataclass(frozen=True)
class Synced:
    """A whole run. `failure` is the first error, for the exit code."""

    url: str
    results: tuple[Result, ...]
    seconds: float
    failure: KioskError | None = None


def sync(
    settings: Settings,
    wanted: Sequence[Ref] = (),
    *,
    url: str | None = None,
    proxy: str | None = None,
    root: bytes | None = None,
    seeds: Sequence[Path] = (),
    dry_run: bool = False,
    agent_file: Path | None = None,
) -> Synced:
    """Brings images and layers up to date: those in `wanted`, or everything that the repository offers.
    `seeds` are local files of any kind that may hold some of the bytes.

    A reference with a version fetches that version, and leaves `current` alone when that is newer. One without goes
    by the roll-out of its name, if there is one, else by the newest version. The host's name is the agent's,
    configured in `agent_file` (see `this_host`).
    """
    begin = time.monotonic()
    host = this_host(settings, agent_file)
    url = url or settings.url
    proxy = proxy or settings.proxy
    if url is None:
        raise UsageError("no kiosk to sync from is known", hint="Use --url URL, or set KIOSK_URL.")
    cache = HostCache(settings.host)
    with cache.locked():
        repository = TrustedRepository(cache.metadata, url, root, proxy, settings.s3)
        repository.refresh()
        chosen, problems = choose(repository, cache, wanted)
        results = [Result(role, "-", "failed", error=e.what) for role, e in problems.items()]
        failures = list(problems.values())
        source = locate.source(url, proxy, settings.s3)
        for ref in chosen:
            try:
                named = bool(wanted) and ref.version is not None
                given = Offer(ref) if named else offer(repository, ref, cache.current(ref), host)
                if given.ref is None:
                    results.append(Result(ref.base, "-", "not yet"))
                    continue
                results.append(
                    one(repository, cache, source, given.ref, seeds, back=given.back, dry_run=dry_run)
                )
            except Interrupted:
                raise
            except OSError as e:  # a failing disk, say: one image's trouble is not the others'
                failures.append(StorageError(e.strerror or str(e), where=e.filename, hint="See dmesg."))
                results.append(Result(ref.base, str(ref.version or "-"), "failed", error=failures[-1].what))
            except KioskError as e:
                failures.append(e)
                results.append(Result(ref.base, str(ref.version or "-"), "failed", error=e.what))
    return Synced(url, tuple(results), time.monotonic() - begin, failures[0] if failures else None)


def choose(
    repository: TrustedRepository, cache: HostCache, wanted: Sequence[Ref]
) -> tuple[list[Ref], dict[str, KioskError]]:
    """What to bring up to date, and the roles that can't be believed now.

    The roles of what is installed are verified as well, whatever was asked for: the checkpoint from which VMs
    get their metadata has to cover everything that can be started here.
    """
    if wanted:
        repository.load([*(r.role for r in wanted), *(r.role for r in cache.names())])
        return list(wanted), {}
    offered: dict[str, Ref] = {}
    for ref in repository.manifests():
        offered[ref.folder] = ref
    return [offered[f] for f in sorted(offered)], dict(repository.problems)


def one(
    repository: TrustedRepository,
    cache: HostCache,
    source: ObjectSource,
    ref: Ref,
    named: Sequence[Path] = (),
    *,
    back: bool = False,
    dry_run: bool,
) -> Result:
    """Brings one image or layer up to date. `back`: a signed roll-out calls what is current back to this version."""
    begin = time.monotonic()
    manifest, signed = repository.signed_manifest(ref)
    exact = manifest.ref
    repository.refuse_revoked(exact)
    current = cache.current(exact)
    assert exact.version is not None
    size = sum(a.size for a in kept_artifacts(manifest))
    if ref.version is None and current is not None and exact.version < current:
        raise older(exact, with_version(exact, current))
    if cache.holds(manifest, signed):
        moves = current is None or current < exact.version or back
        if moves and not dry_run:
            cache.make_current(exact)
        return Result(exact.base, str(exact.version), "switched" if moves else "current", size)
    if dry_run:
        return Result(exact.base, str(exact.version), "would fetch", size)
    reports = fill(cache, source, manifest, signed, named)
    if current is None or current < exact.version or back:
        cache.make_current(exact)
    return Result(
        exact.base,
        str(exact.version),
        "fetched",
        size,
        moved=sum(r.bytes_moved for r in reports.values()),
        reused=sum(r.bytes_reused for r in reports.values()),
        requests=sum(r.requests for r in reports.values()),
        seconds=time.monotonic() - begin,
        ways={file: r.way for file, r in reports.items() if r.requests},
    )


def older(offered: Ref, current: Ref) -> VerificationError:
    """What is said when the repository's newest is older than what is current here."""
    return VerificationError(
        f"the newest version offered is {offered}, and {current} is current here",
        hint="What is current stays. Was the newer version withdrawn? Name a version to fetch it all the same.",
    )


def fill(
    cache: HostCache,
    source: ObjectSource,
    manifest: Manifest,
    signed: bytes,
    named: Sequence[Path] = (),
    *,
    told: Progress = quiet,
    announce: Announce = nobody,
) -> dict[str, FetchReport]:
    """Fetches a version's files and installs it. Returns what each file took. `told` hears of the bytes that
    are right, as the progress bar does."""

    def forward(done: int) -> None:
        progress.update(done)
        told(done)

    ref = manifest.ref
    partial = cache.partial_folder(ref)
    artifacts = kept_artifacts(manifest)
    reports: dict[str, FetchReport] = {}
    with bar(f"sync {ref}", sum(a.size for a in artifacts)) as progress:
        for artifact in artifacts:
            if is_right(partial / artifact.file, artifact):  # an interrupted run had finished this file
                forward(artifact.size)
                reports[artifact.file] = FetchReport(0, 0, artifact.size, 0.0)
                continue
            older = [*seeds(cache, ref, artifact.file), *map(Seed, named)]
            target = partial / artifact.file
            reports[artifact.file] = fetch(artifact, target, source, older, forward, announce=announce)
    write(partial / "manifest.json", signed)
    remove_leftovers(partial / "manifest.json")
    cache.install(ref, partial)
    remove_older(cache, ref)
    return reports


def is_right(path: Path, artifact: Artifact) -> bool:
    """Whether a file is the artifact, to the byte."""
    return path.is_file() and path.stat().st_size == artifact.size and sha256(path) == artifact.digest


def seeds(cache: HostCache, ref: Ref, file: str) -> list[Seed]:
    """The same file of the newest versions that are here: most of a new version is in them."""
    found: list[Seed] = []
    for version in reversed(cache.versions(ref)[-SEEDS:]):
        held = with_version(ref, version)
        try:
            manifest = cache.read(held)
        except VerificationError as e:
            log.warning("%s; its bytes are not used", e)
            continue
        found.extend(
            Seed(cache.version_folder(held) / file, a.index, a.digest)
            for a in manifest.artifacts.values()
            if a.file == file and a.index is not None
        )
    return found


def remove_older(cache: HostCache, ref: Ref) -> None:
    """Removes what interrupted runs left of older versions of the same name: nobody will complete them."""
    assert ref.version is not None
    prefix = cache.partial_folder(ref).name.rpartition("@")[0] + "@"
    for folder in (cache.folder / "partial").glob(f"{prefix}*"):
        remove_tree(folder)
