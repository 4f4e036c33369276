"""The daemon's part in swarms, with real sessions."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator
from pathlib import Path

from kiosk.agent.swarm import Joined
from kiosk.store.objects import path_of
from kiosk.swarm.session import Session
from tests.simulators.swarm import Shared, done, host, seeder, until, version


def words(count: int) -> list[str]:
    return [f"object-{n}" for n in range(count)]


@contextlib.contextmanager
def joined(session: Session) -> Iterator[Joined]:
    made = Joined(session, (), 0, uploads_every=0.2)
    try:
        yield made
    finally:
        made.close()


def news(one: Joined, seconds: float) -> bool:
    """Waits as the daemon does."""
    return bool(select.select([one.fileno()], [], [], seconds)[0])


def torrent(one: Shared, folder: Path) -> Path:
    file = folder / "it.torrent"
    file.write_bytes(one.data)
    return file


def test_what_is_given_is_news_though_nothing_is_fetched(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(20))
    with seeder(one) as a, joined(a.session) as giver, host(tmp_path / "b") as b:
        assert not news(giver, 0.5)
        b.fetch(one, a)
        until(done(b), b)
        while giver.uploaded < one.size:
            assert news(giver, 30)
            assert giver.completed() == []
        assert giver.uploaded == one.size
        assert b.session.stats().sent == 0
        news(giver, 1)
        giver.completed()
        assert not news(giver, 0.5), "what was told is no news"


def test_what_was_removed_to_make_room_is_not_shared_once_the_run_says_what_it_shares(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(5))
    with seeder(one) as a, joined(a.session) as holder:
        (a.folder / path_of(one.digests[0])).unlink()
        holder.seed([(one.infohash, torrent(one, tmp_path))])
        until(lambda: not a.session.has(one.infohash, one.digests[0]), a)
        assert all(a.session.has(one.infohash, d) for d in one.digests[1:])
        holder.want(one.infohash, torrent(one, tmp_path), one.digests)
        assert news(holder, 10)
        assert set(holder.completed()) == set(one.digests[1:]), "it is wanted like any other"
