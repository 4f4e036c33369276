"""Pruning: old versions go, what is needed stays, and nobody who is reading notices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from kiosk import clock
from kiosk.errors import BusyError, CorruptError, KioskError, NotFoundError
from kiosk.model.names import parse_ref
from kiosk.publish import publish
from kiosk.publish.prune import Pruned, prune
from kiosk.publish.retention import Rule
from kiosk.publish.signed import listed
from kiosk.store import inventory
from kiosk.store.api import DirectoryStore
from kiosk.store.fetch import fetch
from kiosk.store.needs import needs
from kiosk.trust.client import TrustedRepository
from tests.failures.interrupted import killed_at
from tests.publish.large import publish_disk, publish_large
from tests.simulators.published import Kiosk, ask, build_image, disk_bytes, ready

DAY = timedelta(days=1)


def after(hours: float) -> clock.Clock:
    """A clock that is ahead."""
    return lambda: clock.now() + timedelta(hours=hours)


def pruned(
    kiosk: Kiosk, keep: int | None = 1, days: int | None = None, *names: str, hours: float = 0, **more: object
) -> Pruned:
    refs = [parse_ref(n) for n in names]
    return prune(kiosk.settings, ask, Rule(keep, days), refs, grace=DAY, now=after(hours), **more)  # type: ignore[arg-type]


def everything(kiosk: Kiosk) -> set[str]:
    folder = kiosk.settings.repository
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def reader(kiosk: Kiosk, folder: Path) -> TrustedRepository:
    return TrustedRepository(folder, kiosk.settings.repository, kiosk.root.read_bytes())


def offered(kiosk: Kiosk, folder: Path) -> list[str]:
    return [str(r) for r in reader(kiosk, folder).manifests()]


def whole(kiosk: Kiosk) -> bool:
    return not inventory.verify(kiosk.settings.repository).damaged


@pytest.fixture
def four(tmp_path: Path) -> Kiosk:
    """worker@1 to @4, and a layer."""
    kiosk = ready(tmp_path)
    for version in ("2", "3", "4"):
        kiosk.image(version=version)
    return kiosk


def test_old_versions_are_withdrawn_at_once_and_removed_after_the_grace(four: Kiosk, tmp_path: Path) -> None:
    before = everything(four)
    done = pruned(four, 2)
    assert done.withdrawn == ("worker@1", "worker@2")
    assert [s.role for s in done.signatures] == ["images", "snapshot", "timestamp"]
    assert offered(four, tmp_path / "r") == ["worker@3", "worker@4", "site/a/base@1"]
    assert (done.removed, done.waiting > 8) == (0, True)
    assert before <= everything(four)
    assert pruned(four, 2, hours=23.9).removed == 0
    later = pruned(four, 2, hours=24.1)
    assert (later.withdrawn, later.signatures, later.removed) == ((), (), done.waiting)
    assert later.removed_bytes == done.waiting_bytes > 300_000
    assert whole(four)
    assert four.sync("worker").results[0].version == "4"
    assert pruned(four, 2, hours=48).removed == 0


@pytest.mark.parametrize("rule", [(1, None), (None, 0), (1, 0)])
def test_the_newest_version_of_a_name_always_stays(
    rule: tuple[int | None, int | None], four: Kiosk, tmp_path: Path
) -> None:
    assert pruned(four, *rule).withdrawn == ("worker@1", "worker@2", "worker@3")
    assert offered(four, tmp_path / "r") == ["worker@4", "site/a/base@1"]


def test_only_the_names_given_are_pruned_and_all_is_kept_without_a_rule(four: Kiosk) -> None:
    assert pruned(four, 1, None, "site/a/base").withdrawn == ()
    assert pruned(four, None, None).withdrawn == ()
    assert pruned(four, None, 36500).withdrawn == ()
    with pytest.raises(NotFoundError, match="unheard-of has no version"):
        pruned(four, 1, None, "unheard-of")


def test_a_dry_run_says_the_same_and_changes_nothing(four: Kiosk) -> None:
    before = everything(four)

    def never(_: str) -> bytes:
        raise AssertionError("no passphrase is needed")

    dry = prune(four.settings, never, Rule(1), grace=timedelta(0), dry_run=True)
    assert everything(four) == before
    assert not four.settings.home.joinpath("unneeded.json").exists()
    real = prune(four.settings, ask, Rule(1), grace=timedelta(0))
    assert (dry.withdrawn, dry.dead_bytes) == (real.withdrawn, real.dead_bytes)
    assert 0 < dry.removed <= real.removed


def test_a_reader_that_has_read_older_metadata_finishes_within_the_grace(four: Kiosk, tmp_path: Path) -> None:
    slow = reader(four, tmp_path / "slow")
    manifest = slow.manifest(parse_ref("worker@1"))
    listing = reader(four, tmp_path / "listing")
    listing.refresh()  # it has the timestamp and the snapshot, and will ask for the rest
    pruned(four, 1)
    pruned(four, 1, hours=23)
    assert listing.manifest(parse_ref("worker@1")) == manifest
    for name, artifact in manifest.artifacts.items():
        fetch(artifact, tmp_path / name, DirectoryStore(four.settings.repository))
    assert offered(four, tmp_path / "new") == ["worker@4", "site/a/base@1"]


def test_what_an_interrupted_publish_stored_waits_for_it(four: Kiosk) -> None:
    folder = build_image(four.settings, version="5")
    before = everything(four)
    assert killed_at(6, lambda: publish(four.settings, folder, ask))
    stored = everything(four) - before
    assert len(stored) > 3
    assert pruned(four, None).removed == 0
    assert stored <= everything(four)
    done = publish(four.settings, folder, ask)
    assert done.new_objects < 5
    assert pruned(four, None, hours=25).removed > 0, "old metadata"
    assert whole(four)
    assert four.sync("worker").results[0].version == "5"


def test_what_was_never_finished_goes_and_can_be_published_later(four: Kiosk) -> None:
    folder = build_image(four.settings, version="5")
    before = everything(four)
    assert killed_at(6, lambda: publish(four.settings, folder, ask))
    pruned(four, None)
    pruned(four, None, hours=25)
    assert {p for p in everything(four) if not p.startswith("metadata")} <= before
    publish(four.settings, folder, ask)
    assert whole(four)
    assert four.sync("worker").results[0].version == "5"


def test_a_number_that_an_interrupted_run_has_used_stays_used(four: Kiosk) -> None:
    folder = build_image(four.settings, version="5")
    for step in range(1, 40):
        killed_at(step, lambda: publish(four.settings, folder, ask))
        if left := list(four.metadata.glob("5.images.json")):
            break
    content = left[0].read_bytes()
    pruned(four, None)
    pruned(four, None, hours=25)
    assert left[0].read_bytes() == content
    publish(four.settings, folder, ask)
    assert left[0].read_bytes() == content
    assert (four.metadata / "6.images.json").exists()


def test_every_root_stays_and_one_of_each_other_role(four: Kiosk) -> None:
    four.repository()
    pruned(four, None)
    pruned(four, None, hours=25)
    left = sorted(p.name for p in four.metadata.iterdir())
    roles = [name.split(".", 1)[1] for name in left if name[0].isdigit()]
    assert "1.root.json" in left
    assert sorted(roles) == sorted(set(roles))


def test_a_publish_that_is_running_is_not_disturbed(four: Kiosk) -> None:
    with four.repository().locked(), pytest.raises(BusyError, match="another kiosk"):
        pruned(four)


def test_a_role_whose_key_is_elsewhere_is_left_as_it_is(four: Kiosk, tmp_path: Path) -> None:
    four.layer("site/a", version="2")
    (four.settings.keys / "site-a.pem").rename(tmp_path / "elsewhere.pem")
    done = pruned(four, 1)
    assert "site/a/base@1" not in done.withdrawn
    assert "worker@1" in done.withdrawn
    assert [(left.role, left.versions) for left in done.left] == [("site-a", ("site/a/base@1",))]
    pruned(four, 1, hours=25)
    assert "site/a/base@1" in offered(four, tmp_path / "r")
    assert whole(four)


def test_what_lies_below_targets_protects_nothing(four: Kiosk) -> None:
    pruned(four, 1)
    target = next((four.settings.repository / "targets/images/worker").glob("*.1.json"))
    copy = target.with_name(f"{'a' * 64}.1.json")
    shutil.copy(target, copy)
    pruned(four, 1, hours=25)
    assert not target.exists()
    assert copy.exists(), "it is new, and waits"
    assert pruned(four, 1, hours=50).removed == 1


def lose_manifest(kiosk: Kiosk) -> None:
    next((kiosk.settings.repository / "targets/images/worker").glob("*.2.json")).unlink()


def forge_manifest(kiosk: Kiosk) -> None:
    file = next((kiosk.settings.repository / "targets/images/worker").glob("*.4.json"))
    file.write_bytes(file.read_bytes().replace(b'"os":"debian"', b'"os":"debiax"'))


def lose_index(kiosk: Kiosk) -> None:
    file = next((kiosk.settings.repository / "targets/images/worker").glob("*.4.json"))
    index = json.loads(file.read_bytes())["artifacts"]["disk"]["index"]["digest"]
    DirectoryStore(kiosk.settings.repository).remove(index)


def forge_metadata(kiosk: Kiosk) -> None:
    for file in kiosk.metadata.glob("*.images.json"):
        file.write_bytes(file.read_bytes().replace(b"images/worker/4.json", b"images/worker/7.json"))


@pytest.mark.parametrize("damage", [lose_manifest, forge_manifest, lose_index, forge_metadata])
def test_when_it_is_not_known_what_is_needed_nothing_is_touched(
    damage: Callable[[Kiosk], None], four: Kiosk
) -> None:
    pruned(four, 3)  # something waits already
    damage(four)
    before = everything(four)
    with pytest.raises(KioskError) as wrong:
        prune(four.settings, ask, Rule(1), grace=timedelta(0), now=after(30))
    assert isinstance(wrong.value, NotFoundError | CorruptError) or wrong.value.exit_code == 5
    assert everything(four) == before


def test_what_a_version_needed_until_now_waits_the_whole_grace(four: Kiosk) -> None:
    """It was unneeded once, came to be used again, and is given up with the version that used it."""
    pruned(four, keep=1, hours=0)
    publish_disk(four, 5, disk_bytes("2"))
    store = DirectoryStore(four.settings.repository)
    (manifest,) = [m for m in listed(four.settings).versions if str(m.ref) == "worker@5"]
    objects = list(needs(store, manifest))
    four.image(version="6")
    assert "worker@5" in pruned(four, keep=1, hours=25).withdrawn
    assert all(store.has(o) for o in objects), "a reader with the metadata of a minute ago still finds them"
    pruned(four, keep=1, hours=50)
    assert not all(store.has(o) for o in objects)


def test_a_lost_journal_makes_all_wait_once_more(four: Kiosk) -> None:
    waiting = pruned(four).waiting
    for damage in (b"{", b'{"schema": "kiosk.unneeded/1", "since": {"x": 1e99}}', None):
        journal = four.settings.home / "unneeded.json"
        journal.unlink() if damage is None else journal.write_bytes(damage)
        done = pruned(four, hours=25)
        assert (done.removed, done.waiting) == (0, waiting)
    assert pruned(four, hours=50).removed == waiting


def test_a_clock_that_was_set_back_does_not_make_things_wait_for_ever(four: Kiosk) -> None:
    waiting = pruned(four, hours=10_000).waiting
    assert pruned(four, hours=0).removed == 0
    assert pruned(four, hours=25).removed >= waiting


def test_a_withdrawn_version_can_not_come_back(four: Kiosk) -> None:
    pruned(four)
    with pytest.raises(KioskError, match="older than version 4"):
        publish(four.settings, four.settings.images / "worker/2", ask)


def test_killed_at_every_rename_and_removal(tmp_path: Path) -> None:
    """The first call withdraws, the second, a day later, removes."""
    template = ready(tmp_path / "template")
    template.image(version="2")
    for hours, least in ((0.0, 8), (25.0, 9)):
        killed, step = True, 0
        while killed:
            step += 1
            home = tmp_path / f"{hours}-{step}"
            shutil.copytree(template.home, home)
            kiosk = Kiosk(home)
            killed = killed_at(step, lambda k=kiosk, h=hours: pruned(k, 1, hours=h), removals=True)  # type: ignore[misc]
            found = listed(kiosk.settings)
            versions = found.versions
            assert str(versions[-1].ref) == "site/a/base@1"
            assert [str(m.ref) for m in versions[:-1]] in (["worker@1", "worker@2"], ["worker@2"])
            assert not found.wrong
            assert [str(m.ref) for m in found.past] == ["worker@1"][: 3 - len(versions)]
            assert whole(kiosk)
            assert pruned(kiosk, 1, hours=hours).withdrawn in ((), ("worker@1",))
            if not killed:
                assert whole(kiosk)
                assert kiosk.sync("worker").results[0].version == "2"
            shutil.rmtree(home)
        assert step > least
        pruned(template, 1, hours=hours)


def test_differences_stay_with_their_version_and_go_with_it(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    kiosk.settings = kiosk.settings.model_copy(update={"difference_seconds": 0})

    for version in (20, 21):
        publish_large(kiosk, version)
        if version == 20:
            assert kiosk.sync("worker").failure is None
    newest = listed(kiosk.settings).versions[-2]
    assert newest.artifacts["disk"].differences
    objects = {o.digest for o in needs(DirectoryStore(kiosk.settings.repository), newest)}
    prune(kiosk.settings, ask, Rule(1), grace=timedelta(0))
    layer = {
        o.digest
        for o in needs(DirectoryStore(kiosk.settings.repository), listed(kiosk.settings).versions[-1])
    }
    papers = {
        o.digest
        for past in listed(kiosk.settings).past
        for o in needs(DirectoryStore(kiosk.settings.repository), past)
    }
    assert {o.digest for o in DirectoryStore(kiosk.settings.repository).objects()} == objects | layer | papers
    done = kiosk.sync("worker")
    assert done.failure is None
    assert done.results[0].moved < 900_000, "the first megabyte by its difference"
