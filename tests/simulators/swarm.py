"""Hosts that share objects through real libtorrent sessions, each at its own address of the loopback network."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kiosk.files import write
from kiosk.model.manifest import Object
from kiosk.store.directory import DirectoryStore
from kiosk.swarm import make
from kiosk.swarm.options import Options
from kiosk.swarm.session import Complete, Event, Session
from tests.simulators.published import bytes_of

QUICK = Options(peers=("127.0.0.0/8",), patience=1, stall=0.5)
SECONDS = 30.0
_addresses = itertools.count(2)


@dataclass(frozen=True)
class Shared:
    """The objects of a version, its torrent, and the store that has them all."""

    store: DirectoryStore
    objects: tuple[Object, ...]
    infohash: str
    data: bytes

    @property
    def digests(self) -> list[str]:
        return [o.digest for o in self.objects]

    @property
    def size(self) -> int:
        return sum(o.size for o in self.objects)


def version(folder: Path, seeds: Sequence[str], size: int = 200_000) -> Shared:
    """A version whose objects are made of these words."""
    store = DirectoryStore(folder)
    objects = tuple(store.write(bytes_of(seed, size)) for seed in seeds)
    infohash, data = make.torrent(store, objects, make.Nothing())
    return Shared(store, objects, infohash, data)


@dataclass
class Host:
    """A hypervisor."""

    session: Session
    folder: Path
    address: tuple[str, int]
    events: list[Event] = field(default_factory=list)

    def poll(self) -> None:
        self.events += self.session.poll()

    def came(self) -> list[str]:
        """The objects that came from peers."""
        return [e.digest for e in self.events if isinstance(e, Complete)]

    def holds(self, version: Shared) -> bool:
        """Whether all of a version is on disk, byte for byte."""
        store = DirectoryStore(self.folder)
        return all(store.read(o) for o in version.objects)

    def fetch(self, version: Shared, *peers: Host, trackers: Sequence[str] = ()) -> None:
        """Begins to fetch all of a version."""
        self.session.add(version.data, version.infohash, trackers=trackers)
        self.session.want(version.infohash, version.digests)
        self.session.connect(version.infohash, [p.address for p in peers])


@contextlib.contextmanager
def host(folder: Path, options: Options = QUICK, address: str | None = None) -> Iterator[Host]:
    """A session at its own address, for as long as the block lasts."""
    address = address or f"127.0.{os.getpid() % 250 + 1}.{next(_addresses) % 250 + 1}"
    with Session(folder, folder / "whole", replace(options, listen=(f"{address}:0",))) as session:
        yield Host(session, folder, (address, session.port))


@contextlib.contextmanager
def seeder(version: Shared, options: Options = QUICK) -> Iterator[Host]:
    """A host that has all of a version: its store's own folder."""
    with host(version.store.repository, options) as made:
        assert len(made.session.add(version.data, version.infohash)) == len(version.objects)
        yield made


def until(condition: Callable[[], object], *hosts: Host, seconds: float = SECONDS) -> None:
    """Lets the hosts go on until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not happen: {[h.events for h in hosts]}"
        hosts[0].session.wait(0.05)
        for one in hosts:
            one.poll()


def done(*hosts: Host) -> Callable[[], bool]:
    """Whether all that these hosts want has come."""
    return lambda: not any(h.session.missing(i) for h in hosts for i in h.session.torrents)


def main() -> None:
    """A host in a process of its own, which can be stopped and killed: `FOLDER TORRENT INFOHASH LIMIT [PEER PORT]`.
    Writes its address, and then each object that came, on its standard output."""
    folder, torrent, infohash, limit = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    address = f"127.0.{os.getpid() % 250 + 1}.{os.getpid() // 250 % 250 + 1}"
    options = replace(QUICK, listen=(f"{address}:0",), upload_limit=limit, download_limit=limit)
    session = Session(folder, folder / "whole", options)
    there = session.add(torrent.read_bytes(), infohash)
    print(address, session.port, len(there), flush=True)
    if len(sys.argv) > 5:
        session.connect(infohash, [(sys.argv[5], int(sys.argv[6]))])
        session.want(infohash, sys.argv[7:])
    while True:
        session.wait(1)
        for event in session.poll():
            if isinstance(event, Complete):
                print(event.digest, flush=True)


def remember_as_whole(folder: Path, objects: Sequence[Object]) -> None:
    """Writes a host's memory as if these objects had been read and were right."""
    lines = []
    for one in objects:
        name = one.digest.removeprefix("sha256:")
        lines.append(f"{name} {(folder / 'objects' / name[:2] / name).stat().st_mtime_ns}\n")
    write(folder / "whole", "".join(sorted(lines)).encode())


if __name__ == "__main__":
    main()
