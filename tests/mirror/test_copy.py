"""`kiosk mirror URL TARGET`: whole states only, nothing unverified, no key, and it goes on where it was ended."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from kiosk.cli import common, main
from kiosk.config import Settings
from kiosk.errors import (
    CorruptError,
    ExpiredError,
    KioskError,
    NetworkError,
    StorageError,
    UsageError,
    VerificationError,
)
from kiosk.files import sha256
from kiosk.mirror import Mirrored, mirror
from kiosk.model.names import parse_ref
from kiosk.run import run
from kiosk.store import locate
from kiosk.store.api import DirectoryStore
from kiosk.store.fetch import fetch
from kiosk.store.needs import needs
from kiosk.sync import sync
from kiosk.trust.client import TrustedRepository
from tests.attacks.mutable import Attacker, expire
from tests.failures.interrupted import killed_at
from tests.simulators import http_faulty as http
from tests.simulators.published import Kiosk, behind, duplicate, ready
from tests.store.engines import ENGINES, Engine, started, using

STEPS = 60


def owner(kiosk: Kiosk) -> Settings:
    """Those who run the mirror: a home of their own, in which there is no key."""
    return Settings(home=kiosk.home / "owner")


def copy(kiosk: Kiosk, to: str | Path | None = None, **more: object) -> Mirrored:
    """Mirrors the kiosk's repository to a folder."""
    url = more.pop("url", kiosk.settings.repository)
    target = to or kiosk.home / "mirror"
    return mirror(owner(kiosk), url, target, root=kiosk.root.read_bytes(), **more)  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, str]:
    """All files and their digests."""
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def offered(kiosk: Kiosk, url: str | Path, folder: Path) -> str:
    """What a reader who knows nothing sees in the mirror, fetched and checked to the last byte."""
    reader = TrustedRepository(folder, str(url), kiosk.root.read_bytes())
    manifest = reader.manifest(parse_ref("worker"))
    for name, artifact in manifest.artifacts.items():
        fetch(artifact, folder / name, locate.source(url))
    return manifest.version


def whole(kiosk: Kiosk, mirrored: Path, folder: Path) -> str:
    """The version that such a reader sees; all that it needs must be there."""
    manifest = TrustedRepository(folder, mirrored, kiosk.root.read_bytes()).manifest(parse_ref("worker"))
    store = DirectoryStore(mirrored)
    assert all(store.has(one) for one in needs(store, manifest))
    return manifest.version


def test_a_hypervisor_syncs_from_a_mirror_whose_owner_has_no_key(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    done = copy(kiosk)
    assert done.versions == ("worker@1", "site/a/base@1")
    assert done.objects > 5
    assert (done.objects_there, done.failure) == (0, None)
    assert not [p for p in owner(kiosk).home.rglob("*") if "key" in p.name or "pass" in p.name]
    shutil.move(kiosk.settings.repository, tmp_path / "gone")
    kiosk.hypervisor = kiosk.hypervisor.model_copy(
        update={"root": tmp_path / "gone/metadata/1.root.json", "url": str(tmp_path / "mirror")}
    )
    anchor = (tmp_path / "gone/metadata/1.root.json").read_bytes()
    synced = sync(kiosk.hypervisor, root=anchor)
    assert [(r.name, r.state) for r in synced.results] == [("worker", "fetched"), ("site/a/base", "fetched")]


def test_the_mirror_is_the_repository_byte_for_byte(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    copy(kiosk)
    there = tree(kiosk.settings.repository)
    for path, digest in tree(tmp_path / "mirror").items():
        assert there[path] == digest
    named = {p for p in there if p.startswith("objects/")}
    assert {p for p in tree(tmp_path / "mirror") if p.startswith("objects/")} == named


def test_only_what_is_missing_is_copied(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    first = copy(kiosk)
    again = copy(kiosk)
    assert (again.objects, again.files, again.objects_there) == (0, 0, first.objects)
    kiosk.image(version="2")
    before = tree(tmp_path / "mirror")
    tried = copy(kiosk, dry_run=True)
    assert tree(tmp_path / "mirror") == before
    second = copy(kiosk)
    assert (tried.objects, tried.bytes, tried.files) == (second.objects, second.bytes, second.files)
    assert 0 < second.bytes < 500_000 < second.bytes_there
    assert second.files == 4, "manifest, role, snapshot, timestamp"
    victim = next((tmp_path / "mirror" / "objects").rglob("*/*"))
    victim.unlink()
    assert copy(kiosk).objects == 1


def test_the_newest_versions_only(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    done = copy(kiosk, newest=1)
    assert done.versions == ("worker@2", "site/a/base@1")
    kiosk.hypervisor = kiosk.hypervisor.model_copy(update={"url": str(tmp_path / "mirror")})
    shutil.rmtree(kiosk.hypervisor.host)
    assert kiosk.sync("worker", "site/a/base").failure is None
    failure = kiosk.sync("worker@1").failure
    assert isinstance(failure, NetworkError), "it is signed, and not here"
    assert len(copy(kiosk).versions) == 3
    assert kiosk.sync("worker@1").failure is None


def test_killed_at_every_step_readers_see_the_old_or_the_new(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    made = tmp_path / "mirror", owner(kiosk).home
    copy(kiosk)
    for folder in made:
        duplicate(folder, folder.with_suffix(".before"))
    kiosk.image(version="2")
    copy(kiosk)
    complete, seen = tree(made[0]), []
    for step in range(1, STEPS):
        for folder in made:
            shutil.rmtree(folder)
            duplicate(folder.with_suffix(".before"), folder)
        killed = killed_at(step, lambda: copy(kiosk))
        seen.append(whole(kiosk, made[0], tmp_path / f"reader-{step}"))
        if step % 3 == 0 or not killed:
            copy(kiosk)
            assert {p: d for p, d in tree(made[0]).items() if not p.endswith(".new")} == complete
        if not killed:
            break
    assert seen == sorted(seen), "old up to some step, new from then on"
    assert set(seen) == {"1", "2"}
    assert len(seen) > 12


LIES = {
    "an object with a flipped bit": ("objects/*/*", "flip"),
    "an object that is cut": ("objects/*/*", "cut"),
    "an index with a flipped bit": ("index", "flip"),
    "a manifest with a flipped bit": ("targets/images/worker/*.2.json", "flip"),
    "a role that is cut": ("metadata/*.images.json", "cut"),
    "a snapshot with a flipped bit": ("metadata/*.snapshot.json", "flip"),
    "a timestamp that is cut": ("metadata/timestamp.json", "cut"),
    "a page of HTML in place of the timestamp": ("metadata/timestamp.json", "html"),
}


def damage(kiosk: Kiosk, mirrored: Path, what: str) -> None:
    """Does to the newest such file, one that the mirror does not have, what is said."""
    pattern, how = LIES[what]
    root, attacker = kiosk.settings.repository, Attacker(kiosk)
    new = [p for p in root.glob("objects/*/*") if not (mirrored / p.relative_to(root)).exists()]
    if pattern == "index":
        path = next(p for p in new if p.read_bytes()[8:16] == b"kioskix1")
    elif pattern.startswith("objects"):
        path = next(p for p in new if p.read_bytes()[8:16] == b"kioskpk1")
    else:
        path = max(root.glob(pattern), key=lambda p: (len(p.name), p.name))
    if how == "html":
        path.write_bytes(b"<html><body>Please log in</body></html>")
    else:
        getattr(attacker, how)(path)


@pytest.mark.parametrize("lie", LIES)
def test_an_upstream_that_lies_changes_nothing(lie: str, tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    copy(kiosk)
    kiosk.image(version="2")
    damage(kiosk, tmp_path / "mirror", lie)
    before = {p: d for p, d in tree(tmp_path / "mirror").items() if not p.startswith("objects/")}
    objects = set(tree(tmp_path / "mirror"))
    with pytest.raises(CorruptError) as caught:
        copy(kiosk)
    assert caught.value.exit_code == 5
    after = tree(tmp_path / "mirror")
    assert {p: d for p, d in after.items() if not p.startswith("objects/")} == before
    assert all(d.removeprefix("sha256:") == p[-64:] for p, d in after.items() if p not in objects)
    assert offered(kiosk, tmp_path / "mirror", tmp_path / "reader") == "1"


def test_a_site_that_let_its_role_expire_takes_nobody_with_it(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    attacker = Attacker(kiosk)
    attacker.edit("site-a", ["site-a"], expire)
    attacker.chain("site-a")
    done = copy(kiosk)
    assert isinstance(done.failure, ExpiredError)
    assert done.versions == ("worker@1",)
    assert offered(kiosk, tmp_path / "mirror", tmp_path / "reader") == "1"


def test_an_upstream_that_is_down(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    copy(kiosk)
    before = tree(tmp_path / "mirror")
    with pytest.raises(NetworkError, match="can't be reached"):
        copy(kiosk, url="http://127.0.0.1:9")
    assert tree(tmp_path / "mirror") == before


def test_an_upstream_that_goes_down_half_way(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    with http.faulty(kiosk.settings.repository) as server:
        right = http.answer(lambda body: body)
        server.faults = [http.status(404), *[right] * 8, *[http.status(403)] * 100]
        with pytest.raises(NetworkError):
            copy(kiosk, url=server.url)
        assert not (tmp_path / "mirror" / "metadata").exists()
        server.faults.clear()
        assert copy(kiosk, url=server.url).failure is None
    assert offered(kiosk, tmp_path / "mirror", tmp_path / "reader") == "2"


def test_a_stale_upstream_does_not_put_a_mirror_back(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    shutil.copytree(kiosk.settings.repository, tmp_path / "stale")
    kiosk.image(version="2")
    copy(kiosk)
    before = tree(tmp_path / "mirror")
    with pytest.raises(VerificationError, match="rolled back"):
        copy(kiosk, url=tmp_path / "stale")
    shutil.rmtree(owner(kiosk).home)  # even when the mirror's notes are lost
    with pytest.raises(VerificationError, match="shows state"):
        copy(kiosk, url=tmp_path / "stale")
    assert tree(tmp_path / "mirror") == before


def test_another_repository_is_not_written_over(tmp_path: Path) -> None:
    kiosk, other = ready(tmp_path / "one"), Kiosk(tmp_path / "two").create()
    copy(kiosk, tmp_path / "mirror")
    with pytest.raises(VerificationError, match="another repository"):
        copy(other, tmp_path / "mirror")
    with pytest.raises(UsageError, match="its own mirror"):
        copy(kiosk, kiosk.settings.repository)
    with pytest.raises(UsageError, match="nothing can be written"):
        copy(kiosk, "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="root of trust"):
        mirror(Settings(home=tmp_path / "new"), kiosk.settings.repository, tmp_path / "other")
    with pytest.raises(KioskError, match=r"signed|root"):
        mirror(
            Settings(home=tmp_path / "new"),
            kiosk.settings.repository,
            tmp_path / "other",
            root=other.root.read_bytes(),
        )
    assert not (tmp_path / "other").exists()


def test_a_full_disk(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    small = tmp_path / "small"
    small.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], timeout=10)
    try:
        with pytest.raises(StorageError, match="No space"):
            copy(kiosk, small / "mirror")
        assert not (small / "mirror" / "metadata").exists()
        run(["mount", "-o", "remount,size=16m", small], timeout=10)
        assert copy(kiosk, small / "mirror").failure is None
        assert offered(kiosk, small / "mirror", tmp_path / "reader") == "1"
    finally:
        run(["umount", small], timeout=10)


def test_roots_down_to_the_first_are_copied(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    writer = kiosk.repository()
    with writer.locked():
        writer.open_keys("root")
        writer._renew_root()
        writer.resign()
    copy(kiosk)
    assert (tmp_path / "mirror/metadata/1.root.json").exists()
    two = Metadata.from_bytes((tmp_path / "mirror/metadata/2.root.json").read_bytes())
    assert two.signed.version == 2
    assert offered(kiosk, tmp_path / "mirror", tmp_path / "reader") == "1"


# -- to and from a bucket ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with started(request.param) as running, using(running.key, running.secret):
        yield running


def test_a_repository_is_put_on_a_bucket_and_synced_from_it(engine: Engine, tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    url = f"s3://{engine.bucket()}/farm/kiosk"
    at = {"s3_endpoint": engine.endpoint, "s3_region": "us-east-1"}
    host = kiosk.settings.model_copy(update=at)  # the kiosk host itself: its own root of trust will do
    first = mirror(host, host.repository, url)
    assert first.objects > 5
    again = mirror(host, host.repository, url)
    assert (again.objects, again.files) == (0, 0)
    hypervisor = kiosk.hypervisor.model_copy(update={**at, "url": url})
    done = sync(hypervisor, root=kiosk.root.read_bytes())
    assert [r.state for r in done.results] == ["fetched", "fetched"]
    kiosk.image(version="2")
    assert mirror(host, host.repository, url).files == 4
    assert sync(hypervisor).results[0].version == "2"
    back = mirror(
        owner(kiosk).model_copy(update=at), url, tmp_path / "site", root=kiosk.root.read_bytes(), newest=1
    )
    assert back.versions == ("worker@2", "site/a/base@1")
    assert offered(kiosk, tmp_path / "site", tmp_path / "reader") == "2"
    client = engine.client()
    bucket = url.split("/")[2]
    stamp = client.head_object(Bucket=bucket, Key="farm/kiosk/metadata/timestamp.json")  # type: ignore[attr-defined]
    assert stamp["CacheControl"] == "no-cache"
    client.delete_object(Bucket=bucket, Key="farm/kiosk/metadata/timestamp.json")  # type: ignore[attr-defined]
    with pytest.raises(NetworkError, match="there is no s3://"):
        sync(hypervisor)
    with pytest.raises(NetworkError, match="there is no bucket kiosk-nowhere"):
        sync(hypervisor, url="s3://kiosk-nowhere/x")


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kiosk = ready(tmp_path)
    monkeypatch.setenv("KIOSK_HOME", str(tmp_path / "owner"))
    words = ["kiosk", "mirror", str(kiosk.settings.repository), str(tmp_path / "mirror")]
    for more, code in (
        (["--root", str(kiosk.root), "--dry-run", "--json"], 0),
        ([], 0),
        (["--newest", "0"], 2),
        (["--serve", "127.0.0.1:0", "--json"], 2),
    ):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        assert common.guard(main.call) == code
        out = capsys.readouterr().out
        if "--json" in more and code == 0:
            assert json.loads(out)["dry_run"] is True
            assert not (tmp_path / "mirror").exists()
        elif code == 0:
            assert out.startswith("Copied ")
