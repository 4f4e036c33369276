"""Hosts share the objects of versions: with whom, how fast they find them, and what they do when others vanish."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kiosk.errors import NetworkError, NotFoundError, UsageError
from kiosk.store.objects import path_of
from kiosk.swarm.options import Options
from kiosk.swarm.session import Banned, Complete, Failed, Session, Stalled
from tests.simulators.swarm import QUICK, done, host, seeder, until, version

LIGHT = """
import sys
import kiosk.swarm.session
print([m for m in ("pydantic", "requests", "tuf", "zstandard", "cryptography", "typer") if m in sys.modules])
"""


@contextlib.contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A host in another process; it has written its address on its first line."""
    command = [sys.executable, "-m", "tests.simulators.swarm", *(str(a) for a in arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def first_line(started: subprocess.Popen[str]) -> list[str]:
    assert started.stdout is not None
    return started.stdout.readline().split()


def words(count: int, prefix: str = "object") -> list[str]:
    return [f"{prefix}-{n}" for n in range(count)]


def test_the_daemon_stays_light() -> None:
    found = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_three_hosts_have_the_version_of_one_and_help_each_other(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(30))
    slow = replace(QUICK, upload_limit=8_000_000)
    with seeder(one, slow) as a, host(tmp_path / "b") as b, host(tmp_path / "c") as c:
        b.fetch(one, a)
        c.fetch(one, a, b)
        until(done(b, c), b, c, a)
        assert b.holds(one) and c.holds(one)
        assert sorted(b.came()) == sorted(one.digests), "each is told once"
        assert b.session.stats().sent + c.session.stats().sent > 0
        assert a.session.stats().sent < 2 * one.size
        assert not b.session.missing(one.infohash)


def test_only_what_is_wanted_is_fetched(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(10))
    with seeder(one) as a, host(tmp_path / "b") as b:
        b.session.add(one.data, one.infohash, peers=[a.address])
        assert b.session.want(one.infohash, one.digests[:3]) == set(one.digests[:3])
        until(done(b), b, a)
        b.session.want(one.infohash, one.digests[2:5])
        until(done(b), b, a)
        assert sorted(b.came()) == sorted(one.digests[:5])
        held = {p.name for p in (b.folder / "objects").rglob("*") if p.is_file()}
        assert held == {d[7:] for d in one.digests[:5]}
        with pytest.raises(NotFoundError):
            b.session.want(one.infohash, ["sha256:" + "0" * 64])
        with pytest.raises(NotFoundError):
            b.session.want("0" * 64, one.digests)


def test_who_was_done_and_wants_more_turns_to_the_peers_it_knew(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(6))
    with seeder(one) as a, host(tmp_path / "b") as b:
        b.session.add(one.data, one.infohash, peers=[a.address], want=one.digests[:3])
        until(done(b), b, a)
        until(lambda: not b.session.stats().peers, b, a)  # there is nothing to do between them
        b.session.want(one.infohash, one.digests)
        until(done(b), b, a)
        assert sorted(b.came()) == sorted(one.digests)


def test_who_holds_yesterdays_version_helps_with_todays(tmp_path: Path) -> None:
    yesterday = version(tmp_path / "yesterday", words(20))
    today = version(tmp_path / "today", [*words(18), "new-1", "new-2"])
    with seeder(yesterday) as holder, host(tmp_path / "b") as b:
        assert len(holder.session.add(today.data, today.infohash)) == 18
        b.session.add(today.data, today.infohash, peers=[holder.address])
        b.session.want(today.infohash, today.digests)
        until(lambda: len(b.came()) == 18, b, holder)
        assert len(b.session.missing(today.infohash)) == 2
        assert holder.session.stats().received == 0, "it was not asked to fetch"


def test_an_object_that_came_over_http_is_shared_at_once(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(3))
    with host(tmp_path / "a") as a, host(tmp_path / "b") as b:
        a.session.add(one.data, one.infohash)
        assert not a.session.have(one.digests[0]), "it is not there"
        b.fetch(one, a)
        for digest in one.digests[:2]:
            path = a.folder / path_of(digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((one.store.repository / path_of(digest)).read_bytes())
            assert a.session.have(digest)
        until(lambda: len(b.came()) == 2, b, a)
        assert a.session.has(one.infohash, one.digests[0])
        assert b.session.missing(one.infohash) == {one.digests[2]}
        damaged = a.folder / path_of(one.digests[2])
        damaged.parent.mkdir(parents=True, exist_ok=True)
        damaged.write_bytes(bytes(one.objects[2].size))
        assert not a.session.have(one.digests[2]), "it is not right"


def test_what_comes_for_one_version_is_there_for_another(tmp_path: Path) -> None:
    old = version(tmp_path / "old", words(6))
    new = version(tmp_path / "new", [*words(6), "more"])
    with seeder(old) as a, host(tmp_path / "b") as b, host(tmp_path / "c") as c:
        b.session.add(new.data, new.infohash)
        b.fetch(old, a)
        c.fetch(new, b)
        until(lambda: len(c.came()) == 6, b, c, a)
        assert b.session.has(new.infohash, old.digests[0])
        b.session.remove(old.infohash)
        assert b.session.torrents == {new.infohash}
        assert b.session.stats().received >= old.size, "what was moved stays counted"


def test_what_is_not_right_on_disk_is_fetched_again(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(5))
    with seeder(one) as a, host(tmp_path / "b") as b:
        b.fetch(one, a)
        until(done(b), b, a)
        path = b.folder / path_of(one.digests[0])
        path.write_bytes(bytes(one.objects[0].size))
        b.session.lost(one.digests[0])
        assert b.session.want(one.infohash, one.digests) == {one.digests[0]}
        b.session.connect(one.infohash, [a.address])
        until(done(b), b, a)
        assert b.holds(one)


def test_objects_that_were_removed_are_not_offered_any_more(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(6))
    with host(tmp_path / "b") as b, host(tmp_path / "c") as c:
        with seeder(one) as a:
            b.fetch(one, a)
            until(done(b), b, a)
        for digest in one.digests[:2]:
            (b.folder / path_of(digest)).unlink()
        assert b.session.look() == set(one.digests[:2])
        assert not b.session.look(), "said once"
        c.fetch(one, b)
        until(lambda: len(c.came()) == 4, c, b)
        assert c.session.missing(one.infohash) == set(one.digests[:2])
        assert [e for e in b.events if not isinstance(e, Complete)] == []
        with seeder(one) as a:
            b.session.want(one.infohash, one.digests)
            b.session.connect(one.infohash, [a.address])
            until(done(b, c), b, c, a)
        assert b.holds(one) and c.holds(one), "what came back is offered again"


def test_who_is_asked_for_what_was_removed_goes_on_with_the_rest(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(30))
    other = version(tmp_path / "other", words(31))
    with seeder(one) as a, host(tmp_path / "c") as c:
        a.session.add(other.data, other.infohash)
        for digest in one.digests[::3]:
            (one.store.repository / path_of(digest)).unlink()
        c.fetch(one, a)
        lost = set(one.digests[::3])
        until(lambda: set(c.came()) == set(one.digests) - lost, c, a)
        assert not any(a.session.has(one.infohash, d) or a.session.has(other.infohash, d) for d in lost)
        assert not any(isinstance(e, Failed) for e in a.events), "that is no reason to stop"
        assert not any(isinstance(e, Banned) for e in c.events), "no wrong byte was sent"
        with seeder(other) as b:
            b.session.add(one.data, one.infohash)
            c.session.connect(one.infohash, [b.address])
            until(done(c), c, a, b)


def test_an_object_that_was_removed_and_comes_anew_is_not_given_away_half(tmp_path: Path) -> None:
    old = version(tmp_path / "old", words(3))
    new = version(tmp_path / "new", words(4))
    slow = replace(QUICK, upload_limit=100_000)
    with seeder(old) as b, seeder(new, slow) as a, host(tmp_path / "c") as c:
        (b.folder / path_of(old.digests[0])).unlink()
        b.session.add(new.data, new.infohash, want=[new.digests[0]])
        assert not b.session.has(old.infohash, old.digests[0])
        b.session.connect(new.infohash, [a.address])
        until(lambda: b.session.stats().received, b, a)
        c.fetch(old, b)
        until(done(b, c), b, c, a)
        assert c.holds(old)
        assert not any(isinstance(e, Banned) for e in c.events)


def test_killed_in_the_middle_it_goes_on_from_what_is_there(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(30))
    torrent = tmp_path / "it.torrent"
    torrent.write_bytes(one.data)
    with seeder(one) as a:
        arguments = (tmp_path / "b", torrent, one.infohash, 3_000_000, *a.address, *one.digests)
        with process(*arguments) as killed:
            first_line(killed)
            came = [first_line(killed)[0] for _ in range(8)]
            killed.kill()
        with host(tmp_path / "b") as b:
            there = b.session.add(one.data, one.infohash)
            assert set(came) <= there
            b.fetch(one, a)
            until(done(b), b, a)
            assert b.holds(one)
            assert len(b.came()) == len(one.objects) - len(there)


def test_a_peer_that_stalls_is_got_around(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(30))
    other = version(tmp_path / "other", words(30))
    torrent = tmp_path / "it.torrent"
    torrent.write_bytes(one.data)
    limited = replace(QUICK, download_limit=6_000_000)
    with (
        process(one.store.repository, torrent, one.infohash, 0) as frozen,
        seeder(other) as a,
        host(tmp_path / "b", limited) as b,
    ):
        address, port, _ = first_line(frozen)
        b.fetch(one)
        b.session.connect(one.infohash, [(address, int(port))])
        until(lambda: len(b.came()) > 3, b)
        os.kill(frozen.pid, signal.SIGSTOP)
        b.events.clear()
        until(lambda: any(isinstance(e, Stalled) for e in b.events), b)
        b.session.connect(one.infohash, [a.address])
        until(done(b), b, a)
        assert b.holds(one)


def test_a_host_that_nobody_serves_says_so_once(tmp_path: Path) -> None:
    now = [0.0]
    one = version(tmp_path / "kiosk", words(2))
    options = replace(QUICK, listen=("127.0.0.1:0",), stall=30.0)
    with Session(tmp_path / "b", tmp_path / "b/whole", options, monotonic=lambda: now[0]) as session:
        session.add(one.data, one.infohash)
        session.want(one.infohash, one.digests)
        assert not session.poll()
        now[0] = 31.0
        assert session.poll() == [Stalled(one.infohash, 2)]
        assert not session.poll()


def test_thousands_of_objects_are_no_trouble(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(2000), 100)
    with seeder(one) as a, host(tmp_path / "b") as b:
        b.session.add(one.data, one.infohash, peers=[a.address])
        b.session.want(one.infohash, one.digests[::40])
        until(done(b), b, a)
        assert len(b.came()) == 50


def test_a_second_start_reads_nothing_again(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(5))
    with seeder(one):
        pass
    for path in (one.store.repository / "objects").rglob("*"):
        if path.is_file():
            state = path.stat()
            path.write_bytes(bytes(state.st_size))
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with seeder(one):
        pass  # they count as whole, though they could not be read so
    (one.store.repository / "whole").unlink()
    with host(one.store.repository) as again:
        assert not again.session.add(one.data, one.infohash)


def test_limits_hold_among_neighbours(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(10), 50_000)
    with seeder(one) as a, host(tmp_path / "b") as b:
        a.session.limit(upload=100_000, download=0)
        b.fetch(one, a)
        until(lambda: b.came(), b, a)
        assert b.session.stats().receiving < 200_000
        a.session.limit(upload=0, download=0)
        until(done(b), b, a)


def test_neighbours_of_the_own_rack_come_first(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(30), 50_000)
    options = replace(QUICK, near=("127.252.0.0/16",), far_upload_limit=200_000)
    alone = replace(QUICK, peers=("127.0.0.0/16",))  # they do not help each other
    with (
        seeder(one, options) as a,
        host(tmp_path / "far", alone, address="127.251.0.1") as far,
        host(tmp_path / "near", alone, address="127.252.0.1") as near,
    ):
        far.fetch(one, a)
        near.fetch(one, a)
        until(done(near), near, far, a)
        assert len(far.came()) < 20


def test_an_address_that_is_taken_is_said(tmp_path: Path) -> None:
    with host(tmp_path / "a") as a, pytest.raises(NetworkError, match="can't listen"):
        Session(tmp_path / "b", tmp_path / "w", Options(listen=("{}:{}".format(*a.address),)))


def test_a_closed_session_leaves_its_address(tmp_path: Path) -> None:
    with host(tmp_path / "a") as a:
        address = "{}:{}".format(*a.address)
    with Session(tmp_path / "a", tmp_path / "w", Options(listen=(address,))) as again:
        assert again.port == a.address[1]


def test_networks_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a network"):
        Session(tmp_path / "b", tmp_path / "w", replace(QUICK, peers=("10.0.0.0/33",)))
