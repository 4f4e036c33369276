"""Peers and torrents that mean harm: they cost bytes at most, and nothing wrong is ever taken for an object."""

from __future__ import annotations

import hashlib
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from kiosk.errors import VerificationError
from kiosk.store.directory import DirectoryStore
from kiosk.store.objects import path_of
from kiosk.swarm import torrent
from kiosk.swarm.session import Banned, Stalled
from tests.simulators.swarm import QUICK, Shared, done, host, remember_as_whole, seeder, until, version


def words(count: int) -> list[str]:
    return [f"object-{n}" for n in range(count)]


def liar(one: Shared, folder: Path) -> Shared:
    """The same version in another folder, every object with one block altered, and remembered as whole."""
    shutil.copytree(one.store.repository / "objects", folder / "objects")
    for wanted in one.objects:
        with (folder / path_of(wanted.digest)).open("r+b") as f:
            f.seek(100_000)
            f.write(b"not what was signed")
    remember_as_whole(folder, one.objects)
    return replace(one, store=type(one.store)(folder))


def test_a_lying_peer_alone_is_banned_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(10))
    false = liar(one, tmp_path / "liar")
    with seeder(false) as bad, host(tmp_path / "b") as b:
        b.fetch(one, bad)
        until(lambda: Banned(one.infohash, bad.address[0]) in b.events, b, bad)
        until(lambda: any(isinstance(e, Stalled) for e in b.events), b, bad)
        b.session.connect(one.infohash, [bad.address])
        assert not b.came()
        assert b.session.missing(one.infohash) == set(one.digests)
        assert b.session.stats().received <= 2 * one.size


@pytest.mark.parametrize("turn", range(3))
def test_a_liar_among_honest_peers_puts_nothing_wrong_on_disk(turn: int, tmp_path: Path) -> None:
    """All comes from the honest one, or the session says that it is stalled: then the agent has the rest from the
    kiosk, by its lease. Which it is depends on who is faster."""
    one = version(tmp_path / "kiosk", words(10))
    false = liar(one, tmp_path / "liar")
    with seeder(false) as bad, seeder(one) as good, host(tmp_path / "b") as b:
        b.fetch(one, *((bad, good) if turn else (good, bad)))
        until(lambda: done(b)() or any(isinstance(e, Stalled) for e in b.events), b, good, bad)
        store = DirectoryStore(b.folder)
        right = {o.digest: o for o in one.objects}
        assert all(store.read(right[digest]) for digest in b.came())
        assert set(b.came()) | b.session.missing(one.infohash) == set(one.digests), (
            "each came, or is said to lack"
        )
        assert b.session.stats().received <= 4 * one.size, "lies have a price that has an end"


def test_who_is_banned_stays_so_when_the_torrent_begins_anew(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(10))
    false = liar(one, tmp_path / "liar")
    with seeder(false) as bad, seeder(one) as good, host(tmp_path / "b") as b:
        b.fetch(one, bad)
        until(lambda: Banned(one.infohash, bad.address[0]) in b.events, b, bad)
        before = bad.session.stats().sent
        b.session.want(one.infohash, [])
        b.session.want(one.infohash, one.digests)
        b.session.connect(one.infohash, [bad.address, good.address])
        until(done(b), b, bad, good)
        assert b.holds(one)
        assert bad.session.stats().sent == before, "it was not asked again"


def test_what_is_had_another_way_needs_no_peer_to_be_honest(tmp_path: Path) -> None:
    """As an agent does it that has only liars: it reads from the kiosk, and shares that."""
    one = version(tmp_path / "kiosk", words(10))
    false = liar(one, tmp_path / "liar")
    with seeder(false) as bad, host(tmp_path / "b") as b, host(tmp_path / "c") as c:
        b.fetch(one, bad)
        until(lambda: any(isinstance(e, Banned) for e in b.events), b, bad)
        tries = 0

        def has_all() -> bool:
            nonlocal tries
            if (stalls := sum(isinstance(e, Stalled) for e in b.events)) >= tries:
                tries = stalls + 1  # what a liar's last block went over is had once more
                for digest in b.session.missing(one.infohash):
                    (b.folder / path_of(digest)).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(one.store.repository / path_of(digest), b.folder / path_of(digest))
                    assert b.session.have(digest)
            return done(b)()

        until(has_all, b, bad)
        c.fetch(one, b)
        until(done(c), c, b)
        assert c.holds(one)


def test_a_peer_that_is_not_allowed_gets_nothing(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(2))
    with seeder(one, replace(QUICK, peers=("127.250.0.0/16",))) as a:
        with host(tmp_path / "stranger", address="127.251.0.1") as stranger:
            client = stranger.session._session
            client.apply_settings({"alert_mask": lt.alert_category.all})
            stranger.fetch(one, a)
            until_closed(client)
            assert stranger.session.stats().received == 0
        with host(tmp_path / "neighbour", address="127.250.0.1") as neighbour:
            neighbour.fetch(one, a)
            until(done(neighbour), neighbour, a)


def test_strangers_are_not_connected_to(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(2))
    with seeder(one) as a, host(tmp_path / "b", replace(QUICK, peers=("10.0.0.0/8",))) as b:
        b.fetch(one, a)
        handle = b.session._members[one.infohash].handle
        assert not handle.get_peer_info()


@pytest.mark.parametrize("policy", [lt.enc_policy.disabled, lt.enc_policy.forced])
def test_an_unencrypted_peer_gets_nothing(policy: lt.enc_policy, tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(2))
    settings: dict[str, Any] = {
        "listen_interfaces": "127.0.0.1:0",
        "outgoing_interfaces": "127.0.0.1",
        "in_enc_policy": int(policy),
        "out_enc_policy": int(policy),
        "enable_dht": False,
        "enable_lsd": False,
        "enable_outgoing_utp": False,
        "alert_mask": lt.alert_category.connect | lt.alert_category.error | lt.alert_category.peer,
    }
    client = lt.session(settings)
    params = lt.load_torrent_buffer(one.data)
    params.save_path = str(tmp_path / "plain")
    with seeder(one) as a:
        handle = client.add_torrent(params)
        handle.connect_peer(a.address)
        if policy == lt.enc_policy.forced:
            until(lambda: handle.status().is_seeding, a)
        else:
            until_closed(client)
            assert handle.status().total_payload_download == 0


def until_closed(client: lt.session) -> None:
    """Waits until the other side has closed a connection."""
    for _ in range(200):
        client.wait_for_alert(100)
        if any(isinstance(a, lt.peer_disconnected_alert | lt.peer_error_alert) for a in client.pop_alerts()):
            return
    raise AssertionError("nobody closed the connection")


def test_what_a_host_remembers_may_be_wrong(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(2))
    false = liar(one, tmp_path / "b")
    with host(false.store.repository) as b:
        assert len(b.session.add(one.data, one.infohash)) == 2, "it is believed, until somebody reads it"
        for digest in one.digests:
            b.session.lost(digest)
        assert b.session.want(one.infohash, one.digests) == set(one.digests)
    (tmp_path / "b/whole").write_bytes(b"\0" * 1000 + b"\n" + b"0" * 64 + b" 99999999999999999999999\n")
    with seeder(one) as a, host(tmp_path / "b") as b:
        b.fetch(one, a)
        until(done(b), b, a)
        assert b.holds(one)


def another_infohash(top: dict[bytes, Any]) -> None:
    top[b"info"][b"piece length"] *= 2


def path_up(top: dict[bytes, Any]) -> None:
    top[b"info"][b"file tree"] = {b"..": {b"..": {b"": file()}}}


def absolute_path(top: dict[bytes, Any]) -> None:
    top[b"info"][b"file tree"] = {b"/etc": {b"passwd": {b"": file()}}}


def other_name(top: dict[bytes, Any]) -> None:
    top[b"info"][b"name"] = b"../images"


def wrong_folder(top: dict[bytes, Any]) -> None:
    top[b"info"][b"file tree"] = {b"aa": {b"b" * 64: {b"": file()}}}


def file_on_top(top: dict[bytes, Any]) -> None:
    top[b"info"][b"file tree"] = {b"aa": {b"": file()}}


def deeper(top: dict[bytes, Any]) -> None:
    top[b"info"][b"file tree"] = {b"aa": {b"a" * 64: {b"": file(), b"x": {b"": file()}}}}


def link(top: dict[bytes, Any]) -> None:
    made = {**file(), b"attr": b"l", b"symlink path": [b"etc", b"passwd"]}
    top[b"info"][b"file tree"] = {b"aa": {b"a" * 64: {b"": made}}}


def huge_file(top: dict[bytes, Any]) -> None:
    top[b"info"][b"file tree"] = {b"aa": {b"a" * 64: {b"": {**file(), b"length": 1 << 60}}}}


def negative_length(top: dict[bytes, Any]) -> None:
    top[b"info"][b"file tree"] = {b"aa": {b"a" * 64: {b"": {**file(), b"length": -1}}}}


def no_files(top: dict[bytes, Any]) -> None:
    top[b"info"][b"file tree"] = {}


def no_tree(top: dict[bytes, Any]) -> None:
    del top[b"info"][b"file tree"]


def short_root(top: dict[bytes, Any]) -> None:
    top[b"info"][b"file tree"] = {b"aa": {b"a" * 64: {b"": {**file(), b"pieces root": b"short"}}}}


def no_layer(top: dict[bytes, Any]) -> None:
    top[b"info"][b"file tree"] = {b"aa": {b"a" * 64: {b"": {**file(), b"length": 5 << 20}}}}


def version_one(top: dict[bytes, Any]) -> None:
    top[b"info"] = {b"name": b"objects", b"piece length": 1 << 18, b"pieces": b"0" * 20, b"length": 5}


def hybrid(top: dict[bytes, Any]) -> None:
    top[b"info"] |= {b"pieces": b"0" * 20, b"length": 5}


def public(top: dict[bytes, Any]) -> None:
    del top[b"info"][b"private"]


def odd_pieces(top: dict[bytes, Any]) -> None:
    top[b"info"][b"piece length"] = 3 << 20


def tiny_pieces(top: dict[bytes, Any]) -> None:
    top[b"info"][b"piece length"] = 1


def too_many(top: dict[bytes, Any]) -> None:
    names = (b"%064x" % n for n in range(torrent.MOST + 1))
    tree: dict[bytes, Any] = {}
    for name in names:
        tree.setdefault(name[:2], {})[name] = {b"": file()}
    top[b"info"][b"file tree"] = tree


def file() -> dict[bytes, Any]:
    return {b"length": 5, b"pieces root": b"r" * 32}


HOSTILE = [
    path_up,
    absolute_path,
    other_name,
    wrong_folder,
    file_on_top,
    deeper,
    link,
    huge_file,
    negative_length,
    no_files,
    no_tree,
    short_root,
    no_layer,
    version_one,
    hybrid,
    public,
    odd_pieces,
    tiny_pieces,
    too_many,
]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda c: c.__name__)
def test_a_torrent_of_another_shape_is_refused_even_when_it_is_signed(
    change: Callable[[dict[bytes, Any]], None], tmp_path: Path
) -> None:
    top: Any = lt.bdecode(version(tmp_path / "kiosk", words(1), 1000).data)
    change(top)
    infohash = hashlib.sha256(lt.bencode(top[b"info"])).hexdigest()
    with host(tmp_path / "b") as b:
        with pytest.raises(VerificationError) as said:
            b.session.add(lt.bencode(top), infohash)
        assert not b.session.torrents
    assert len(str(said.value)) < 500


def test_another_torrent_than_the_signed_one_is_refused(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(1), 1000)
    other = version(tmp_path / "other", ["else"], 1000)
    with host(tmp_path / "b") as b, pytest.raises(VerificationError, match="instead of"):
        b.session.add(other.data, one.infohash)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"de",
        b"i5e",
        b"d4:info",
        b"l" * 100_000,
        b"d4:infoi5ee",
        b"99999999999:",
        bytes(torrent.LARGEST + 1),
        b"d4:infod0:" + b"l" * 90 + b"e" * 90 + b"ee",
    ],
    ids=range(10),
)
def test_bytes_that_are_no_torrent_are_refused(data: bytes) -> None:
    with pytest.raises(VerificationError):
        torrent.read(data, "0" * 64)


def test_bytes_that_would_fill_the_memory_are_refused() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(VerificationError):
            torrent.read(b"l" + b"0:" * ((torrent.LARGEST - 2) // 2) + b"e", "0" * 64)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_trackers_are_web_addresses_or_nothing(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", words(1), 1000)
    top: Any = lt.bdecode(one.data)
    top[b"announce"] = b"udp://tracker:1/announce"
    top[b"announce-list"] = [[b"file:///etc/passwd", b"http://ok/announce", b"http://[bad"], 5, {b"x": 1}]
    top[b"url-list"] = b"ftp://mirror/"
    found = torrent.read(lt.bencode(top), one.infohash)
    assert found.trackers == ("http://ok/announce",)
    assert found.web_seeds == ()
