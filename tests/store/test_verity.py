"""The hash tree is computed as veritysetup writes it, and so need not be stored or moved."""

from __future__ import annotations

import os
import random
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.errors import CorruptError
from kiosk.model.manifest import Artifact, Object
from kiosk.store import verity
from kiosk.store.cut import publish_file
from kiosk.store.fetch import fetch
from kiosk.store.index import BLOCK, REGION_DIGEST, Index, Pack, Runs, Tree, decode, encode, load
from kiosk.store.known import KnownBlocks
from kiosk.store.partial import index_file
from tests.store.files import Repository

SALT = bytes(range(32))
AT = 9 * 256
"""Where the hash partition begins in the test's disks: behind 9 MiB."""


def formatted(folder: Path, blocks: int, seed: int = 1) -> tuple[Path, Tree, str]:
    """A disk with data from 1 MiB on and a hash area behind it, by the real veritysetup; its tree, root hash."""
    data, hashes = folder / "data", folder / "hashes"
    chance = random.Random(seed)
    content = b"".join(chance.choice([bytes(BLOCK), chance.randbytes(BLOCK)]) for _ in range(blocks))
    data.write_bytes(content)
    argv = ["veritysetup", "format", f"--salt={SALT.hex()}", str(data), str(hashes)]
    printed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    root = re.search(r"Root hash:\s*([0-9a-f]{64})", printed)
    assert root
    disk = folder / "disk"
    with disk.open("wb") as f:
        f.seek(256 * BLOCK)
        f.write(content)
        f.seek(AT * BLOCK)
        f.write(hashes.read_bytes())
        f.truncate(-(-f.tell() // BLOCK) * BLOCK + BLOCK)
    return disk, Tree(256, blocks, AT + 1, SALT), root[1]


def blocks_of(disk: Path, tree: Tree) -> list[bytes]:
    data = disk.read_bytes()
    return [data[tree.data * BLOCK : (tree.data + tree.blocks) * BLOCK]]


@pytest.mark.parametrize("blocks", [2, 127, 128, 129, 1000])
def test_the_tree_is_the_one_that_veritysetup_writes(tmp_path: Path, blocks: int) -> None:
    disk, tree, root = formatted(tmp_path, blocks)
    data = disk.read_bytes()
    written: dict[int, bytes] = {}
    levels = verity.Levels(tree, written.__setitem__)
    levels.add(blocks_of(disk, tree)[0])
    assert levels.finish() == root
    assert sorted(written) == list(tree.place)
    assert all(data[at * BLOCK : (at + 1) * BLOCK] == block for at, block in written.items())


def test_another_tree_or_other_data_has_no_root_hash(tmp_path: Path) -> None:
    disk, tree, root = formatted(tmp_path, 300)
    data = bytearray(disk.read_bytes())

    def there(at: int) -> bytes:
        return bytes(data[at * BLOCK : (at + 1) * BLOCK])

    assert verity.root_hash(tree, blocks_of(disk, tree), there) == root
    data[tree.place[-1] * BLOCK + 5] ^= 1
    assert verity.root_hash(tree, blocks_of(disk, tree), there) is None
    assert verity.root_hash(replace(tree, salt=b""), blocks_of(disk, tree), there) is None


def published(repository: Repository, disk: Path, tree: Tree | None) -> Artifact:
    """The disk in the store."""
    plain = repository.publish_path(disk)
    if tree is None:
        return plain
    with KnownBlocks(repository.folder / "other.sqlite") as known:
        index = publish_file(disk, repository.store, known, tree=tree)
    return plain.model_copy(update={"index": index})


def test_the_tree_is_neither_stored_nor_moved(repository: Repository, tmp_path: Path) -> None:
    disk, tree, _ = formatted(tmp_path, 1000)
    whole, short = published(repository, disk, None), published(repository, disk, tree)
    assert whole.index
    assert short.index
    saved = sum(load(repository.store, whole.index).runs.count) - sum(
        load(repository.store, short.index).runs.count
    )
    assert saved == len(tree.place)
    fetch(short, tmp_path / "host" / "disk", repository.store)
    assert (tmp_path / "host" / "disk").read_bytes() == disk.read_bytes()


def test_a_fetch_that_was_ended_in_the_middle_computes_the_tree_when_it_goes_on(
    repository: Repository, tmp_path: Path
) -> None:
    disk, tree, _ = formatted(tmp_path, 1000)
    artifact = published(repository, disk, tree)
    target = tmp_path / "host" / "disk"
    target.parent.mkdir()
    left = bytearray(disk.read_bytes())
    left[300 * BLOCK : 600 * BLOCK] = bytes(300 * BLOCK)
    left[tree.at * BLOCK : (tree.at + 3) * BLOCK] = os.urandom(3 * BLOCK)
    (target.parent / ".disk.partial").write_bytes(left)
    fetch(artifact, target, repository.store)
    assert target.read_bytes() == disk.read_bytes()
    assert index_file(target).exists()


def test_an_index_with_the_wrong_tree_makes_no_file(repository: Repository, tmp_path: Path) -> None:
    disk, tree, _ = formatted(tmp_path, 1000)
    artifact = published(repository, disk, tree)
    assert artifact.index
    index = load(repository.store, artifact.index)
    lie = repository.store.write(encode(replace(index, tree=replace(tree, salt=b"other"))))
    with pytest.raises(CorruptError, match="other bytes than its index"):
        fetch(artifact.model_copy(update={"index": lie}), tmp_path / "host" / "disk", repository.store)
    assert not (tmp_path / "host" / "disk").exists()


@given(
    data=st.integers(0, 3000),
    blocks=st.integers(0, 1 << 32),
    at=st.integers(0, 3000),
    salt=st.binary(max_size=300),
)
def test_any_tree_that_is_read_lies_in_the_file_and_behind_its_data(
    data: int, blocks: int, at: int, salt: bytes
) -> None:
    """Else a reader might wait for ever for one before the other, or write outside."""
    tree = Tree(data, min(blocks, (1 << 32) - 1), at, salt)
    index = Index(3000 * BLOCK, (), bytes(REGION_DIGEST * 12), Runs(), tree)
    try:
        found = decode(encode(index), "here").tree
    except CorruptError:
        return
    assert found == tree
    assert tree.blocks > 1
    assert (tree.data + tree.blocks - 1) // 256 < tree.at // 256
    assert tree.place.stop <= 3000


def test_a_run_that_covers_the_tree_is_refused() -> None:
    for to, count in ((2000, 1), (1990, 11), (1999, 2)):
        runs = Runs()
        runs.append(to, 0, 0, count)
        packs = (Pack(Object(digest="sha256:" + "a" * 64, size=5000), 100),)
        index = Index(3000 * BLOCK, packs, bytes(REGION_DIGEST * 12), runs, Tree(0, 10, 2000, b""))
        with pytest.raises(CorruptError, match="covers its hash tree"):
            decode(encode(index), "here")


def test_a_section_of_another_size_is_refused() -> None:
    index = Index(3000 * BLOCK, (), bytes(REGION_DIGEST * 12), Runs(), Tree(0, 10, 2000, bytes(257)))
    with pytest.raises(CorruptError, match="VRTY"):
        decode(encode(index), "here")
