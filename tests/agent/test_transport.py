"""Where objects come from: this host's own, the origin with a lease, the swarm without one, and a place in the row
when nobody gives leases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kiosk.agent.access import Access, turn
from kiosk.agent.bucket import Limited
from kiosk.agent.pace import Pace
from kiosk.agent.shared import Shared
from kiosk.agent.source import AgentSource, Place, fraction
from kiosk.errors import StorageError
from kiosk.model.manifest import Object
from kiosk.model.names import parse_ref
from kiosk.store.objects import MissingObject, named

REF = parse_ref("worker@2")
DATA = [bytes([n]) * (1000 + n) for n in range(12)]
OBJECTS = [named(d) for d in DATA]


class Origin:
    """A source that writes down what it was asked for."""

    def __init__(self) -> None:
        self.read_: list[str] = []

    def read(self, wanted: Object, stop: threading.Event | None = None) -> bytes:
        self.read_.append(wanted.digest)
        for data, one in zip(DATA, OBJECTS, strict=True):
            if one == wanted:
                return data
        raise MissingObject("not there")

    def has(self, wanted: Object) -> bool:
        return wanted in OBJECTS


class Daemon:
    """The other end of the talk: answers questions for leases with what a test has set."""

    def __init__(self, *leases: dict[str, Any] | None, fanout: int = 0) -> None:
        self.leases = list(leases)
        self.fanout = fanout
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.listener: Callable[[dict[str, Any]], None] | None = None

    def say(self, what: str, **fields: Any) -> None:
        self.said.append((what, fields))
        if what == "lease" and not fields["done"] and self.leases and self.listener:
            given = self.leases.pop(0)
            threading.Thread(target=self.listener, args=({"lease": given, "fanout": self.fanout},)).start()

    def kinds(self, what: str) -> list[dict[str, Any]]:
        return [fields for kind, fields in self.said if kind == what]


def lease(granted: bool = True, fanout: int = 1, slot: int = 0, retry: float = 0.5) -> dict[str, Any]:
    return {
        "granted": granted,
        "seconds": 60 if granted else 0,
        "retry": retry,
        "slot": slot,
        "fanout": fanout,
    }


def source(origin: Origin, daemon: Daemon, folder: Path, **more: Any) -> AgentSource:
    more.setdefault("shared", Shared(folder))
    return AgentSource(origin, daemon, REF, Place("node-1", 1e9), torrent=("ab" * 32, "/torrent"), **more)


def test_a_host_alone_reads_from_the_origin_and_the_swarm_is_not_asked(tmp_path: Path) -> None:
    origin, daemon = Origin(), Daemon(lease(fanout=1))
    one = source(origin, daemon, tmp_path)
    one.announce(OBJECTS, 0)
    assert [one.read(o) for o in OBJECTS] == DATA
    assert origin.read_ == [o.digest for o in OBJECTS], "in the order of the file, each once"
    assert daemon.kinds("want") == []
    assert [h["digest"] for h in daemon.kinds("have")] == origin.read_
    assert one.bytes == {"http": sum(map(len, DATA)), "swarm": 0, "local": 0}
    one.close()
    assert daemon.kinds("lease")[-1]["done"]


def test_what_this_host_shares_already_is_not_read_again(tmp_path: Path) -> None:
    origin, daemon = Origin(), Daemon(lease())
    shared = Shared(tmp_path)
    for data, wanted in zip(DATA[:6], OBJECTS[:6], strict=True):
        shared.write(wanted, data)
    shared.path(OBJECTS[2].digest).write_bytes(b"x" * OBJECTS[2].size)
    one = source(origin, daemon, tmp_path)
    one.announce(OBJECTS, 0)
    assert [one.read(o) for o in OBJECTS] == DATA
    assert sorted(origin.read_) == sorted(o.digest for o in [OBJECTS[2], *OBJECTS[6:]])
    assert one.bytes["local"] == sum(len(d) for d in DATA[:6]) - len(DATA[2])


def test_without_a_lease_the_swarm_brings_everything(tmp_path: Path) -> None:
    origin, daemon = Origin(), Daemon(lease(granted=False, fanout=40, retry=1000))
    one = source(origin, daemon, tmp_path)
    one.announce(OBJECTS, 0)

    def swarm() -> None:
        for data, wanted in zip(reversed(DATA), reversed(OBJECTS), strict=True):
            Shared(tmp_path).write(wanted, data)
            assert daemon.listener
            daemon.listener({"object": wanted.digest})

    threading.Timer(0.1, swarm).start()
    assert [one.read(o) for o in OBJECTS] == DATA
    assert origin.read_ == []
    assert [o for o, _ in daemon.kinds("want")[0]["objects"]] == [o.digest for o in OBJECTS]
    assert one.bytes["swarm"] == sum(map(len, DATA))


def test_a_swarm_that_brings_wrong_bytes_changes_nothing(tmp_path: Path) -> None:
    origin = Origin()
    daemon = Daemon(lease(granted=False, fanout=40, retry=0.6), lease(fanout=40))
    one = source(origin, daemon, tmp_path)
    one.announce(OBJECTS[:1], 0)
    path = Shared(tmp_path).path(OBJECTS[0].digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"y" * OBJECTS[0].size)
    assert daemon.listener
    daemon.listener({"object": OBJECTS[0].digest})
    assert one.read(OBJECTS[0]) == DATA[0]
    assert path.read_bytes() == DATA[0]


def test_several_lease_holders_begin_at_several_places(tmp_path: Path) -> None:
    assert [fraction(n) for n in range(5)] == [0, 0.5, 0.25, 0.75, 0.125]
    origin, daemon = Origin(), Daemon(lease(fanout=40, slot=1))
    one = source(origin, daemon, tmp_path)
    one.announce(OBJECTS, 0)
    assert [one.read(o) for o in OBJECTS] == DATA
    assert origin.read_[0] in {o.digest for o in OBJECTS[6:]}
    assert len(origin.read_) == len(OBJECTS)


@pytest.mark.parametrize("running", [0, 2])
def test_where_no_threads_can_be_started_the_readers_read_themselves(running: int, tmp_path: Path) -> None:
    origin, daemon = Origin(), Daemon(fanout=40)
    one = source(origin, daemon, tmp_path)
    one.announce(OBJECTS, 0)
    assert daemon.listener is not None
    with few_threads(running):
        daemon.listener({"lease": lease(fanout=40), "fanout": 40})
    assert [one.read(o) for o in OBJECTS] == DATA
    assert len(origin.read_) == len(OBJECTS)
    with one._changed:
        assert one._changed.wait_for(lambda: one._ahead == 0, 10)


@contextmanager
def few_threads(running: int) -> Iterator[None]:
    """After so many more threads there is no memory for the stack of another."""
    start, left = threading.Thread.start, running

    def counted(thread: threading.Thread) -> None:
        nonlocal left
        threading.stack_size(0 if left else 1 << 46)
        left -= 1
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", counted)
        try:
            yield
        finally:
            threading.stack_size(0)


def test_indexes_and_the_like_need_no_lease(tmp_path: Path) -> None:
    origin, daemon = Origin(), Daemon()
    assert source(origin, daemon, tmp_path).read(OBJECTS[0]) == DATA[0]
    assert daemon.said == []


def test_a_stopped_fetch_does_not_wait_for_the_swarm(tmp_path: Path) -> None:
    one = source(Origin(), Daemon(lease(granted=False, retry=1000, fanout=9)), tmp_path)
    one.announce(OBJECTS, 0)
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(Exception, match="stopped"):
        one.read(OBJECTS[0], stop)


def test_where_sharing_has_no_room_the_fetch_goes_on(tmp_path: Path) -> None:
    one = source(Origin(), daemon := Daemon(lease()), tmp_path, room=lambda _needs, _kept: False)
    one.announce(OBJECTS, 0)
    assert one.read(OBJECTS[0]) == DATA[0]
    assert not (tmp_path / "objects").exists()
    assert daemon.kinds("have") == []


def test_where_the_fetch_has_no_room_it_does_not_begin(tmp_path: Path) -> None:
    def full(_needs: int, _kept: int) -> bool:
        raise StorageError("no room")

    one = source(origin := Origin(), Daemon(lease()), tmp_path, room=full)
    with pytest.raises(StorageError):
        one.announce(OBJECTS, 1 << 40)
    assert origin.read_ == []


def test_agents_that_lose_the_kiosk_come_to_the_origin_one_after_the_other() -> None:
    size, rate, hosts = 10**9, 1.25e8, 500
    turns = sorted(turn(f"node-{n}", "worker", "2", hosts, size, rate) for n in range(hosts))
    assert turns[0] < 60
    assert turns[-1] <= hosts * size / rate
    load = max(sum(a <= t < a + 80 for t in turns) for a in range(0, 4000, 80))
    assert load < 25, "ten a time, more or less, each takes eight seconds alone"
    assert turn("node-1", "worker", "2", 1, size, rate) == 0
    unknown = [turn(f"node-{n}", "worker", "2", 0, size, rate) for n in range(100)]
    assert max(unknown) > 500, "a fleet whose size nobody has told is not one host"


class Time:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_access_asks_again_and_takes_its_turn_when_nobody_answers() -> None:
    time, asked = Time(), []
    one = Access(lambda: asked.append(time.now), lambda fanout: fanout * 10.0, time)
    one.begin()
    assert not one.granted()
    one.answer({"granted": False, "seconds": 0, "retry": 5, "slot": 0, "fanout": 7}, 7)
    time.now += 4
    assert not one.granted()
    time.now += 2
    assert not one.granted()
    assert len(asked) == 2
    time.now += 31  # nobody answers: the fan-out known last gives 70 seconds
    assert not one.granted()
    time.now += 69
    assert not one.granted()
    time.now += 2
    assert one.granted()
    one.answer({"granted": False, "seconds": 0, "retry": 5, "slot": 0, "fanout": 7}, 7)
    assert not one.granted(), "the kiosk is back, and decides"


def test_a_kiosk_that_never_gives_a_lease_can_not_keep_a_host_from_the_origin_for_ever() -> None:
    time = Time()
    one = Access(lambda: None, lambda _fanout: 100.0, time)
    one.begin()
    for _ in range(4000):
        one.answer({"granted": False, "seconds": 0, "retry": 10, "slot": 0, "fanout": 7}, 7)
        time.now += 11
        if one.granted():
            break
    assert 6 * 3600 < time.now - 1000 < 6 * 3600 + 200


def test_a_bandwidth_limit_holds_on_average() -> None:
    time = Time()
    limited = Limited(Origin(), 1000, monotonic=time)
    pauses = [limited.reserve(500) for _ in range(5)]
    assert pauses == [0, 0.5, 1, 1.5, 2]
    time.now += 10
    assert limited.reserve(500) == 0


def test_events_that_bring_nothing_are_followed_less_and_less_often() -> None:
    time = Time()
    pace = Pace(300, time, lambda: 0.5)
    runs = 0
    for _ in range(3600):
        time.now += 1
        if pace.after_event() <= time.now:
            pace.begun()
            pace.ended_well(fruitful=False, left=86400)
            runs += 1
    assert runs < 25
    pace.ended_well(fruitful=True, left=86400)
    assert pace.after_event() == time.now


def test_failures_are_tried_again_ever_later_and_expiry_is_not_slept_through() -> None:
    time = Time()
    pace = Pace(300, time, lambda: 1.0)
    pauses = [pace.ended_badly() - time.now for _ in range(10)]
    assert pauses[:3] == [3, 6, 12]
    assert pauses[-1] == 900
    assert pace.ended_well(fruitful=False, left=1000) - time.now == 950
    assert pace.ended_well(fruitful=False, left=-5) - time.now == 60
    assert 0.5 * 300 <= pace.next_poll() - time.now <= 1.5 * 300
