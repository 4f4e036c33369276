"""A day of package updates on a real file system: the difference is short, right, and only ever a short cut."""

from __future__ import annotations

import random
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kiosk.config import Settings
from kiosk.errors import CorruptError
from kiosk.model.manifest import Artifact, Difference, Object
from kiosk.publish import differ
from kiosk.store import difference, wire
from kiosk.store.fetch import FetchReport, Seed, fetch
from kiosk.store.index import Index, load
from kiosk.sync.sync import Result
from tests.publish.large import publish_large
from tests.simulators.published import ready
from tests.store.files import Repository

WORDS = [random.Random(n).randbytes(6) for n in range(3000)]


def program(name: str, version: int) -> bytes:
    """A compressible file of 100 kB or so, of which a new version changes a little everywhere."""
    chance = random.Random(name)
    words = [chance.choice(WORDS) for _ in range(16_000)]
    change = random.Random(f"{name} {version}")
    for _ in range(400 * version):
        words[change.randrange(len(words))] = change.randbytes(6)
    return b"".join(words)


def tree(folder: Path, version: int) -> Path:
    """Programs of which half are updated, and a kernel whose folder has its version in its name."""
    for i in range(40):
        path = folder / f"usr/bin/program-{'abcdefgh'[i % 8] * (i // 8 + 1)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(program(path.name, version if i % 2 else 1))
    module = folder / f"lib/modules/6.1.0-{version}/kernel/large.ko"
    module.parent.mkdir(parents=True)
    module.write_bytes(program("large.ko", version) * 4)
    return folder


def disk(folder: Path, version: int) -> Path:
    made = folder / f"disk-{version}.raw"
    source = tree(folder / f"tree-{version}", version)
    argv = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal", "-d", str(source), str(made), "48M"]
    subprocess.run(argv, check=True)
    return made


@dataclass
class Two:
    """Two versions in a repository, the difference between them, and a host that holds the first."""

    repository: Repository
    old: Artifact
    new: Artifact
    host: Path
    made: Difference

    @property
    def seed(self) -> Seed:
        return Seed(self.host / "old", self.index(self.old), self.old.digest)

    def index(self, artifact: Artifact) -> Object:
        assert artifact.index is not None
        return artifact.index

    def fetch(self, offered: Difference | None = None) -> FetchReport:
        artifact = self.new.model_copy(update={"differences": (offered or self.made,)})
        return fetch(artifact, self.host / "new", self.repository.store, [self.seed])

    def right(self) -> bool:
        return (self.host / "new").read_bytes() == (self.repository.folder / "disk-2.raw").read_bytes()

    def groups(self) -> difference.Difference:
        index: Index = load(self.repository.store, self.index(self.new))
        return difference.load(self.repository.store, self.made.groups, index)

    def offered(self, changed: difference.Difference) -> Difference:
        """Another list of groups, in the store."""
        stored = self.repository.store.write(difference.encode(changed))
        return self.made.model_copy(update={"groups": stored})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Two:
    folder = tmp_path_factory.mktemp("differences")
    repository = Repository(folder)
    old = repository.publish_path(disk(folder, 1))
    new = repository.publish_path(disk(folder, 2))
    (folder / "host").mkdir()
    shutil.copyfile(folder / "disk-1.raw", folder / "host" / "old")
    assert old.index
    assert new.index
    store = repository.store
    older = differ.Older(folder / "disk-1.raw", old.digest, load(store, old.index))
    made = differ.make(folder / "disk-2.raw", load(store, new.index), older, store, seconds=2)
    assert made is not None
    return Two(repository, old, new, folder / "host", made)


@pytest.fixture
def two(template: Two, tmp_path: Path) -> Two:
    """Everything copied, to do as one likes with."""
    shutil.copytree(template.repository.folder, tmp_path / "all")
    return replace(template, repository=Repository(tmp_path / "all"), host=tmp_path / "all/host")


def test_a_host_takes_the_difference_and_moves_a_third_of_what_packs_would(two: Two) -> None:
    by_packs = fetch(two.new, two.host / "packs", two.repository.store, [two.seed])
    report = two.fetch()
    assert two.right()
    assert (by_packs.way, report.way, report.regions_repaired) == ("packs", "difference", 0)
    assert report.bytes_moved < by_packs.bytes_moved / 3


def test_groups_yield_every_new_block_and_refer_to_old_ones_only(two: Two) -> None:
    found = two.groups()
    assert found.base_blocks == -(-two.old.size // 4096)
    assert all(g.reference for g in found.groups)
    assert difference.cost(found.groups) == two.made.size


def test_a_host_without_the_version_before_takes_packs(two: Two) -> None:
    artifact = two.new.model_copy(update={"differences": (two.made,)})
    report = fetch(artifact, two.host / "new", two.repository.store)
    assert (report.way, two.right()) == ("packs", True)


def test_a_host_whose_old_file_is_not_what_it_should_be_still_ends_with_the_right_one(two: Two) -> None:
    """Every block of it: what is made from it is wrong, noticed, and fetched."""
    (two.host / "old").write_bytes(random.Random(1).randbytes(two.old.size))
    report = two.fetch()
    assert two.right()
    assert report.regions_repaired > 0


def test_an_old_file_on_a_bad_disk_costs_downloads_and_nothing_else(two: Two) -> None:
    """Reading /proc/self/mem from its beginning is an I/O error each time, as a bad sector's is."""
    artifact = two.new.model_copy(update={"differences": (two.made,)})
    bad = Seed(Path("/proc/self/mem"), two.index(two.old), two.old.digest)
    report = fetch(artifact, two.host / "new", two.repository.store, [bad])
    assert two.right()
    assert report.regions_repaired > 0


def test_an_old_file_that_is_gone_is_passed_over(two: Two) -> None:
    (two.host / "old").unlink()
    assert two.fetch().way == "packs"
    assert two.right()


@pytest.mark.parametrize("damage", ["missing", "other bytes", "its list is missing"])
def test_objects_of_a_difference_that_are_lost_or_wrong_are_replaced_by_packs(two: Two, damage: str) -> None:
    store = two.repository.store
    one = two.groups().groups[0].object
    if damage == "other bytes":
        path = two.repository.folder / f"repository/objects/{one.digest[7:9]}/{one.digest[7:]}"
        path.write_bytes(bytes(one.size))
    else:
        store.remove(two.made.groups.digest if damage == "its list is missing" else one.digest)
    report = two.fetch()
    assert two.right()
    assert (report.way == "packs") == (damage == "its list is missing")


def test_a_group_that_yields_other_blocks_than_it_says_is_noticed(two: Two) -> None:
    found = two.groups()
    first = found.groups[0]
    pack, slot, count = first.yields[0]
    swapped = replace(first, yields=((pack, slot, count), *first.yields[1:]), reference=first.reference[::-1])
    report = two.fetch(two.offered(replace(found, groups=(swapped, *found.groups[1:]))))
    assert two.right()
    assert report.regions_repaired > 0 or first.reference == first.reference[::-1]


def lie(found: difference.Difference, **changes: object) -> difference.Difference:
    return replace(found, groups=(replace(found.groups[0], **changes), *found.groups[1:]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("a reference outside the old file", "refers to"),
        ("a reference of nothing", "refers to"),
        ("more references than a reader holds", "too large"),
        ("a pack that is not there", "yields"),
        ("slots that are not there", "yields"),
        ("nothing", "too large"),
        ("more than a group holds", "too large"),
        ("an object that is larger than its blocks", "bytes"),
        ("another index", "packs"),
    ],
)
def test_lists_that_lie_are_refused(two: Two, what: str, says: str) -> None:
    found, index = two.groups(), load(two.repository.store, two.index(two.new))
    pack, slot, _ = found.groups[0].yields[0]
    size = index.packs[pack].blocks
    lies = {
        "a reference outside the old file": lie(found, reference=((found.base_blocks, 1),)),
        "a reference of nothing": lie(found, reference=((0, 0),)),
        "more references than a reader holds": lie(found, reference=((0, 2048),) * 3),
        "a pack that is not there": lie(found, yields=((len(index.packs), 0, 1),)),
        "slots that are not there": lie(found, yields=((pack, slot, size + 1),)),
        "nothing": lie(found, yields=()),
        "more than a group holds": lie(found, yields=((pack, 0, size),) * (2048 // size + 1)),
        "an object that is larger than its blocks": lie(
            found, object=Object(digest=found.groups[0].object.digest, size=1 << 26)
        ),
        "another index": replace(found, packs=found.packs + 1),
    }
    with pytest.raises(CorruptError, match=says):
        difference.decode(difference.encode(lies[what]), index, "here")
    assert two.fetch(two.offered(lies[what])).way == "packs"
    assert two.right()


def test_a_bomb_is_not_unpacked(two: Two) -> None:
    """A group of few stored bytes that declares gigabytes of content."""
    bomb = wire.seal(wire.GROUP, bytes(64 << 20), level=1, prefix=b"x" * 4096)
    with pytest.raises(CorruptError, match="more than"):
        difference.unseal(bomb, b"x" * 4096, 10, "here")


def test_a_difference_that_saves_nothing_is_not_kept(tmp_path: Path) -> None:
    """New bytes that resemble nothing: the packs are as short."""
    repository = Repository(tmp_path)
    old = repository.publish("old", random.Random(1).randbytes(1 << 20))
    new = repository.publish("new", random.Random(2).randbytes(1 << 20))
    assert old.index
    assert new.index
    store = repository.store
    before = repository.objects()
    older = differ.Older(tmp_path / "old", old.digest, load(store, old.index))
    assert differ.make(tmp_path / "new", load(store, new.index), older, store, seconds=1) is None
    assert repository.objects() == before


def test_an_older_file_that_changed_since_it_was_published_is_not_referred_to(
    two: Two, tmp_path: Path
) -> None:
    store = two.repository.store
    changed = tmp_path / "changed"
    changed.write_bytes(random.Random(3).randbytes(two.old.size))
    older = differ.Older(changed, two.old.digest, load(store, two.index(two.old)))
    made = differ.make(
        two.repository.folder / "disk-2.raw", load(store, two.index(two.new)), older, store, seconds=1
    )
    assert made is None or two.fetch(made).regions_repaired == 0


def test_hosts_several_versions_behind_have_differences_of_their_own(tmp_path: Path) -> None:
    """Published with differences to the last two: one host is one behind, another two, a third has nothing."""
    kiosk = ready(tmp_path)
    kiosk.settings = kiosk.settings.model_copy(update={"difference_seconds": 0, "differences": 2})
    hosts = [kiosk.hypervisor.model_copy(update={"home": tmp_path / name}) for name in ("two", "one", "none")]

    def synced(host: Settings) -> Result:
        kiosk.hypervisor = host
        (done,) = kiosk.sync("worker").results
        return done

    publish_large(kiosk, 20)
    synced(hosts[0])
    publish_large(kiosk, 21)
    synced(hosts[1])
    shutil.rmtree(kiosk.settings.images / "worker" / "20")  # its bytes are still in the repository
    last = publish_large(kiosk, 22)
    (stored,) = [a for a in last.artifacts if a.name == "disk"]
    assert len(stored.differences) == 2
    results = [synced(host) for host in hosts]
    assert [r.ways["disk.raw"] for r in results] == ["difference", "difference", "packs"]
    assert max(r.moved for r in results[:2]) < results[2].moved / 10
