"""The tracker: published swarms alone, near peers first and far ones too, bounds, and rubbish."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from typing import Any
from urllib.parse import quote, urlencode

import libtorrent
import pytest

from kiosk.serve.tracker import ANSWERED, EXPIRES, OF_ONE_ADDRESS, OTHERS, Tracker

SWARM = hashlib.sha256(b"swarm").digest()[:20]


def tracker() -> Tracker:
    made = Tracker(random.Random(1))
    made.allow([SWARM])
    return made


def say(
    t: Tracker, address: str, port: int = 6881, now: float = 0, swarm: bytes = SWARM, **more: object
) -> Any:
    words = {"info_hash": swarm, "peer_id": b"p" * 20, "port": port, "left": 1, "compact": 1, **more}
    query = urlencode({k: v for k, v in words.items() if v is not None}, quote_via=quote)
    return libtorrent.bdecode(t.announce(query.encode(), address, now))


def places(answer: Any) -> set[str]:
    four, six = answer[b"peers"], answer[b"peers6"]
    return {socket.inet_ntop(socket.AF_INET, four[i : i + 4]) for i in range(0, len(four), 6)} | {
        socket.inet_ntop(socket.AF_INET6, six[i : i + 16]) for i in range(0, len(six), 18)
    }


def test_peers_hear_of_each_other_over_both_protocols() -> None:
    t = tracker()
    assert places(say(t, "10.0.0.1", left=0)) == set()
    assert places(say(t, "fd00::1")) == {"10.0.0.1"}
    answer = say(t, "::ffff:10.0.0.2", port=7000)
    assert places(answer) == {"10.0.0.1", "fd00::1"}
    assert (answer[b"complete"], answer[b"incomplete"]) == (1, 2)
    assert 60 <= answer[b"interval"] <= 120
    assert answer[b"peers"] == bytes([10, 0, 0, 1]) + (6881).to_bytes(2, "big")
    assert t.leechers(SWARM) == 2


def test_who_has_all_hears_only_of_those_who_want_more() -> None:
    t = tracker()
    say(t, "10.0.0.1", left=0)
    say(t, "10.0.0.2")
    assert places(say(t, "10.0.0.3", left=0)) == {"10.0.0.2"}


def test_who_wants_no_more_without_having_all_counts_as_a_seed_and_is_named_to_all() -> None:
    t = tracker()
    say(t, "10.0.0.1", event="paused", left=500)
    answer = say(t, "10.0.0.2", event="paused", left=500)
    assert places(answer) == {"10.0.0.1"}, "it may want something in a moment"
    assert (answer[b"complete"], answer[b"incomplete"]) == (2, 0)
    assert t.counts() == {SWARM: (2, 0)}
    say(t, "10.0.0.2", event="started", left=500)
    assert t.counts() == {SWARM: (1, 1)}
    assert t.leechers(SWARM) == 1
    say(t, "10.0.0.1", event="stopped", left=500)
    assert t.counts() == {SWARM: (0, 1)}


def test_only_published_swarms_are_known() -> None:
    t = tracker()
    assert b"no such torrent" in say(t, "10.0.0.1", swarm=b"x" * 20)[b"failure reason"]
    say(t, "10.0.0.1")
    t.allow([b"x" * 20])
    assert b"failure reason" in say(t, "10.0.0.2")
    assert places(say(t, "10.0.0.2", swarm=b"x" * 20)) == set()
    assert t.counts() == {b"x" * 20: (0, 1)}


def test_the_own_subnet_comes_first_and_others_are_always_among_the_answer() -> None:
    t = tracker()
    for n in range(200):
        say(t, f"10.0.0.{n + 1}")
        say(t, f"10.0.{n % 20 + 1}.{n + 1}")
    found = places(say(t, "10.0.0.250"))
    near = sum(p.startswith("10.0.0.") for p in found)
    assert (len(found), near) == (ANSWERED, ANSWERED - OTHERS)
    assert "10.0.0.250" not in found
    alone = places(say(t, "192.168.0.1"))
    assert len(alone) == ANSWERED
    assert len(places(say(t, "10.0.0.250", numwant=6))) == 6
    assert places(say(t, "10.0.0.250", numwant=0)) == set()


def test_two_racks_stay_one_swarm() -> None:
    t = tracker()
    for n in range(60):
        say(t, f"10.0.1.{n + 1}")
        say(t, f"10.0.2.{n + 1}")
    seen, new = {"10.0.1.1"}, {"10.0.1.1"}
    for _ in range(4):
        new = {p for one in new for p in places(say(t, one))} - seen
        seen |= new
    assert len(seen) == 120


def test_peers_that_stop_or_fall_silent_are_forgotten() -> None:
    t = tracker()
    say(t, "10.0.0.1")
    say(t, "10.0.0.2", left=0)
    say(t, "10.0.0.1", event="stopped")
    assert places(say(t, "10.0.0.3", now=1)) == {"10.0.0.2"}
    assert places(say(t, "10.0.0.4", now=EXPIRES + 1)) == {"10.0.0.3"}
    assert t.counts() == {SWARM: (0, 2)}


def test_one_address_can_not_fill_a_swarm_nor_speak_for_another() -> None:
    t = tracker()
    for port in range(1, OF_ONE_ADDRESS + 1):
        assert b"failure reason" not in say(t, "10.0.0.1", port)
    assert b"too many" in say(t, "10.0.0.1", 5000)[b"failure reason"]
    assert b"failure reason" not in say(t, "10.0.0.1", 1), "a known one is welcome"
    say(t, "10.0.0.9", ip="10.9.9.9", ipv6="fd00::9")
    assert places(say(t, "10.0.0.2")) == {"10.0.0.1", "10.0.0.9"}
    say(t, "10.0.0.9", 1, event="stopped")
    assert t.counts()[SWARM] == (0, OF_ONE_ADDRESS + 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"info_hash": None}, {"info_hash": b"x" * 19}, {"peer_id": b"p"}, {"port": 0}, {"port": 70000},
        {"port": "x"}, {"port": "١"}, {"left": -5}, {"left": "9" * 30}, {"numwant": "many"}, {"x": "y" * 5000},
    ],
    ids=str,
)  # fmt: skip
def test_rubbish_is_answered_with_a_reason(wrong: dict[str, object]) -> None:
    assert say(tracker(), "10.0.0.1", **wrong)[b"failure reason"]  # type: ignore[arg-type]


@pytest.mark.parametrize("query", [b"", b"%", b"\xff\xfe", b"&" * 4000, b"info_hash=%GG", b"a=b&" * 900])
def test_what_is_no_query_is_answered_too(query: bytes) -> None:
    t = tracker()
    assert libtorrent.bdecode(t.announce(query, "10.0.0.1", 0))[b"failure reason"]
    assert libtorrent.bdecode(t.announce(b"info_hash=" + b"x" * 20, "", 0))[b"failure reason"]


def test_a_real_client_finds_a_real_peer(tmp_path: Any) -> None:
    """Two libtorrent sessions share a file through the tracker's word alone."""
    from kiosk.serve.app import Server
    from tests.serve.fleet import until

    data = random.Random(1).randbytes(300_000)
    for side in ("seed", "reader"):
        (tmp_path / side).mkdir()
    (tmp_path / "seed" / "object").write_bytes(data)
    files = [libtorrent.create_file_entry("object", len(data))]
    made = libtorrent.create_torrent(files, 16384, libtorrent.create_torrent.v2_only)
    made.set_priv(True)
    t = Tracker()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answer = t.announce(scope["query_string"], scope["client"][0], 0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    with Server(app, ("127.0.0.1", 0)) as server, server.running() as url:
        made.add_tracker(f"{url}/announce")
        libtorrent.set_piece_hashes(made, str(tmp_path / "seed"))
        info = libtorrent.torrent_info(made.generate())
        t.allow([info.info_hashes().v2.to_bytes()[:20]])
        options = {
            "listen_interfaces": "127.0.0.1:0", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
            "enable_natpmp": False, "allow_multiple_connections_per_ip": True,
        }  # fmt: skip
        sessions = [libtorrent.session(options) for _ in range(2)]
        torrents = []
        for side, session in zip(("seed", "reader"), sessions, strict=True):
            wanted = libtorrent.add_torrent_params()
            wanted.ti, wanted.save_path = info, str(tmp_path / side)
            torrents.append(session.add_torrent(wanted))
            if side == "seed":
                until(lambda: bool(t.counts() and next(iter(t.counts().values()))[0]), 20)
        until(lambda: torrents[1].status().is_seeding, 20)
    assert (tmp_path / "reader" / "object").read_bytes() == data
    assert threading.active_count() < 50
