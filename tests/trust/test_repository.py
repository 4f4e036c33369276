"""The writer: what it makes, what it renews, and what it refuses to put a signature under."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root

from kiosk import clock
from kiosk.errors import BusyError, ExpiredError, NotFoundError, UsageError, VerificationError
from kiosk.model.names import parse_ref
from kiosk.trust.client import TrustedRepository
from kiosk.trust.signing.create import create
from tests.attacks.mutable import Attacker
from tests.simulators.published import PASSPHRASE, Kiosk, ask, ready
from tests.simulators.rolled import publish_with_rollout


def test_a_new_repository_has_an_offline_root_with_a_threshold_and_short_lived_online_roles(
    tmp_path: Path,
) -> None:
    kiosk = ready(tmp_path)
    root = Metadata[Root].from_bytes(kiosk.root.read_bytes()).signed
    assert (root.roles["root"].threshold, len(root.roles["root"].keyids)) == (2, 3)
    assert root.consistent_snapshot
    reader = TrustedRepository(tmp_path / "reader", kiosk.settings.repository, kiosk.root.read_bytes())
    reader.manifests()
    left = {r.name: r.expires - datetime.now(UTC) for r in reader.roles()}
    assert left["timestamp"] <= timedelta(hours=24) < left["snapshot"] <= timedelta(days=7) < left["images"]
    assert left["images"] <= timedelta(days=90) < left["root"] <= timedelta(days=365)


def test_init_never_overwrites(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    before = {p: p.read_bytes() for p in kiosk.home.rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match="already"):
        create(kiosk.settings.repository, kiosk.keys, ask)
    assert {p: p.read_bytes() for p in kiosk.home.rglob("*") if p.is_file()} == before


def test_an_interrupted_init_is_completed_by_the_next(tmp_path: Path) -> None:
    """Interrupted after the keys, and after the repository but before it was marked as usable."""
    kiosk = Kiosk(tmp_path)
    kiosk.keys.create("root-1", PASSPHRASE)
    kiosk.create()
    keyid = kiosk.keys.public("root-1").keyid
    assert keyid in Metadata[Root].from_bytes(kiosk.root.read_bytes()).signed.roles["root"].keyids
    made = kiosk.root.read_bytes()
    (kiosk.settings.keys / "root.json").unlink()
    kiosk.create()
    assert kiosk.root.read_bytes() == made
    assert kiosk.image().new_objects > 0


def test_init_does_not_adopt_somebody_elses_repository(tmp_path: Path) -> None:
    ours, theirs = ready(tmp_path / "ours"), Kiosk(tmp_path / "theirs").create()
    (ours.settings.keys / "root.json").unlink()
    shutil.rmtree(ours.settings.repository)
    shutil.copytree(theirs.settings.repository, ours.settings.repository)
    with pytest.raises(VerificationError, match="other keys"):
        ours.create()


def test_resign_renews_what_has_little_time_left_and_nothing_else(tmp_path: Path) -> None:
    ready(tmp_path)

    def renewed(days: float) -> list[str]:
        writer = Kiosk(tmp_path, lambda: clock.now() + timedelta(days=days)).repository()
        with writer.locked():
            return [s.role for s in writer.resign()[0]]

    assert renewed(0) == ["timestamp"]
    assert renewed(5) == ["snapshot", "timestamp"]
    assert set(renewed(70)) == {"images", "site-a", "targets", "snapshot", "timestamp"}
    assert "root" in renewed(300)


def test_resign_says_what_it_can_not_renew(tmp_path: Path) -> None:
    """A site keeps its key itself; the kiosk host can't renew what that key signed, and goes on."""
    kiosk = ready(tmp_path)
    for key in ("site-a", "root-1", "root-2"):
        (kiosk.settings.keys / f"{key}.pem").unlink()
    writer = Kiosk(tmp_path, lambda: clock.now() + timedelta(days=300)).repository()
    with writer.locked():
        signed, left = writer.resign()
    assert {s.role for s in signed} == {"images", "targets", "snapshot", "timestamp"}
    assert {role: "1 are on this machine" in why or "0 are" in why for role, _, why in left} == {
        "site-a": True,
        "root": True,
    }


def test_an_expired_repository_is_refused_until_it_is_signed_again(tmp_path: Path) -> None:
    long_ago = Kiosk(tmp_path, lambda: clock.now() - timedelta(days=30)).create()

    def read(name: str) -> None:
        TrustedRepository(tmp_path / name, long_ago.settings.repository, long_ago.root.read_bytes()).refresh()

    with pytest.raises(ExpiredError, match="timestamp has expired"):
        read("before")
    writer = Kiosk(tmp_path).repository()
    with writer.locked():
        writer.resign()
    read("after")


def test_the_root_renews_itself_with_a_threshold_of_its_keys(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    kiosk.sync()
    (kiosk.settings.keys / "root-2.pem").unlink()
    writer = Kiosk(tmp_path, lambda: clock.now() + timedelta(days=300)).repository()
    with writer.locked():
        writer.resign()
    assert (kiosk.metadata / "2.root.json").exists()
    assert kiosk.sync().failure is None
    again = kiosk.repository()
    with again.locked():
        again.resign()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "images"])
def test_nothing_is_signed_on_top_of_an_altered_repository(role: str, tmp_path: Path) -> None:
    """Somebody who may write to the served folder must not get our signature for it."""
    kiosk = ready(tmp_path)
    attacker = Attacker(kiosk)
    attacker.edit(role, ["site-b"], lambda signed: setattr(signed, "version", signed.version + 1))
    before = {p: p.read_bytes() for p in kiosk.metadata.iterdir()}
    with pytest.raises(VerificationError, match="does not verify"):
        kiosk.image(version="2")
    assert {p: p.read_bytes() for p in kiosk.metadata.iterdir()} == before


def test_nothing_is_signed_on_top_of_an_older_state(tmp_path: Path) -> None:
    """A folder put back from a backup would let a published version vanish for those who have seen it."""
    kiosk = ready(tmp_path)
    backup = tmp_path / "backup"
    shutil.copytree(kiosk.settings.repository, backup)
    kiosk.image(version="2")
    shutil.rmtree(kiosk.settings.repository)
    backup.rename(kiosk.settings.repository)
    with pytest.raises(VerificationError, match="published before"):
        kiosk.image(version="3")


def test_two_at_a_time_do_not_sign(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with kiosk.repository().locked(), pytest.raises(BusyError), kiosk.repository().locked():
        pass


def test_delegation(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    writer = kiosk.repository()
    with pytest.raises(NotFoundError, match="nothing is delegated to site-c"):
        kiosk.layer("site/c")
    kiosk.delegate("site/c")
    kiosk.layer("site/c")
    assert kiosk.sync("site/c/base").failure is None
    fresh = kiosk.keys.create("site-c-2", PASSPHRASE)
    with writer.locked():
        with pytest.raises(UsageError, match="delegated already"):
            writer.delegate("site-c", [fresh.key], 1)
        with pytest.raises(UsageError, match="threshold"):
            writer.delegate("site-c", [fresh.key], 2, replace=True)
    with writer.locked():
        signed = writer.delegate("site-c", [fresh.key], 1, replace=True)
    assert ("site-c", ("site-c-2",)) in [(s.role, s.keys) for s in signed]
    (kiosk.settings.keys / "site-c.pem").unlink()
    kiosk.layer("site/c", version="2")
    assert kiosk.sync("site/c/base").results[0].version == "2"


def test_the_role_of_roll_outs_may_sign_them_alone_and_is_renewed_as_the_online_roles_are(
    tmp_path: Path,
) -> None:
    kiosk = ready(tmp_path / "kiosk")
    reader = TrustedRepository(tmp_path / "reader", kiosk.settings.repository, kiosk.root.read_bytes())
    assert reader.rollout(parse_ref("worker")) is None, "nothing is rolled out yet"
    delegated = kiosk.repository().state.targets.signed.delegations
    assert delegated is not None
    assert delegated.roles is not None
    role = delegated.roles["rollouts"]
    assert role.keyids == [kiosk.keys.public("rollouts").keyid]
    for path in ("rollouts/images/worker/rollout.json", "rollouts/layers/site/a/base/rollout.json"):
        assert role.is_delegated_path(path)
    for path in (
        "images/worker/1.json",
        "images/worker/rollout.json",
        "layers/site/a/base/1.json",
        "rollouts/images/rollout.json",
        "rollouts/images/a/b/rollout.json",
        "rollouts/images/worker/1.json",
    ):
        assert not role.is_delegated_path(path)
    publish_with_rollout(kiosk, "2")
    five_days_on = Kiosk(kiosk.home, lambda: clock.now() + timedelta(days=5)).repository()
    with five_days_on.locked():
        assert [s.role for s in five_days_on.resign()[0]] == ["rollouts", "snapshot", "timestamp"]


def test_a_repository_without_the_role_says_how_to_delegate_to_it(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    writer = kiosk.repository()
    with writer.locked():
        targets = writer.state.targets
        assert targets.signed.delegations is not None
        assert targets.signed.delegations.roles is not None
        del targets.signed.delegations.roles["rollouts"]
        writer._commit({"targets": targets})
    (kiosk.settings.keys / "rollouts.pem").unlink()
    (kiosk.settings.keys / "rollouts.pub").unlink()
    with pytest.raises(NotFoundError, match="kiosk key create rollouts && kiosk delegate rollouts"):
        publish_with_rollout(kiosk, "2")
    assert kiosk.image(version="2").ref.version is not None, "all else goes on"
    kiosk.delegate("rollouts")
    publish_with_rollout(kiosk, "3")


def test_several_roles_change_in_one_step_for_readers(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    done = publish_with_rollout(kiosk, "2")
    assert [s.role for s in done.signatures] == ["images", "rollouts", "snapshot", "timestamp"]
