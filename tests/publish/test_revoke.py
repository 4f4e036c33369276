"""`kiosk revoke`: a floor that is signed, only goes up, and reaches every host and guest."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Targets

from kiosk.agent import config as agent_config
from kiosk.agent.run import Job, Run
from kiosk.agent.talk import Alone
from kiosk.cloud.hostcache import HostCache
from kiosk.config import Settings
from kiosk.errors import KioskError, NotFoundError, PolicyError, UsageError
from kiosk.mirror import mirror
from kiosk.model.names import Version, parse_floor_path, parse_ref
from kiosk.order import make_bundle
from kiosk.publish import publish, signed
from kiosk.publish.prune import prune
from kiosk.publish.retention import Rule
from kiosk.publish.revoke import Revoked, revoke
from kiosk.publish.signed import signed_floor
from kiosk.trust import checkpoint
from kiosk.trust.bundle import export
from kiosk.trust.client import TrustedRepository
from kiosk.trust.signing.keys import Keys
from kiosk.trust.signing.repository import Repository
from tests.publish.test_commands import Terminal
from tests.simulators.published import PASSPHRASE, Kiosk, ask, behind, build_image, ready

WHY = "CVE-2026-1234 in openssl"


def revoked(kiosk: Kiosk, name: str, below: str, **more: bool) -> Revoked:
    return revoke(kiosk.settings, parse_ref(name), Version.parse(below), WHY, ask, **{"force": True, **more})


def current(kiosk: Kiosk) -> tuple[HostCache, Path]:
    return HostCache(kiosk.hypervisor.host), kiosk.hypervisor.host / "metadata"


def test_a_floor_is_signed_by_the_names_own_role(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    done = revoked(kiosk, "worker", "2")
    assert (done.revoked, done.left) == (("1",), ())
    assert "images" in [g.role for g in done.signatures]
    layer = revoked(kiosk, "site/a/base", "2")
    assert "site-a" in [g.role for g in layer.signatures]
    repository = Repository(kiosk.settings.repository, Keys(kiosk.settings.keys), ask)
    assert signed_floor(repository, parse_ref("worker")) == done.floor
    assert len(signed.manifests(repository)) > 0


def test_a_floor_never_goes_down(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    revoked(kiosk, "worker", "2")
    assert revoked(kiosk, "worker", "2").already
    with pytest.raises(PolicyError, match="a floor never goes down"):
        revoked(kiosk, "worker", "1")
    assert revoked(kiosk, "worker", "3").floor.below == "3"


def test_a_dry_run_signs_nothing(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    before = (kiosk.settings.repository / "metadata/timestamp.json").read_bytes()
    assert revoked(kiosk, "worker", "2", dry_run=True).revoked == ("1",)
    assert (kiosk.settings.repository / "metadata/timestamp.json").read_bytes() == before


def test_what_can_not_be_revoked(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with pytest.raises(NotFoundError):
        revoked(kiosk, "nothing", "2")
    with pytest.raises(UsageError, match="is one version"):
        revoked(kiosk, "worker@1", "2")
    with pytest.raises(UsageError, match="reason"):
        revoke(kiosk.settings, parse_ref("worker"), Version.parse("2"), "two\nlines", ask)


def test_a_floor_above_all_versions_is_signed_only_by_force(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    for dry_run in (True, False):
        with pytest.raises(PolicyError, match="would leave no version of worker: the newest is 2"):
            revoked(kiosk, "worker", "20", force=False, dry_run=dry_run)
    assert revoked(kiosk, "worker", "2", force=False).left == ("2",)
    assert revoked(kiosk, "worker", "3").left == ()


@pytest.mark.parametrize("reason", ["\x1b[2J", "a\u202egood", "two\u2028lines", "\x9b5m", ""])
def test_a_reason_that_would_show_something_else_is_not_signed(tmp_path: Path, reason: str) -> None:
    kiosk = behind(tmp_path)
    with pytest.raises(UsageError, match="can't be signed"):
        revoke(kiosk.settings, parse_ref("worker"), Version.parse("2"), reason, ask)


def test_another_partys_broken_floor_keeps_nobody_from_revoking(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    revoked(kiosk, "site/a/base", "2")
    (file,) = (kiosk.settings.repository / "targets/layers/site/a/base").glob("*.floor.json")
    file.write_bytes(b"{")
    assert revoked(kiosk, "worker", "2").floor.below == "2"
    with pytest.raises(KioskError, match="differs from what was signed"):
        revoked(kiosk, "site/a/base", "3")


def test_what_is_below_the_floor_is_not_published(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    revoked(kiosk, "worker", "5")
    folder = build_image(kiosk.settings, version="4")
    for dry_run in (True, False):
        with pytest.raises(PolicyError, match="worker@4 was revoked"):
            publish(kiosk.settings, folder, ask, dry_run=dry_run)
    kiosk.image(version="5")


def test_a_floor_of_another_name_starts_nothing(tmp_path: Path) -> None:
    kiosk = ready(tmp_path / "k")
    floor = revoked(kiosk, "worker", "1", dry_run=True).floor.model_copy(update={"name": "other"})
    repository = Repository(kiosk.settings.repository, Keys(kiosk.settings.keys), ask)
    with repository.locked():
        repository.publish({"images": {"images/worker/floor.json": floor.to_json()}})
    kiosk.sync("site/a/base")
    kiosk.sync()
    cache, metadata = current(kiosk)
    with pytest.raises(KioskError, match="is the floor of other, not of worker"):
        make_bundle(cache, metadata, (parse_ref("worker@1"),), tmp_path / "bundle")


def test_a_host_does_not_start_what_was_revoked(tmp_path: Path) -> None:
    kiosk = ready(tmp_path / "k")
    kiosk.sync()
    revoked(kiosk, "worker", "2")
    synced = kiosk.sync()
    assert isinstance(synced.failure, PolicyError)
    worker = next(r for r in synced.results if r.name == "worker")
    assert worker.error == f"worker@1 was revoked: nothing below 2 may run ({WHY})"
    cache, metadata = current(kiosk)
    with pytest.raises(PolicyError, match="worker@1 was revoked: nothing below 2 may run"):
        make_bundle(cache, metadata, (parse_ref("worker@1"),), tmp_path / "bundle")


def test_a_version_above_the_floor_is_started_and_its_guest_told_of_the_floor(tmp_path: Path) -> None:
    kiosk = behind(tmp_path / "k")
    revoked(kiosk, "worker", "2")
    assert kiosk.sync().failure is None
    cache, metadata = current(kiosk)
    make_bundle(cache, metadata, (parse_ref("worker@2"),), tmp_path / "bundle")
    (floor,) = (tmp_path / "bundle/targets/images/worker").glob("*.floor.json")
    assert json.loads(floor.read_bytes())["below"] == "2"
    guest = TrustedRepository(tmp_path / "guest", tmp_path / "bundle", kiosk.root.read_bytes())
    with pytest.raises(PolicyError, match="worker@1 was revoked"):
        guest.refuse_revoked(parse_ref("worker@1"))
    guest.refuse_revoked(parse_ref("worker@2"))


def test_a_host_that_has_verified_the_list_has_its_floors_too(tmp_path: Path) -> None:
    """Another name is synced; what is here already must not become impossible to start by that."""
    kiosk = behind(tmp_path / "k")
    kiosk.sync()
    revoked(kiosk, "worker", "2")
    kiosk.sync("site/a/base")
    _, metadata = current(kiosk)
    export(metadata, ["images/worker/2.json"], tmp_path / "bundle")
    assert list((tmp_path / "bundle/targets/images/worker").glob("*.floor.json"))


def test_a_sync_that_ends_while_it_fetches_floors_stops_no_vm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer floor is in place already, the state that lists it is not."""
    kiosk = behind(tmp_path / "k")
    revoked(kiosk, "worker", "2")
    kiosk.sync()
    revoked(kiosk, "worker", "3")
    with monkeypatch.context() as killed:
        killed.setattr(checkpoint, "keep", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            kiosk.sync()
    cache, metadata = current(kiosk)
    assert b'"3"' in (metadata / "targets/images/worker/floor.json").read_bytes()
    make_bundle(cache, metadata, (parse_ref("worker@2"),), tmp_path / "bundle")
    guest = TrustedRepository(tmp_path / "guest", tmp_path / "bundle", kiosk.root.read_bytes())
    guest.refuse_revoked(parse_ref("worker@2"))


def test_a_floor_that_is_missing_leaves_the_last_good_state_of_its_role(tmp_path: Path) -> None:
    """However often it is tried, and whatever is new of others."""
    kiosk = ready(tmp_path / "k")
    kiosk.sync()
    revoked(kiosk, "worker", "2")
    (file,) = (kiosk.settings.repository / "targets/images/worker").glob("*.floor.json")
    data = file.read_bytes()
    file.unlink()
    for version in ("2", "3", "4"):
        kiosk.layer("site/a", version=version)
        assert kiosk.sync().failure is not None
    cache, metadata = current(kiosk)
    make_bundle(cache, metadata, (parse_ref("worker@1"),), tmp_path / "one")
    make_bundle(cache, metadata, (parse_ref("site/a/base@4"),), tmp_path / "two")
    assert len(list(metadata.glob("good.*"))) <= 4
    guest = TrustedRepository(tmp_path / "guest", tmp_path / "one", kiosk.root.read_bytes())
    assert guest.manifest(parse_ref("worker@1")).ref == parse_ref("worker@1")
    file.write_bytes(data)
    kiosk.sync()
    with pytest.raises(PolicyError, match="worker@1 was revoked"):
        make_bundle(cache, metadata, (parse_ref("worker@1"),), tmp_path / "three")
    assert len(list(metadata.glob("good.*"))) <= 3


@pytest.mark.parametrize("path", ["../../../x/floor.json", "images/../x/floor.json", "images/a/b/floor.json"])
def test_a_path_that_leads_elsewhere_is_no_floors(path: str) -> None:
    assert parse_floor_path(path) is None


def test_another_roles_floor_stops_nothing(tmp_path: Path) -> None:
    kiosk = ready(tmp_path / "k")
    repository = Repository(kiosk.settings.repository, Keys(kiosk.settings.keys), ask)
    floor = revoked(kiosk, "site/a/base", "9", dry_run=True).floor.model_copy(update={"name": "worker"})
    with repository.locked():
        repository.publish({"site-a": {"images/worker/floor.json": floor.to_json()}})
    synced = kiosk.sync()
    worker = next(r for r in synced.results if r.name == "worker")
    assert worker.state in ("fetched", "current")
    listed: Metadata[Targets] = repository.role("site-a")
    assert "images/worker/floor.json" in listed.signed.targets


def test_the_rest_of_the_repository_goes_on_with_floors_in_it(tmp_path: Path) -> None:
    kiosk = behind(tmp_path / "k")
    revoked(kiosk, "worker", "2")
    found = signed.listed(kiosk.settings)
    assert found.wrong == []
    trusted = TrustedRepository(tmp_path / "m", kiosk.settings.repository, kiosk.root.read_bytes())
    assert all(ref.version is not None for ref in trusted.manifests())
    assert trusted.problems == {}


def test_a_floor_that_can_not_be_fetched_leaves_its_role_out(tmp_path: Path) -> None:
    kiosk = behind(tmp_path / "k")
    revoked(kiosk, "worker", "2")
    (file,) = (kiosk.settings.repository / "targets/images/worker").glob("*.floor.json")
    file.unlink()
    trusted = TrustedRepository(tmp_path / "m", kiosk.settings.repository, kiosk.root.read_bytes())
    trusted.load()
    assert isinstance(trusted.problems["images"], KioskError)


def test_pruning_keeps_the_floor_and_what_it_keeps_still_verifies(tmp_path: Path) -> None:
    kiosk = behind(tmp_path / "k")
    revoked(kiosk, "worker", "2")
    pruned = prune(kiosk.settings, ask, Rule(1, None), grace=timedelta(0))
    assert "worker@1" in pruned.withdrawn
    trusted = TrustedRepository(tmp_path / "m", kiosk.settings.repository, kiosk.root.read_bytes())
    floor = trusted.floor(parse_ref("worker"))
    assert floor is not None
    assert floor.below == "2"


def test_a_mirror_has_the_floors_too(tmp_path: Path) -> None:
    kiosk = behind(tmp_path / "k")
    revoked(kiosk, "worker", "2")
    owner = Settings(home=tmp_path / "owner")
    mirror(owner, kiosk.settings.repository, str(tmp_path / "mirror"), root=kiosk.root.read_bytes())
    trusted = TrustedRepository(tmp_path / "m", tmp_path / "mirror", kiosk.root.read_bytes())
    assert trusted.floor(parse_ref("worker")) == signed_floor(
        Repository(kiosk.settings.repository, Keys(kiosk.settings.keys), ask), parse_ref("worker")
    )


def test_the_agent_leaves_what_is_current_where_the_newest_was_revoked(tmp_path: Path) -> None:
    kiosk = behind(tmp_path / "k")
    revoked(kiosk, "worker", "3")
    (tmp_path / "agent.toml").write_text('images = ["worker"]\n')
    settings = kiosk.hypervisor.model_copy(update={"url": str(kiosk.settings.repository)})
    orders = agent_config.read(settings, tmp_path / "agent.toml")
    report = Run(Job(orders, pushed=("*",)), Alone()).run()
    assert isinstance(report.failure, PolicyError)
    assert "worker@2 was revoked" in str(report.failure)
    assert HostCache(kiosk.hypervisor.host).resolve(parse_ref("worker")) == parse_ref("worker@1")


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kiosk = behind(tmp_path / "k")
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    terminal = Terminal(monkeypatch, capsys, kiosk.settings.home)
    terminal.set("KIOSK_PASSPHRASE_FILE", tmp_path / "passphrase")
    words = ("revoke", "worker", "--reason", WHY, "--below")
    assert terminal.run(*words, "2", "--dry-run")[1] == "Would sign: the floor of worker at 2 revokes 1.\n"
    done = terminal.json(*words, "2", "--json")
    assert (done["floor"]["below"], done["revoked"], done["left"]) == ("2", ["1"], ["2"])
    assert [(i["version"], i["revoked"]) for i in terminal.json("list") if i["name"] == "worker"] == [
        ("1", WHY), ("2", None),
    ]  # fmt: skip
    assert f"revoked: {WHY}" in terminal.run("list")[1]
    assert f"REVOKED    {WHY}" in terminal.run("show", "worker@1")[1]
    code, _, err = terminal.run(*words, "1")
    assert code == 10
    assert "a floor never goes down" in err
    assert terminal.run(*words, "two")[0] == 2
    code, _, err = terminal.run(*words, "3")
    assert (code, "--force" in err) == (10, True)
    assert terminal.run("fetch", "worker@1", "-o", tmp_path / "disk.raw")[0] == 10
    assert not (tmp_path / "disk.raw").exists()
    assert terminal.run(*words, "3", "--force")[0] == 0
