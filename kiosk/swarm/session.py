"""A host's part in swarms: one libtorrent session that shares the objects in the host's `objects/` folder.

* What is taken from peers is right by the torrent's hashes, which the signed infohash vouches for, and by the name
  of the object, which its reader checks. A peer that sends wrong bytes is banned, and costs no more than those.
* Only allowed addresses are connected to, and only encrypted; nothing is asked of anybody but trackers and peers.
* Every object on disk that a torrent names is shared, whichever way it came and whoever wants it. Nothing is
  fetched that was not wanted. What is not on disk any more is not offered once somebody asked for it in vain, or
  `look` was called, or it is wanted again.
* Killed at any time, the next session finds what is on disk, and goes on from there.

Only the standard library and libtorrent are imported here: the agent keeps this in memory day and night. All calls
may come from any thread. `add`, `have` and `poll` read files; `add` and `close` may take seconds.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Stop
from typing import cast

import libtorrent as lt

from kiosk.errors import NetworkError, NotFoundError
from kiosk.log import logger
from kiosk.swarm import options as opts
from kiosk.swarm.options import Options
from kiosk.swarm.torrent import Torrent, read
from kiosk.swarm.whole import Whole

log = logger(__name__)

WANTED, UNWANTED = 4, 0
"""libtorrent's priorities of pieces."""
SETTLE = 0.05
"""Seconds after which it is looked again whether an object is in its file."""
MOST_KNOWN = 200
"""Peers of a torrent that are remembered when it begins anew; trackers name others."""
LATE = 30.0
"""Seconds after which an object that is not there has not been written."""
OFF = lt.torrent_flags.auto_managed | lt.torrent_flags.paused | lt.torrent_flags.update_subscribe
ON = (
    lt.torrent_flags.no_verify_files
    | lt.torrent_flags.disable_dht
    | lt.torrent_flags.disable_lsd
    | lt.torrent_flags.disable_pex
)


@dataclass(frozen=True)
class Complete:
    """An object came from peers and is on disk, read again and right."""

    infohash: str
    digest: str


@dataclass(frozen=True)
class Banned:
    """A peer sent wrong bytes and is not listened to any more."""

    infohash: str
    address: str


@dataclass(frozen=True)
class TrackerFailed:
    """A tracker did not answer, or refused. Peers that are known go on, and it is asked again."""

    infohash: str
    url: str
    what: str


@dataclass(frozen=True)
class Stalled:
    """Objects are wanted, and nothing has come for `Options.stall` seconds. Said once for each time."""

    infohash: str
    missing: int


@dataclass(frozen=True)
class Failed:
    """A torrent stopped, mostly for want of space. `resume` lets it try again."""

    infohash: str
    what: str


Event = Complete | Banned | TrackerFailed | Stalled | Failed


@dataclass(frozen=True)
class Stats:
    """Bytes of objects from and to peers since the session began (wrong ones and those that came twice included),
    bytes a second now, and connected peers."""

    received: int = 0
    sent: int = 0
    receiving: int = 0
    sending: int = 0
    peers: int = 0


@dataclass
class _Member:
    """A torrent that the host takes part in."""

    torrent: Torrent
    handle: lt.torrent_handle
    have: bytearray
    trackers: tuple[str, ...]
    wanted: set[int] = field(default_factory=set)
    moved: int = 0
    since: float = 0.0
    stalled: bool = False
    known: set[tuple[str, int]] = field(default_factory=set)
    banned: set[tuple[str, int]] = field(default_factory=set)
    met: bool = False
    failed: bool = False
    turned: bool = False
    said_done: bool = False

    def has(self, number: int) -> bool:
        return all(self.have[p] for p in self.torrent.pieces(number))


@dataclass
class _Late:
    """An object that has come and may not be in its file yet."""

    infohash: str
    number: int
    since: float
    flushed: bool = False


class Session:
    """The swarms of the host whose objects stand in `folder`/objects. `memory` is a file that remembers which of
    them are whole. A context manager; NetworkError when none of the addresses can be listened at."""

    def __init__(
        self,
        folder: Path,
        memory: Path,
        options: Options | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options or Options()
        self._folder = folder
        self._monotonic = monotonic
        self._lock = threading.RLock()
        self._members: dict[str, _Member] = {}
        self._whole = Whole(folder, memory)
        self._late: dict[str, _Late] = {}
        self._past = Stats()
        self._closed = False
        folder.mkdir(parents=True, exist_ok=True)
        params = lt.session_params(cast("lt.settings_pack", opts.settings(self.options)))
        params.ip_filter = opts.ip_filter(self.options)
        self._session = lt.session(params)
        opts.peer_classes(self._session, self.options)
        if not self._session.is_listening():
            where = ", ".join(self.options.listen)
            raise NetworkError("can't listen there for peers", where=where, hint="Does another process?")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Where peers connect to."""
        return self._session.listen_port()

    @property
    def torrents(self) -> frozenset[str]:
        """The infohashes of all that were added."""
        with self._lock:
            return frozenset(self._members)

    def add(
        self,
        data: bytes,
        infohash: str,
        *,
        trackers: Sequence[str] = (),
        peers: Iterable[tuple[str, int]] = (),
        want: Iterable[str] = (),
        stop: Stop | None = None,
    ) -> frozenset[str]:
        """Takes part in the torrent in `data`, the bytes of a .torrent; returns the digests of its objects that are
        on disk, which are shared from now on. VerificationError unless it is a version's and has this infohash.

        Objects that were not seen before are read, some seconds for 10 GB, until `stop` is set. `trackers` replace
        those that the torrent names. `want` is as in `want`, for a torrent that is not there yet: trackers are told
        from the first that something is fetched.
        """
        torrent = read(data, infohash)
        with self._lock:
            there = infohash in self._members
            if not there:
                sizes = list(zip(torrent.names, torrent.sizes, strict=True))
        found = frozenset() if there else frozenset(self._whole.find(sizes, stop))
        with self._lock:
            if infohash not in self._members:
                self._drop(self._gone(n for n in torrent.names if n not in found))
                have = bytearray(torrent.piece_count)
                for number, name in enumerate(torrent.names):
                    if name in found:
                        have[torrent.first[number] : torrent.first[number + 1]] = b"\1" * len(
                            torrent.pieces(number)
                        )
                announce = tuple(trackers) or torrent.trackers
                wanted = {torrent.known(digest) for digest in want}
                self._members[infohash] = self._start(torrent, have, announce, wanted)
            member = self._members[infohash]
            self._whole.save()
            self.connect(infohash, peers)
            return frozenset(f"sha256:{n}" for i, n in enumerate(member.torrent.names) if member.has(i))

    def _start(
        self,
        torrent: Torrent,
        have: bytearray,
        trackers: tuple[str, ...],
        wanted: set[int],
        banned: Collection[tuple[str, int]] = (),
    ) -> _Member:
        missing = {n for n in wanted if not all(have[p] for p in torrent.pieces(n))}
        priorities = [UNWANTED] * torrent.piece_count
        for number in missing:
            for piece in torrent.pieces(number):
                priorities[piece] = WANTED
        params = lt.load_torrent_buffer(torrent.data)
        params.save_path = str(self._folder)
        params.flags = (params.flags & ~OFF) | ON
        params.have_pieces = [bool(one) for one in have]
        params.piece_priorities = priorities
        params.trackers = list(trackers)
        params.banned_peers = list(banned)
        params.storage_mode = lt.storage_mode_t.storage_mode_sparse
        handle = self._session.add_torrent(params)
        member = _Member(torrent, handle, have, trackers, missing, since=self._monotonic())
        member.banned = set(banned)
        return member

    def want(self, infohash: str, digests: Iterable[str]) -> frozenset[str]:
        """Fetches these objects of a torrent, and no others of it any more; returns those that are yet to come, of
        which `poll` will say when they are there. NotFoundError for objects that are not in the torrent."""
        with self._lock:
            torrent = self._member(infohash).torrent
            wanted = {torrent.known(digest) for digest in digests}
            self._drop(self._gone(torrent.names[n] for n in wanted))
            member = self._member(infohash)
            missing = {number for number in wanted if not member.has(number)}
            if (
                missing and not member.wanted
            ):  # libtorrent would not connect again to those it has left as done
                self._begin_anew(infohash, missing)
                return frozenset(f"sha256:{torrent.names[n]}" for n in missing)
            changes = [(p, UNWANTED) for n in member.wanted - missing for p in torrent.pieces(n)]
            changes += [(p, WANTED) for n in missing - member.wanted for p in torrent.pieces(n)]
            if changes:
                member.handle.prioritize_pieces(changes)
            emptied = bool(member.wanted) and not missing
            member.wanted = missing
            if emptied:
                self._announce(member)
            return frozenset(f"sha256:{torrent.names[n]}" for n in missing)

    def have(self, digest: str) -> bool:
        """Says that an object has come another way and is on disk: it is shared at once, in all torrents that name
        it. Whether it was there, and right."""
        name = digest.removeprefix("sha256:")
        with self._lock:
            numbers = ((m, m.torrent.number(digest)) for m in self._members.values())
            size = next((m.torrent.sizes[n] for m, n in numbers if n is not None), None)
        if size is None or not self._whole.check(name, size):
            return False
        with self._lock:
            self._share(name)
        return True

    def lost(self, digest: str) -> None:
        """Says that an object is not on disk any more, or not as it should be: it is not offered any more, and is
        fetched again where it is wanted. The torrents that name it lose their connections for a moment."""
        with self._lock:
            self._drop({digest.removeprefix("sha256:")})

    def look(self, stop: Stop | None = None) -> frozenset[str]:
        """Looks whether all that is offered is still on disk, and offers no more what is not; returns the digests of
        that. Reads what has changed since it was seen, until `stop` is set."""
        with self._lock:
            offered = {
                (name, m.torrent.sizes[n])
                for m in self._members.values()
                for n, name in enumerate(m.torrent.names)
                if m.has(n)
            }
        self._whole.find(offered, stop)
        if stop is not None and stop.is_set():
            return frozenset()
        with self._lock:
            gone = self._gone(name for name, _ in offered)
            self._drop(gone)
            return frozenset(f"sha256:{n}" for n in gone)

    def _gone(self, names: Iterable[str]) -> set[str]:
        """Those of these objects that are offered and not on disk."""
        gone = set()
        for name in set(names) - self._late.keys():
            numbers = ((m, m.torrent.number(name)) for m in self._members.values())
            size = next((m.torrent.sizes[n] for m, n in numbers if n is not None and m.has(n)), None)
            if size is not None and not self._whole.is_right(name, size):
                gone.add(name)
        return gone

    def _drop(self, names: Collection[str]) -> None:
        """Offers these objects no more. libtorrent can't forget a piece: each torrent that has one begins anew."""
        for name in names:
            self._whole.forget(name)
        for infohash, member in list(self._members.items()):
            numbers = (member.torrent.number(name) for name in names)
            pieces = [p for n in numbers if n is not None for p in member.torrent.pieces(n) if member.have[p]]
            if not pieces:
                continue
            log.info("%d pieces of %s are not here any more", len(pieces), infohash)
            for piece in pieces:
                member.have[piece] = 0
            self._begin_anew(infohash, member.wanted)

    def _begin_anew(self, infohash: str, wanted: set[int]) -> None:
        """Has libtorrent take a torrent for a new one. Peers that are known or banned stay so."""
        old = self._members[infohash]
        old.handle.replace_trackers([])  # or they might hear last that it has stopped
        self._stop(old)
        new = self._start(old.torrent, old.have, old.trackers, wanted, old.banned)
        new.known = old.known
        self._members[infohash] = new
        for address in old.known - old.banned:
            new.handle.connect_peer(address)

    def has(self, infohash: str, digest: str) -> bool:
        """Whether an object of a torrent is on disk, so far as is known."""
        with self._lock:
            member = self._member(infohash)
            return member.has(member.torrent.known(digest))

    def missing(self, infohash: str) -> frozenset[str]:
        """The wanted objects that are yet to come."""
        with self._lock:
            member = self._member(infohash)
            return frozenset(f"sha256:{member.torrent.names[n]}" for n in member.wanted)

    def connect(self, infohash: str, peers: Iterable[tuple[str, int]]) -> None:
        """Tries these peers (address and port), if they are allowed, as if a tracker had named them."""
        with self._lock:
            member = self._member(infohash)
            for address in list(peers)[:MOST_KNOWN]:
                if len(member.known) < MOST_KNOWN:
                    member.known.add(address)
                member.handle.connect_peer(address)

    def peers(self, infohash: str) -> list[tuple[str, int]]:
        """The peers that this host has connected to: where they listen, for the time when no tracker answers."""
        with self._lock:
            handle = self._member(infohash).handle
        outgoing = lt.peer_info.outgoing_connection
        return [(p.ip[0], p.ip[1]) for p in handle.get_peer_info() if p.flags & outgoing]

    def notify(self, descriptor: int) -> None:
        """Writes a byte to this file descriptor (of a pipe or socket that does not block) whenever `poll` has
        something to tell, for an event loop to wait on."""
        self._session.set_alert_fd(descriptor)

    def wait(self, seconds: float) -> None:
        """Waits until `poll` has something to tell, or for so long."""
        with self._lock:
            if self._late:
                seconds = min(seconds, SETTLE)
        self._session.wait_for_alert(round(seconds * 1000))

    def poll(self) -> list[Event]:
        """What has happened since the last call."""
        with self._lock:
            events: list[Event] = []
            for alert in self._session.pop_alerts():
                self._on(alert, events)
            self._settle(events)
            for infohash, member in list(self._members.items()):
                if member.met:
                    member.met = False
                    member.known.update(self.peers(infohash)[: MOST_KNOWN - len(member.known)])
                if member.wanted and self._is_stalled(member):
                    self._stalls(infohash, member, events)
            return events

    def _stalls(self, infohash: str, member: _Member, events: list[Event]) -> None:
        """Says so, and helps after lies: libtorrent asks honest peers that were mixed up in them for nothing any
        more, and does not take what came another way for the piece that a liar had begun."""
        names, sizes = member.torrent.names, member.torrent.sizes
        here = {n for n in member.wanted if self._whole.is_right(names[n], sizes[n])}
        for number in here - {late.number for late in self._late.values()}:
            for piece in member.torrent.pieces(number):
                self._finished(infohash, member, piece)
        if here or member.failed:
            self._begin_anew(infohash, member.wanted - here)
        if missing := len(member.wanted - here):
            events.append(Stalled(infohash, missing))

    def _on(self, alert: lt.alert, events: list[Event]) -> None:
        if isinstance(alert, lt.alerts_dropped_alert):
            for infohash, member in self._members.items():
                pieces = member.handle.status(lt.torrent_handle.query_pieces).pieces
                for piece, there in enumerate(pieces):
                    if there:
                        self._finished(infohash, member, piece)
        if not isinstance(alert, lt.torrent_alert):
            return
        infohash = str(alert.handle.info_hashes().v2) if alert.handle.is_valid() else ""
        found = self._members.get(infohash)
        if found is None or found.handle != alert.handle:  # or one that was stopped since
            return
        if isinstance(alert, lt.piece_finished_alert):
            self._finished(infohash, found, alert.piece_index)
        elif isinstance(alert, lt.peer_connect_alert):
            found.met = True
        elif isinstance(alert, lt.hash_failed_alert):
            found.failed = True
        elif isinstance(alert, lt.peer_ban_alert):
            log.warning("the peer %s sent wrong bytes and is banned", alert.endpoint[0])
            found.banned.add(alert.endpoint)
            events.append(Banned(infohash, alert.endpoint[0]))
        elif isinstance(alert, lt.tracker_announce_alert):
            found.said_done = alert.event in (lt.event_t.paused, lt.event_t.completed)
        elif isinstance(alert, lt.tracker_reply_alert):
            if found.turned and found.said_done == bool(found.wanted):  # the news came while it was asked
                self._announce(found)
            found.turned = False
        elif isinstance(alert, lt.tracker_error_alert):
            what = alert.failure_reason() or alert.error.message()
            events.append(TrackerFailed(infohash, alert.url, what))
        elif isinstance(alert, lt.torrent_error_alert | lt.file_error_alert):
            if gone := self._gone(found.torrent.names):
                self._drop(gone)
                return
            events.append(Failed(infohash, alert.error.message()))

    def _finished(self, infohash: str, member: _Member, piece: int) -> None:
        if member.have[piece]:
            return
        member.have[piece] = 1
        number = member.torrent.file_of(piece)
        if not member.has(number):
            return
        name = member.torrent.names[number]
        self._late[name] = _Late(infohash, number, self._monotonic())

    def _settle(self, events: list[Event]) -> None:
        """Tells of objects that have come once they are in their files (libtorrent knows them to be right before it
        has written them), and gives them to other torrents that lack them."""
        for name, late in list(self._late.items()):
            member = self._members.get(late.infohash)
            if member is None:
                del self._late[name]
            elif self._whole.check(name, member.torrent.sizes[late.number]):
                del self._late[name]
                self._came(member, late.number)
                events.append(Complete(late.infohash, f"sha256:{name}"))
                self._share(name)
            elif not late.flushed:
                member.handle.flush_cache()
                late.flushed = True
            elif self._monotonic() - late.since > LATE:
                del self._late[name]
                log.warning("%s was received, and is not right on disk; it is fetched again", name)
                self.lost(f"sha256:{name}")

    def _came(self, member: _Member, number: int) -> None:
        """Wants an object no more; the trackers are told at once who waits for nothing any more."""
        waited = bool(member.wanted)
        member.wanted.discard(number)
        if waited and not member.wanted:
            self._announce(member)

    def _announce(self, member: _Member) -> None:
        """Tells the trackers now what they would hear in a minute or two: it waits for something, or for nothing."""
        if member.trackers:
            member.turned = True
            member.handle.force_reannounce(0, -1, lt.reannounce_flags_t.ignore_min_interval)

    def _share(self, name: str) -> None:
        """Gives an object that is on disk to all torrents that lack it."""
        numbers = ((m, m.torrent.number(name)) for m in self._members.values())
        lacking = [(m, n) for m, n in numbers if n is not None and not m.has(n)]
        if lacking:
            with contextlib.suppress(FileNotFoundError):
                data = self._whole.path(name).read_bytes()
                for member, number in lacking:
                    _give(member, number, data)

    def _is_stalled(self, member: _Member) -> bool:
        """Whether it has begun to be so."""
        moved = member.handle.status(0).total_payload_download
        now = self._monotonic()
        if moved != member.moved:
            member.moved, member.since, member.stalled = moved, now, False
        elif not member.stalled and now - member.since >= self.options.stall:
            member.stalled = True
            return True
        return False

    def stats(self) -> Stats:
        """Counted over all torrents, those that were removed included."""
        with self._lock:
            total = self._past
            for member in self._members.values():
                total = _sum(total, member.handle.status(0))
            return total

    def limit(self, *, upload: int, download: int) -> None:
        """Sets the most bytes a second that are sent and received; 0 is no limit."""
        self._session.apply_settings({"upload_rate_limit": upload, "download_rate_limit": download})

    def pause(self, infohash: str) -> None:
        """Leaves the swarm until `resume`."""
        self._member(infohash).handle.pause()

    def resume(self, infohash: str) -> None:
        """Goes on after `pause` or a failure."""
        handle = self._member(infohash).handle
        handle.clear_error()
        handle.unset_flags(lt.torrent_flags.upload_mode)
        handle.resume()

    def remove(self, infohash: str) -> None:
        """Leaves a swarm for good. The objects stay on disk."""
        with self._lock:
            self._stop(self._member(infohash))
            del self._members[infohash]
            self._whole.save()

    def _stop(self, member: _Member) -> None:
        last = _sum(Stats(), member.handle.status(0))
        past = self._past
        self._past = Stats(past.received + last.received, past.sent + last.sent)
        self._session.remove_torrent(member.handle)

    def save(self) -> None:
        """Writes which objects are whole, so that a later session need not read them. Worth it now and then."""
        with self._lock:
            self._whole.save()

    def close(self) -> None:
        """Leaves all swarms, tells the trackers (for a second at most), and remembers what is on disk. No other call
        may follow."""
        with self._lock:
            if not self._closed:
                self.poll()
                self._closed = True
                self._whole.save()
                self._members.clear()
                del self._session  # its end waits for its threads

    def _member(self, infohash: str) -> _Member:
        with self._lock:
            try:
                return self._members[infohash]
            except KeyError:
                raise NotFoundError(f"no torrent {infohash[:80]!r} was added") from None


def _give(member: _Member, number: int, data: bytes) -> None:
    """Hands libtorrent an object's bytes, which it checks and writes where they stand already."""
    size = member.torrent.piece
    for at, piece in enumerate(member.torrent.pieces(number)):
        part = data[at * size : (at + 1) * size]
        member.handle.add_piece(piece, part, lt.torrent_handle.overwrite_existing)


def _sum(total: Stats, status: lt.torrent_status) -> Stats:
    return Stats(
        received=total.received + status.total_payload_download,
        sent=total.sent + status.total_payload_upload,
        receiving=total.receiving + status.download_payload_rate,
        sending=total.sending + status.upload_payload_rate,
        peers=total.peers + status.num_peers,
    )
