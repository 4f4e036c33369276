"""Sums of blocks, and local files without an index that are searched with them."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from kiosk.errors import CorruptError
from kiosk.files import sha256
from kiosk.model.manifest import Artifact, Object
from kiosk.store import foreign, sums, wire
from kiosk.store.cut import publish_file
from kiosk.store.fetch import FetchReport, Seed, fetch
from kiosk.store.index import NO_SUMS, REGION_DIGEST, Index, Pack, Runs, Sums, decode, encode, load
from kiosk.store.known import KnownBlocks, rebuild
from tests.store.files import BLOCK, Repository, content
from tests.store.test_fetch import Counting, indexed
from tests.store.test_format import pack

OLD = [*range(1, 3000), *[0] * 500, *range(3000, 4000)]
NEW = [*OLD[:100], *range(7000, 7300), *OLD[100:2000], *OLD[2300:]]


def publish(repository: Repository, name: str, data: bytes) -> Artifact:
    """As the publisher does it for large files."""
    path = repository.folder / name
    path.write_bytes(data)
    with KnownBlocks(repository.known) as known:
        index = publish_file(path, repository.store, known, with_sums=True)
    return Artifact(file=name, size=len(data), digest=sha256(path), index=index)


def index_of(repository: Repository, artifact: Artifact) -> Index:
    return load(repository.store, indexed(artifact))


def get(
    repository: Repository, artifact: Artifact, target: Path, *seeds: Path
) -> tuple[FetchReport, list[str]]:
    source = Counting(repository.store.repository)
    return fetch(artifact, target, source, [Seed(s) for s in seeds]), source.asked


def test_each_publish_adds_the_sums_of_its_new_blocks_alone(repository: Repository) -> None:
    old = publish(repository, "old", content(OLD))
    before = repository.objects()
    new = publish(repository, "new", content(NEW))
    assert len(repository.objects() - before) == 3  # a pack, its sums, an index
    first, second = index_of(repository, old).sums, index_of(repository, new).sums
    assert len(first.objects) == 1
    assert set(first.of_pack) == {0}
    assert set(second.objects) > set(first.objects)
    assert sum(o.size for o in second.objects) < 8 * 4400 + 1000
    again = publish(repository, "again", content(NEW))
    assert again.index == new.index


def test_a_lost_memory_learns_which_sums_there_are(repository: Repository) -> None:
    old = publish(repository, "old", content(OLD))
    repository.known.unlink()
    with KnownBlocks(repository.known) as known:
        rebuild(known, repository.store, [indexed(old)])
    new = publish(repository, "new", content(NEW))
    assert set(index_of(repository, old).sums.objects) < set(index_of(repository, new).sums.objects)


def test_sums_that_are_gone_from_the_store_are_not_named_again(repository: Repository) -> None:
    old = publish(repository, "old", content(OLD))
    repository.store.remove(index_of(repository, old).sums.objects[0].digest)
    found = index_of(repository, publish(repository, "new", content(NEW))).sums
    assert len(found.objects) == 1
    assert sorted(set(found.of_pack)) == [0, NO_SUMS]


def raw(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def qcow2(path: Path, data: bytes) -> None:
    path.with_suffix(".raw").write_bytes(data)
    argv = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", path.with_suffix(".raw"), path]
    subprocess.run(argv, check=True)


def compressed(path: Path, data: bytes) -> None:
    path.with_suffix(".raw").write_bytes(data)
    argv = ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", path.with_suffix(".raw"), path]
    subprocess.run(argv, check=True)


@pytest.mark.parametrize("make", [raw, qcow2])
def test_an_older_version_in_any_form_saves_what_it_has(
    repository: Repository, tmp_path: Path, make: Callable[[Path, bytes], None]
) -> None:
    publish(repository, "old", content(OLD, b"tail"))
    new = publish(repository, "new", content(NEW, b"tail"))
    make(tmp_path / "seed", content(OLD, b"tail"))
    report, asked = get(repository, new, tmp_path / "host" / "new", tmp_path / "seed")
    assert sha256(tmp_path / "host" / "new") == new.digest
    assert report.regions_repaired == 0
    assert len(asked) == 4  # the index, the sums of the old and of the new packs, the pack of new blocks
    assert report.bytes_reused > 3600 * BLOCK
    assert report.bytes_moved < 300 * BLOCK + 60_000


def test_compressed_clusters_are_just_not_found(repository: Repository, tmp_path: Path) -> None:
    text = b"".join(random.Random(n).randbytes(64) * 64 for n in range(3000))
    artifact = publish(repository, "a", text)
    compressed(tmp_path / "seed", text)
    report, _ = get(repository, artifact, tmp_path / "host" / "a", tmp_path / "seed")
    assert sha256(tmp_path / "host" / "a") == artifact.digest
    assert report.bytes_reused == 0


def test_sums_are_not_fetched_where_they_would_not_pay(repository: Repository, tmp_path: Path) -> None:
    """Blocks of text pack so well that moving them costs as little as finding them."""
    artifact = publish(repository, "a", b"".join(b"%04096d" % n for n in range(1, 2000)))
    (tmp_path / "seed").write_bytes((repository.folder / "a").read_bytes())
    report, asked = get(repository, artifact, tmp_path / "host" / "a", tmp_path / "seed")
    assert index_of(repository, artifact).sums.objects[0].digest not in asked
    assert report.bytes_reused == 0


def test_nothing_is_searched_when_older_versions_have_it_all(repository: Repository, tmp_path: Path) -> None:
    old = publish(repository, "old", content(OLD))
    fetch(old, tmp_path / "host" / "old", repository.store)
    source = Counting(repository.store.repository)
    seeds = [Seed(tmp_path / "host" / "old", indexed(old)), Seed(tmp_path / "host" / "old")]
    fetch(old, tmp_path / "again" / "old", source, seeds)
    assert len(source.asked) == 1


@pytest.mark.parametrize("how", ["gone", "a folder", "empty", "noise", "changed after the search"])
def test_a_seed_that_is_useless_or_lies_costs_bytes_and_nothing_else(
    repository: Repository, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(repository, "a", content(OLD))
    seed = tmp_path / "seed"
    if how == "a folder":
        seed.mkdir()
    elif how == "empty":
        seed.write_bytes(b"")
    elif how == "noise":
        seed.write_bytes(os.urandom(100 * BLOCK + 5))
    elif how == "changed after the search":
        seed.write_bytes(content(OLD))
        search = foreign.search

        def and_change(file: BinaryIO, *more: object) -> Index | None:
            found = search(file, *more)  # type: ignore[arg-type]
            with seed.open("r+b") as f:
                f.write(b"other!")
                f.truncate(1500 * BLOCK)
            return found

        monkeypatch.setattr(foreign, "search", and_change)
    report, _ = get(repository, artifact, tmp_path / "host" / "a", seed)
    assert sha256(tmp_path / "host" / "a") == artifact.digest
    assert (report.regions_repaired > 1) == (how == "changed after the search")


def with_sums(repository: Repository, artifact: Artifact, stored: bytes) -> Artifact:
    """The artifact, its index naming these bytes as sums."""
    index = index_of(repository, artifact)
    named = repository.store.write(stored)
    index = replace(index, sums=Sums((named,), [0] * len(index.packs)))
    return artifact.model_copy(update={"index": repository.store.write(encode(index))})


def rows(index: Index, sum_of: Callable[[int], bytes]) -> list[tuple[str, bytes]]:
    return [(p.object.digest, b"".join(map(sum_of, range(p.blocks)))) for p in index.packs]


HOSTILE = [
    "not an object",
    "a pack",
    "cut",
    "too many blocks",
    "other blocks",
    "a bomb",
    "all alike",
    "swapped",
]


@pytest.mark.parametrize("lie", HOSTILE)
def test_hostile_sums_cost_bytes_and_nothing_else(repository: Repository, tmp_path: Path, lie: str) -> None:
    honest = publish(repository, "a", content(OLD))
    index = index_of(repository, honest)
    good = wire.unseal(wire.SUMS, repository.store.read(index.sums.objects[0]), limit=1 << 20, where="here")
    first = bytes.fromhex(index.packs[0].object.digest[7:])
    stored = {
        "not an object": b"<html>no such page</html>",
        "a pack": wire.seal(wire.PACK, good, level=1),
        "cut": wire.seal(wire.SUMS, good[:-3], level=1),
        "too many blocks": wire.seal(wire.SUMS, first + b"\xff\xff\xff\xff" + good, level=1),
        "other blocks": sums.encode([(index.packs[0].object.digest, bytes(8 * 1000))]),
        "a bomb": wire.seal(wire.SUMS, bytes(200 << 20), level=1),
        "all alike": sums.encode(rows(index, lambda i: b"%04d" % i + bytes(4))),
        "swapped": sums.encode([(index.packs[0].object.digest, good[36 : 36 + 8192][::-1])]),
    }[lie]
    artifact = with_sums(repository, honest, stored)
    (tmp_path / "seed").write_bytes(content(OLD))
    report, _ = get(repository, artifact, tmp_path / "host" / "a", tmp_path / "seed")
    assert sha256(tmp_path / "host" / "a") == honest.digest
    assert (report.bytes_reused > 0) == (lie == "cut"), "what is whole before the cut is used"


def test_sums_that_point_to_wrong_blocks_are_found_out(repository: Repository, tmp_path: Path) -> None:
    honest = publish(repository, "a", content(range(1, 2049)))
    index = index_of(repository, honest)
    good = wire.unseal(wire.SUMS, repository.store.read(index.sums.objects[0]), limit=1 << 20, where="here")
    first, second = good[36 : 36 + 8192], good[72 + 8192 :]
    exchanged = sums.encode(list(zip([p.object.digest for p in index.packs], [second, first], strict=True)))
    (tmp_path / "seed").write_bytes(content(range(1, 2049)))
    artifact = with_sums(repository, honest, exchanged)
    report, _ = get(repository, artifact, tmp_path / "host" / "a", tmp_path / "seed")
    assert sha256(tmp_path / "host" / "a") == honest.digest
    assert report.regions_repaired == 8


def test_a_table_whose_keys_all_collide_stays_quick() -> None:
    table = foreign.Table(10_000)
    for i in range(10_000):
        table.add((i + 1) << 40, i)
    assert table.take(1 << 40) == 0
    assert table.take(1 << 40) is None
    assert table.take(9_999 << 40) is None


def test_an_index_with_sums_reads_back_as_written() -> None:
    packs = tuple(pack(i + 1) for i in range(3))
    named = Object(digest="sha256:" + "ab" * 32, size=900)
    runs = Runs()
    runs.append(0, 2, 5, 7)
    index = Index(7 * BLOCK, packs, bytes(REGION_DIGEST), runs, sums=Sums((named,), [0, NO_SUMS, 0]))
    read = decode(encode(index), "here")
    assert read.sums.objects == (named,)
    assert list(read.sums.of_pack) == [0, NO_SUMS, 0]
    for wrong in (
        Sums((named,), [0, 1, 0]),
        Sums((named,), [0, 0]),
        Sums((named,) * 4, [0, 0, 0]),
        Sums((named.model_copy(update={"size": 1 << 30}),), [0, 0, 0]),
    ):
        with pytest.raises(CorruptError, match="sums"):
            decode(encode(replace(index, sums=wrong)), "here")


def test_sums_of_a_pack_with_other_blocks_are_refused() -> None:
    stored = sums.encode([("sha256:" + "ab" * 32, bytes(80))])
    packs = {"sha256:" + "ab" * 32: Pack(Object(digest="sha256:" + "ab" * 32, size=900), 11)}
    with pytest.raises(CorruptError, match="10 sums for a pack of 11 blocks"):
        list(sums.decode(stored, packs, "here"))
    assert list(sums.decode(stored, {}, "here")) == []
