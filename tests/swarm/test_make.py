"""A version's torrent: what libtorrent itself would make, and in step with what is published."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

import libtorrent as lt
import pytest

from kiosk.errors import CorruptError
from kiosk.mirror import mirror
from kiosk.model.manifest import Manifest, Object
from kiosk.publish import publish
from kiosk.publish.prune import prune
from kiosk.publish.repair import repair
from kiosk.publish.retention import Rule
from kiosk.publish.signed import listed
from kiosk.store.directory import DirectoryStore
from kiosk.store.known import KnownBlocks
from kiosk.store.needs import needs
from kiosk.swarm import make
from kiosk.swarm.torrent import LEAF, PIECE, read
from tests.simulators.published import Kiosk, ask, build_image, bytes_of, ready


class Counted(DirectoryStore):
    """A store that counts what is read."""

    reads = 0

    def read(self, wanted: Object, stop: object = None) -> bytes:
        self.reads += 1
        return super().read(wanted)


def published(kiosk: Kiosk, name: str) -> Manifest:
    return next(m for m in listed(kiosk.settings).versions if str(m.ref) == name)


@pytest.mark.parametrize(
    "sizes",
    [
        (1,),
        (LEAF - 1, LEAF, LEAF + 1, 3 * LEAF, 100_000),
        (PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 5 * PIECE + 17),
    ],
)
def test_libtorrent_makes_the_same_of_the_same_files(sizes: tuple[int, ...], tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    objects = [store.write(bytes_of(str(size), size)) for size in sizes]
    infohash, data = make.torrent(store, objects, make.Nothing())
    theirs = lt.create_torrent(lt.list_files(str(tmp_path / "objects")), PIECE, lt.create_torrent.v2_only)
    theirs.set_priv(True)
    lt.set_piece_hashes(theirs, str(tmp_path))
    made = theirs.generate()
    assert hashlib.sha256(lt.bencode(made[b"info"])).hexdigest() == infohash
    assert made[b"piece layers"] == lt.bdecode(data)[b"piece layers"]
    torrent = read(data, infohash)
    loaded = lt.load_torrent_buffer(torrent.data)
    assert str(loaded.info_hashes.v2) == infohash
    assert loaded.ti is not None and loaded.ti.num_pieces() == torrent.piece_count
    assert [f"sha256:{n}" for n in torrent.names] == sorted(o.digest for o in objects)


def test_addresses_are_no_part_of_the_infohash(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    objects = [store.write(b"one"), store.write(b"two")]
    bare, _ = make.torrent(store, objects, make.Nothing())
    infohash, data = make.torrent(
        store,
        reversed(objects),
        make.Nothing(),
        trackers=["http://kiosk/announce", "https://other/announce"],
        web_seeds=["http://kiosk/repository"],
    )
    assert infohash == bare
    torrent = read(data, infohash)
    assert torrent.trackers == ("http://kiosk/announce", "https://other/announce")
    assert torrent.web_seeds == ("http://kiosk/repository/",)


def test_an_object_is_only_read_the_first_time(tmp_path: Path) -> None:
    store = Counted(tmp_path)
    objects = [store.write(bytes_of(str(n), 1000 + n)) for n in range(100)]
    with KnownBlocks(tmp_path / "known.sqlite") as known:
        first = make.torrent(store, objects[:99], known)
        known.commit()
    assert store.reads == 99
    with KnownBlocks(tmp_path / "known.sqlite") as known:
        assert make.torrent(store, objects[:99], known) == first
        make.torrent(store, objects, known)
    assert store.reads == 100


def test_a_damaged_object_ends_it(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    one = store.write(b"right")
    path = next(p for p in (tmp_path / "objects").rglob("*") if p.is_file())
    path.write_bytes(b"wrong")
    with pytest.raises(CorruptError):
        make.torrent(store, [one], make.Nothing())


def test_a_published_version_names_the_torrent_of_all_its_objects(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    store = DirectoryStore(kiosk.settings.repository)
    for manifest in listed(kiosk.settings).versions:
        assert manifest.torrent is not None
        torrent = read(store.read(manifest.torrent.file), manifest.torrent.infohash)
        needed = {o.digest for o in needs(store, manifest)}
        assert {f"sha256:{n}" for n in torrent.names} == needed - {manifest.torrent.file.digest}


def test_a_version_that_is_published_again_is_the_same(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    assert publish(kiosk.settings, build_image(kiosk.settings), ask).already


def test_the_torrent_goes_with_its_version(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    store = DirectoryStore(kiosk.settings.repository)
    first = published(kiosk, "worker@1").torrent
    assert first is not None
    kiosk.image(version="2")
    second = published(kiosk, "worker@2").torrent
    assert second is not None and second.infohash != first.infohash
    prune(kiosk.settings, ask, Rule(1), grace=timedelta(0))
    assert store.has(second.file) and not store.has(first.file)
    assert not repair(kiosk.settings).mends


def test_a_mirror_has_it_and_a_repair_brings_it_back(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    mirror(kiosk.settings, kiosk.settings.repository, tmp_path / "mirror")
    torrent = published(kiosk, "worker@1").torrent
    assert torrent is not None
    assert DirectoryStore(tmp_path / "mirror").has(torrent.file)
    store = DirectoryStore(kiosk.settings.repository)
    store.remove(torrent.file.digest)
    kiosk.settings.repository.with_name("known-blocks.sqlite").unlink()
    assert not repair(kiosk.settings).left
    assert store.read(torrent.file)
