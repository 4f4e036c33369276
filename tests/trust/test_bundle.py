"""What a guest gets: a small repository that it verifies on its own, from its own root of trust."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from kiosk import clock
from kiosk.errors import NotFoundError, VerificationError
from kiosk.model.names import parse_ref
from kiosk.sync import sync
from kiosk.trust.bundle import export
from kiosk.trust.client import TrustedRepository
from tests.attacks.mutable import Attacker
from tests.simulators.published import Kiosk, behind, ready

TARGETS = ["images/worker/1.json", "layers/site/a/base/1.json"]


def as_guest(bundle: Path, kiosk: Kiosk, metadata: Path) -> TrustedRepository:
    return TrustedRepository(metadata, bundle, kiosk.root.read_bytes())


def test_a_guest_verifies_its_manifests_offline(tmp_path: Path) -> None:
    kiosk = ready(tmp_path / "k")
    kiosk.sync()
    export(kiosk.hypervisor.host / "metadata", TARGETS, tmp_path / "kiosk")
    guest = as_guest(tmp_path / "kiosk", kiosk, tmp_path / "guest")
    assert str(guest.manifest(parse_ref("worker@1")).ref) == "worker@1"
    assert str(guest.manifest(parse_ref("site/a/base@1")).ref) == "site/a/base@1"
    with pytest.raises(NotFoundError):
        guest.manifest(parse_ref("site/b/base@1"))


def test_every_file_is_byte_for_byte_what_was_signed(tmp_path: Path) -> None:
    kiosk = ready(tmp_path / "k")
    kiosk.sync()
    export(kiosk.hypervisor.host / "metadata", TARGETS, tmp_path / "kiosk")
    for file in (tmp_path / "kiosk").rglob("*.json"):
        served = kiosk.settings.repository / file.relative_to(tmp_path / "kiosk")
        assert file.read_bytes() == served.read_bytes()


def test_a_failed_sync_leaves_the_last_good_state_to_the_guests(tmp_path: Path) -> None:
    """A new timestamp was taken over, then the snapshot that it names could not be had."""
    kiosk = behind(tmp_path / "k")
    Attacker(kiosk).newest("snapshot").unlink()
    with pytest.raises(Exception, match=r"snapshot\.json"):
        kiosk.sync()
    export(kiosk.hypervisor.host / "metadata", TARGETS, tmp_path / "kiosk")
    guest = as_guest(tmp_path / "kiosk", kiosk, tmp_path / "guest")
    assert str(guest.manifest(parse_ref("worker@1")).ref) == "worker@1"


def test_what_was_never_synced_is_not_exported(tmp_path: Path) -> None:
    kiosk = behind(tmp_path / "k")
    metadata = kiosk.hypervisor.host / "metadata"
    with pytest.raises(NotFoundError, match=r"images/worker/2\.json"):
        export(metadata, ["images/worker/2.json"], tmp_path / "kiosk")
    with pytest.raises(NotFoundError, match="verified nothing"):
        export(tmp_path / "empty", TARGETS, tmp_path / "kiosk")


def test_a_guest_with_an_older_root_than_its_hypervisor_walks_up(tmp_path: Path) -> None:
    kiosk = ready(tmp_path / "k")
    for days in (300, 600):
        later = Kiosk(tmp_path / "k", lambda d=days: clock.now() + timedelta(days=d))  # type: ignore[misc]
        later.resign()
    assert (kiosk.metadata / "3.root.json").exists()
    newest = (kiosk.metadata / "3.root.json").read_bytes()
    assert sync(kiosk.hypervisor, root=newest).failure is None
    export(kiosk.hypervisor.host / "metadata", TARGETS, tmp_path / "kiosk")
    guest = as_guest(tmp_path / "kiosk", kiosk, tmp_path / "guest")  # was built with root 1
    assert str(guest.manifest(parse_ref("worker@1")).ref) == "worker@1"
    assert sync(kiosk.hypervisor, root=kiosk.root.read_bytes()).failure is None


def test_a_file_that_was_changed_on_this_host_is_not_handed_on(tmp_path: Path) -> None:
    kiosk = ready(tmp_path / "k")
    kiosk.sync()
    metadata = kiosk.hypervisor.host / "metadata"
    Attacker(kiosk).flip(metadata / "targets/images/worker/1.json")
    with pytest.raises(VerificationError, match="changed since"):
        export(metadata, TARGETS, tmp_path / "one")
    Attacker(kiosk).flip(metadata / "good" / "images.json")
    with pytest.raises(VerificationError, match="changed since"):
        export(metadata, TARGETS, tmp_path / "two")
