"""Repairing: what is damaged or missing comes back right, from a mirror or from the built files, or is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from kiosk.errors import UsageError
from kiosk.model.manifest import Object
from kiosk.publish.prune import prune
from kiosk.publish.repair import repair
from kiosk.publish.retention import Rule
from kiosk.publish.signed import listed
from kiosk.serve import static
from kiosk.store.api import DirectoryStore
from kiosk.store.objects import path_of
from kiosk.store.usage import indexes
from tests.failures.interrupted import killed_at
from tests.simulators.published import Kiosk, ask, ready


@pytest.fixture
def kiosk(tmp_path: Path) -> Kiosk:
    """worker@1 and @2, and a layer."""
    made = ready(tmp_path / "kiosk")
    made.image(version="2")
    return made


def files(kiosk: Kiosk) -> dict[str, bytes]:
    folder = kiosk.settings.repository
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def lose(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def every(kiosk: Kiosk, some: str) -> list[Path]:
    store = DirectoryStore(kiosk.settings.repository)
    of_indexes: list[Object] = indexes(listed(kiosk.settings).versions)
    torrents = [m.torrent.file for m in listed(kiosk.settings).versions if m.torrent]
    wanted = {
        "indexes": of_indexes,
        "packs": [o for o in store.objects() if o not in of_indexes + torrents],
        "objects": list(store.objects()),
    }[some]
    return [kiosk.settings.repository / path_of(o.digest) for o in wanted]


@pytest.mark.parametrize("damage", [lose, cut, flip])
@pytest.mark.parametrize("some", ["indexes", "packs", "objects"])
def test_a_mirror_gives_everything_back(
    some: str, damage: Callable[[Path], None], kiosk: Kiosk, tmp_path: Path
) -> None:
    shutil.copytree(kiosk.settings.repository, tmp_path / "mirror")
    shutil.rmtree(kiosk.settings.images)
    right = files(kiosk)
    for path in every(kiosk, some):
        damage(path)
    done = repair(kiosk.settings, str(tmp_path / "mirror"))
    assert not done.left
    assert len(done.mends) == len(every(kiosk, some))
    assert {m.way for m in done.mends} == {f"from file://{tmp_path}/mirror"}
    assert files(kiosk) == right


def test_a_mirror_over_http_gives_objects_and_manifests_back(kiosk: Kiosk, tmp_path: Path) -> None:
    shutil.copytree(kiosk.settings.repository, tmp_path / "mirror")
    right = files(kiosk)
    lost = next((kiosk.settings.repository / "targets/images/worker").iterdir())
    lost.unlink()
    flip(every(kiosk, "packs")[0])
    with static.serve(tmp_path / "mirror", "127.0.0.1", 0) as server, server.running() as url:
        done = repair(kiosk.settings, url)
    assert (len(done.mends), done.left) == (2, [])
    assert files(kiosk) == right


@pytest.mark.parametrize("damage", [lose, cut, flip])
@pytest.mark.parametrize("some", ["indexes", "packs"])
def test_the_built_files_give_the_same_objects_again(
    some: str, damage: Callable[[Path], None], kiosk: Kiosk
) -> None:
    right = files(kiosk)
    for path in every(kiosk, some):
        damage(path)
    done = repair(kiosk.settings)
    assert not done.left
    assert {m.way for m in done.mends} == {"from the built files"}
    assert files(kiosk) == right


def test_packs_that_later_versions_use_are_made_again_without_the_first(kiosk: Kiosk) -> None:
    shutil.rmtree(kiosk.settings.images / "worker/1")
    for path in every(kiosk, "packs"):
        path.unlink()
    done = repair(kiosk.settings)
    mended = {m.versions for m in done.mends if m.way}
    assert mended == {("worker@1", "worker@2"), ("worker@2",), ("site/a/base@1",)}
    assert {m.versions for m in done.left} == {("worker@1",), ("worker@1", "worker@2")}, (
        "the first disk's pack"
    )


def test_blocks_that_only_withdrawn_versions_used_are_found_in_their_built_files(kiosk: Kiosk) -> None:
    prune(kiosk.settings, ask, Rule(1), grace=timedelta(0))
    right = files(kiosk)
    for path in every(kiosk, "packs"):
        path.unlink()
    done = repair(kiosk.settings)
    assert not done.left
    assert files(kiosk) == right


def test_what_nobody_has_is_named_with_the_versions_that_need_it(kiosk: Kiosk, tmp_path: Path) -> None:
    shutil.rmtree(kiosk.settings.images)
    (tmp_path / "mirror").mkdir()
    damaged = every(kiosk, "packs")
    for path in damaged:
        flip(path)
    before = files(kiosk)
    done = repair(kiosk.settings, str(tmp_path / "mirror"))
    assert {m.path for m in done.left} == {str(p.relative_to(kiosk.settings.repository)) for p in damaged}
    assert {v for m in done.left for v in m.versions} == {"worker@1", "worker@2", "site/a/base@1"}
    assert files(kiosk) == before


def test_a_mirror_that_lies_changes_nothing(kiosk: Kiosk, tmp_path: Path) -> None:
    shutil.copytree(kiosk.settings.repository, tmp_path / "mirror")
    shutil.rmtree(kiosk.settings.images)
    path = every(kiosk, "packs")[0]
    flip(path)
    flip(tmp_path / "mirror" / path.relative_to(kiosk.settings.repository))
    before = files(kiosk)
    assert len(repair(kiosk.settings, str(tmp_path / "mirror")).left) == 1
    assert files(kiosk) == before


def test_built_files_that_were_changed_change_nothing(kiosk: Kiosk) -> None:
    every(kiosk, "packs")[0].unlink()
    for path in kiosk.settings.images.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            flip(path)
    before = files(kiosk)
    assert repair(kiosk.settings).left
    assert files(kiosk) == before


def test_a_dry_run_says_what_it_would_do_and_does_nothing(kiosk: Kiosk) -> None:
    for path in every(kiosk, "packs"):
        flip(path)
    before = files(kiosk)
    done = repair(kiosk.settings, dry_run=True)
    assert done.mends
    assert not done.left
    assert files(kiosk) == before


def test_a_whole_repository_is_left_alone(kiosk: Kiosk) -> None:
    before = files(kiosk)
    assert repair(kiosk.settings).mends == ()
    assert files(kiosk) == before
    with pytest.raises(UsageError, match="is not a repository"):
        repair(kiosk.settings, "ftp://mirror")


def test_a_repair_that_is_killed_goes_on(kiosk: Kiosk) -> None:
    right = files(kiosk)
    for step in (1, 2, 3):
        for path in every(kiosk, "packs"):
            flip(path)
        assert killed_at(step, lambda: repair(kiosk.settings))
        repair(kiosk.settings)
        assert {p: b for p, b in files(kiosk).items() if not p.endswith(".new")} == right
