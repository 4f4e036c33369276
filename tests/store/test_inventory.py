"""`kiosk store`: counts are right, and every damaged or missing object is named with the versions that need it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kiosk.model.manifest import Artifact, Declarations, LayerManifest
from kiosk.store import inventory
from kiosk.store.index import load
from kiosk.store.known import KnownBlocks
from tests.store.files import Repository, content


def version(repository: Repository, number: str, artifact: Artifact) -> None:
    """A manifest of a version, as it stands below targets/."""
    manifest = LayerManifest(
        kind="site",
        owner="example",
        name="base",
        version=number,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        prefix="/opt/site",
        images=("debian",),
        declares=Declarations(),
        artifacts={"layer": artifact},
    )
    folder = repository.store.repository / "targets/layers/site/example/base"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{'a' * 64}.{number}.json").write_bytes(manifest.to_json())


@pytest.fixture
def published(repository: Repository) -> tuple[Artifact, Artifact]:
    first = repository.publish("a", content(range(1, 2000)))
    second = repository.publish("b", content(range(1100, 3000)))
    version(repository, "1", first)
    version(repository, "2", second)
    return first, second


def kiosk(repository: Repository, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "KIOSK_HOME": str(repository.folder)}
    return subprocess.run(
        [sys.executable, "-m", "kiosk", "store", *words], env=env, capture_output=True, text=True, check=False
    )


def test_what_is_no_object_is_passed_over(
    repository: Repository, published: tuple[Artifact, Artifact]
) -> None:
    """A writer's new file, a note in the folder, and what vanishes between listing and looking."""
    folder = repository.store.repository / "objects"
    some = next(iter(repository.store.objects()))
    (folder / some.digest[7:9] / f".{some.digest[7:]}.abc.new").write_bytes(b"")
    (folder / "README").write_text("what is this")
    (folder / some.digest[7:9] / ("0" * 64)).symlink_to("nowhere")
    (folder / some.digest[7:9] / (some.digest[7:9] + "0" * 62)).symlink_to("nowhere")
    assert len(list(repository.store.objects())) == 5


def test_stats_count_what_is_there(repository: Repository, published: tuple[Artifact, Artifact]) -> None:
    repository.store.write(b"left by a publish that was interrupted")
    done = kiosk(repository, "stats", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {
        "versions": 2,
        "files": 2,
        "file_bytes": sum(a.size for a in published),
        "objects": 6,
        "object_bytes": sum(o.size for o in repository.store.objects()),
        "indexes": 2,
        "index_bytes": sum(a.index.size for a in published if a.index),
        "packs": 3,
        "pack_bytes": found["pack_bytes"],
        "dead_bytes": 0,
        "helpers": 0,
        "helper_bytes": 0,
        "unnamed": 1,
        "unnamed_bytes": 38,
    }
    assert found["index_bytes"] + found["pack_bytes"] + 38 == found["object_bytes"]
    assert "versions" in kiosk(repository, "stats").stdout


def test_a_whole_store_is_said_to_be_whole(
    repository: Repository, published: tuple[Artifact, Artifact]
) -> None:
    done = kiosk(repository, "verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 objects" in done.stdout


def test_damage_is_named_with_the_versions_that_need_it(
    repository: Repository, published: tuple[Artifact, Artifact]
) -> None:
    first, second = published
    assert first.index is not None and second.index is not None
    shared = load(repository.store, second.index).packs[0].object
    lost = load(repository.store, first.index).packs[0].object
    path = repository.store.repository / f"objects/{shared.digest[7:9]}/{shared.digest[7:]}"
    path.write_bytes(path.read_bytes()[:-1])
    repository.store.remove(lost.digest)
    done = kiosk(repository, "verify", "--json")
    assert done.returncode == 5
    damaged = {d["object"]: d for d in json.loads(done.stdout)["damaged"]}
    assert set(damaged) == {shared.digest, lost.digest}
    assert damaged[shared.digest]["path"] == str(path)
    assert damaged[shared.digest]["versions"] == ["site/example/base@1", "site/example/base@2"]
    assert damaged[lost.digest]["what"] == "is not in the store"
    assert damaged[lost.digest]["versions"] == ["site/example/base@1"]
    assert "2 of 4 objects are damaged or missing" in done.stderr


def test_a_damaged_index_is_named(repository: Repository, published: tuple[Artifact, Artifact]) -> None:
    assert published[0].index is not None
    digest = published[0].index.digest
    path = repository.store.repository / f"objects/{digest[7:9]}/{digest[7:]}"
    path.write_bytes(b"x" * published[0].index.size)
    done = kiosk(repository, "verify")
    assert done.returncode == 5
    assert str(path) in done.stdout
    assert "site/example/base@1" in done.stdout


def test_without_a_repository_it_says_so(tmp_path: Path) -> None:
    done = kiosk(Repository(tmp_path), "verify")
    assert done.returncode == 6
    assert "kiosk init" in done.stderr


def test_lost_known_blocks_are_learned_from_the_repository(
    repository: Repository, published: tuple[Artifact, Artifact]
) -> None:
    repository.known.unlink()
    with KnownBlocks(repository.known) as known:
        assert inventory.ready(known, repository.store.repository) == 3
        assert inventory.ready(known, repository.store.repository) == 0
    before = repository.objects()
    repository.publish("c", content(range(1, 3000)))
    assert len(repository.objects() - before) == 1
