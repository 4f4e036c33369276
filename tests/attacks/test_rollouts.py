"""Attacks on roll-outs. Whoever holds the key `rollouts` (and the other online keys) decides which of the signed
versions a host runs, and nothing else; whoever does not hold it decides nothing.

A host that can't tell what it is to run gets an error, and leaves current what is current.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kiosk.errors import CorruptError, ExpiredError, KioskError, NetworkError, VerificationError
from kiosk.model.rollout import Rollout
from kiosk.rollout import orders
from tests.attacks.mutable import Attacker, expire
from tests.simulators.published import Kiosk, ready
from tests.simulators.rolled import WORKER, ordered, publish_with_rollout, reader, seen

PATH = "rollouts/images/worker/rollout.json"
TRUE = Rollout(name="worker", version="2", before="1", share=50)


@pytest.fixture
def kiosk(tmp_path: Path) -> Kiosk:
    """worker@2 is rolled out over worker@1, and a host has seen that."""
    made = ready(tmp_path / "kiosk")
    publish_with_rollout(made, "2")
    assert seen(made, tmp_path / "host") == TRUE
    return made


def said(**values: object) -> Callable[[Attacker], None]:
    """With the stolen key: another roll-out at worker's place."""
    data = TRUE.model_copy(update=values).to_json()
    return lambda a: a.list_target("rollouts", PATH, data)


def older(a: Attacker) -> None:
    """All online keys but the role's own: the snapshot names the role as it was before."""
    a.newest("rollouts").unlink()
    a.chain("rollouts")


def dropped(a: Attacker) -> None:
    """All online keys but the role's own: the snapshot knows no roll-outs any more."""
    number = int(a.newest("snapshot").name.split(".")[0]) + 1

    def drop(snapshot: object) -> None:
        snapshot.version += 1  # type: ignore[attr-defined]
        del snapshot.meta["rollouts.json"]  # type: ignore[attr-defined]

    a.edit("snapshot", ["snapshot"], drop, file=a.metadata / f"{number}.snapshot.json")
    a.point_at_snapshot()


def swapped(a: Attacker) -> None:
    """No key: the role's older file under the newest number."""
    old = a.metadata / f"{int(a.newest('rollouts').name.split('.')[0]) - 1}.rollouts.json"
    shutil.copyfile(old, a.newest("rollouts"))


def signed_by(key: str) -> Callable[[Attacker], None]:
    """The role, signed with another key."""

    def forge(a: Attacker) -> None:
        a.edit("rollouts", [key], lambda s: setattr(s, "version", s.version))
        a.chain("rollouts")

    return forge


def expired(a: Attacker) -> None:
    """Nobody has renewed it."""
    a.edit("rollouts", ["rollouts"], expire)
    a.chain("rollouts")


def withheld(a: Attacker) -> None:
    """No key: the document is not given."""
    for file in (a.kiosk.settings.repository / "targets/rollouts").rglob("*.json"):
        file.unlink()


ATTACKS: list[tuple[str, Callable[[Attacker], None], type[KioskError], str]] = [
    ("a version that was never published", said(version="9"), VerificationError, "worker@9, which images does"),
    ("back to one that never was", said(before="0"), VerificationError, "worker@0, which images does not"),
    ("a layer in the place of an image", said(name="site/a/base", version="1", before=None), VerificationError,
     "is the roll-out of site/a/base, not of worker"),
    ("an older version as the new one", said(version="1", before="2"), VerificationError, "is not older"),
    ("a state that there is not", said(state="forced"), VerificationError, "is not a valid Rollout"),
    ("a document without end", said(reason="x" * (1 << 18)), VerificationError, "more than the 262144"),
    ("the role of yesterday", older, VerificationError, "rollouts"),
    ("no roll-outs any more", dropped, VerificationError, "snapshot"),
    ("signed by images", signed_by("images"), VerificationError, "signature of images"),
    ("signed by a site", signed_by("site-a"), VerificationError, "signature of site-a"),
    ("signed by the other online keys", signed_by("snapshot"), VerificationError, "signature of snapshot"),
    ("expired", expired, ExpiredError, "rollouts"),
]  # fmt: skip
FOR_A_NEW_HOST = [
    ("the old file under a new number", swapped, CorruptError, "rollouts"),
    ("the document is withheld", withheld, NetworkError, "rollout.json"),
]


def attacked(
    kiosk: Kiosk, do: Callable[[Attacker], None], folder: Path, error: type[KioskError], says: str
) -> None:
    """A host meets the attack and knows nothing; once the kiosk is itself again, it goes on."""
    honest = folder.with_name("honest")
    shutil.copytree(kiosk.settings.repository, honest)
    do(Attacker(kiosk))
    with pytest.raises(KioskError) as caught:
        seen(kiosk, folder)
    assert type(caught.value) is error, caught.value
    assert says in str(caught.value)
    shutil.rmtree(kiosk.settings.repository)
    honest.rename(kiosk.settings.repository)
    for _ in range(2):  # stolen online keys have used numbers that the kiosk has to step over
        ordered(kiosk, lambda r: r.model_copy(update={"share": r.share + 1}))
    assert seen(kiosk, folder) == TRUE.model_copy(update={"share": 52})


@pytest.mark.parametrize(
    ("what", "do", "error", "says"), ATTACKS, ids=[a[0].replace(" ", "-") for a in ATTACKS]
)
def test_a_host_follows_no_roll_out_that_does_not_hold(
    what: str,
    do: Callable[[Attacker], None],
    error: type[KioskError],
    says: str,
    kiosk: Kiosk,
    tmp_path: Path,
) -> None:
    ordered(kiosk, orders.pause)
    ordered(kiosk, orders.resume)
    assert seen(kiosk, tmp_path / "host") == TRUE
    attacked(kiosk, do, tmp_path / "host", error, says)


@pytest.mark.parametrize(
    ("what", "do", "error", "says"), FOR_A_NEW_HOST, ids=[a[0].replace(" ", "-") for a in FOR_A_NEW_HOST]
)
def test_a_host_that_has_seen_nothing_yet_does_not_either(
    what: str,
    do: Callable[[Attacker], None],
    error: type[KioskError],
    says: str,
    kiosk: Kiosk,
    tmp_path: Path,
) -> None:
    ordered(kiosk, orders.pause)
    ordered(kiosk, orders.resume)
    attacked(kiosk, do, tmp_path / "new host", error, says)


def test_the_stolen_key_signs_no_image_and_no_layer(kiosk: Kiosk, tmp_path: Path) -> None:
    attacker = Attacker(kiosk)
    evil = attacker.manifest("worker", "1").read_bytes().replace(b'"version":"1"', b'"version":"9"')
    for path in ("images/worker/9.json", "layers/site/a/base/9.json", "rollouts/images/worker/9.json"):
        attacker.list_target("rollouts", path, evil)
    host = reader(kiosk, tmp_path / "host")
    assert [str(r) for r in host.manifests()] == ["worker@1", "worker@2", "site/a/base@1"]
    assert "listed by rollouts, which may not sign it" in str(kiosk.sync("worker@9").failure)
    assert host.rollout(WORKER) == TRUE, "what it may sign still holds"


def test_a_roll_out_that_images_lists_is_none(kiosk: Kiosk, tmp_path: Path) -> None:
    """The images key is stolen: it makes versions, and still can't say who runs them."""
    attacker = Attacker(kiosk)
    for path in (PATH, "images/worker/rollout.json"):
        attacker.list_target("images", path, TRUE.model_copy(update={"share": 1000}).to_json())
    host = reader(kiosk, tmp_path / "host")
    assert host.rollout(WORKER) == TRUE
    assert [str(r) for r in host.versions(WORKER)] == ["worker@1", "worker@2"]


def test_an_expired_role_stops_no_image_from_being_verified(kiosk: Kiosk, tmp_path: Path) -> None:
    """What is current stays, can be checked, and can be started; once the role is renewed hosts go on."""
    expired(Attacker(kiosk))
    host = reader(kiosk, tmp_path / "host")
    assert [str(r) for r in host.manifests()] == ["worker@1", "worker@2", "site/a/base@1"]
    assert host.manifest(WORKER).version == "2"
    with pytest.raises(ExpiredError):
        host.rollout(WORKER)
    with pytest.raises(ExpiredError):
        host.rollout(host.newest(WORKER))
