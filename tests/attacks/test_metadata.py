"""Attacks on the metadata, each by somebody who may write every served file and holds the keys that are named.

The hypervisor has worker@1. The kiosk publishes worker@2; then the attacker comes. Whatever they do, `kiosk
sync` ends with the right error, the hypervisor's images stay to the byte, and once the honest repository is
served again the hypervisor goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import MetaFile

from kiosk.errors import CorruptError, ExpiredError, KioskError, NetworkError, VerificationError
from tests.attacks.mutable import Attacker, expire
from tests.simulators.published import Kiosk, behind, duplicate, ready


@dataclass(frozen=True)
class Attack:
    """What is done, the error it must end in, and words that the message must have. `before` is what happened
    earlier and is no attack; `lasting` is what an honest repository under the same keys does not undo."""

    name: str
    do: Callable[[Attacker], object]
    error: type[KioskError]
    says: tuple[str, ...]
    before: Callable[[Attacker], object] | None = None
    lasting: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def rolled_back_snapshot(a: Attacker) -> None:
    """The timestamp key alone: a new timestamp that names the snapshot before."""
    old = a.metadata / f"{int(a.newest('snapshot').name.split('.')[0]) - 1}.snapshot.json"

    def name(timestamp: Any) -> None:
        timestamp.version += 1
        timestamp.snapshot_meta = MetaFile.from_data(
            int(old.name.split(".")[0]), old.read_bytes(), ["sha256"]
        )

    a.edit("timestamp", ["timestamp"], name)


def rolled_back_images(a: Attacker) -> None:
    """Both online keys: a new snapshot that names the images role as it was before worker@2."""
    number = int(a.newest("images").name.split(".")[0])
    a.newest("images").unlink()
    assert int(a.newest("images").name.split(".")[0]) == number - 1
    a.chain("images")


def rolled_back_timestamp(a: Attacker) -> None:
    """No key: yesterday's timestamp, whose signature is good and whose date has not passed."""
    (a.metadata / "timestamp.json").write_bytes((a.kiosk.home / "yesterday.json").read_bytes())


def seen(a: Attacker) -> None:
    """The hypervisor has seen the state with worker@2."""
    (a.kiosk.home / "yesterday.json").write_bytes((a.metadata / "timestamp.json").read_bytes())
    writer = a.kiosk.repository()
    with writer.locked():
        writer.resign()
    a.kiosk.sync("worker")


def mixed(a: Attacker) -> None:
    """No key: the images role of another state, genuinely signed, under the number of this one."""
    other = a.metadata / f"{int(a.newest('images').name.split('.')[0]) - 1}.images.json"
    shutil.copyfile(other, a.newest("images"))


def new_root(a: Attacker, keys: list[str], change: Callable[[Any], None] = lambda _: None) -> None:
    """The next root, signed by these keys."""

    def next_version(root: Any) -> None:
        root.version += 1
        change(root)

    a.edit("root", keys, next_version, file=a.metadata / "2.root.json")


def root_of_others(a: Attacker) -> None:
    """A root that names the attacker's own keys as root keys, signed by all of them."""
    mine = [a.kiosk.keys.create(f"mine-{i}", b"attacker's own") for i in (1, 2)]

    def take_over(root: Any) -> None:
        for keyid in list(root.roles["root"].keyids):
            root.revoke_key(keyid, "root")
        for key in mine:
            root.add_key(key.key, "root")

    def sign(name: str) -> Any:
        return a.kiosk.keys.signer(name, lambda _: b"attacker's own")

    path = a.metadata / "2.root.json"
    new_root(a, [], take_over)
    from tuf.api.metadata import Metadata

    found: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
    for key in mine:
        found.sign(sign(key.name), append=True)
    path.write_bytes(found.to_bytes())


def endless(a: Attacker, role: str) -> None:
    """A file that never ends."""
    path = a.newest(role)
    path.unlink()
    path.symlink_to("/dev/zero")


def images_signed_by(a: Attacker, key: str) -> None:
    """The images role, signed with somebody else's key, and named by the online keys."""
    a.edit("images", [key])
    a.chain("images")


def expired(a: Attacker, role: str) -> None:
    """A role past its date (as if nobody had renewed it), all else in order."""
    a.edit(role, [role], expire)
    if role == "snapshot":
        a.point_at_snapshot()
    elif role != "timestamp":
        a.chain(role)


def served_object(a: Attacker) -> Path:
    """An object that worker@2 needs and worker@1 did not: the newest big one."""
    objects = [p for p in (a.kiosk.settings.repository / "objects").rglob("*") if p.is_file()]
    return max((p for p in objects if p.stat().st_size > 50_000), key=lambda p: p.stat().st_mtime_ns)


ATTACKS = [
    Attack(
        "unsigned timestamp",
        lambda a: a.edit("timestamp", []),
        VerificationError,
        ("not signed", "timestamp.json"),
    ),
    Attack(
        "unsigned images",
        lambda a: (a.edit("images", []), a.chain("images")),
        VerificationError,
        ("not signed", "images.json", "no signature"),
    ),
    Attack(
        "altered timestamp",
        lambda a: a.edit("timestamp", ["snapshot"]),
        VerificationError,
        ("not signed", "signature of snapshot"),
    ),
    Attack(
        "altered snapshot", lambda a: a.flip(a.newest("snapshot")), CorruptError, ("differs", "snapshot.json")
    ),
    Attack("altered images", lambda a: a.flip(a.newest("images")), CorruptError, ("differs", "images.json")),
    Attack(
        "altered manifest", lambda a: a.flip(a.manifest("worker", "2")), CorruptError, ("differs", ".2.json")
    ),
    Attack("altered object", lambda a: a.flip(served_object(a)), CorruptError, ("digest",)),
    Attack(
        "truncated timestamp",
        lambda a: a.cut(a.newest("timestamp")),
        CorruptError,
        ("truncated", "timestamp.json"),
    ),
    Attack(
        "truncated snapshot",
        lambda a: a.cut(a.newest("snapshot")),
        CorruptError,
        ("truncated", "snapshot.json"),
    ),
    Attack(
        "truncated manifest",
        lambda a: a.cut(a.manifest("worker", "2")),
        CorruptError,
        ("truncated", ".2.json"),
    ),
    Attack("truncated object", lambda a: a.cut(served_object(a)), CorruptError, ("bytes",)),
    Attack("removed snapshot", lambda a: a.newest("snapshot").unlink(), NetworkError, ("snapshot.json",)),
    Attack(
        "endless timestamp", lambda a: endless(a, "timestamp"), CorruptError, ("longer", "timestamp.json")
    ),
    Attack("endless snapshot", lambda a: endless(a, "snapshot"), CorruptError, ("longer", "snapshot.json")),
    Attack("endless images", lambda a: endless(a, "images"), CorruptError, ("longer", "images.json")),
    Attack("frozen timestamp", lambda a: expired(a, "timestamp"), ExpiredError, ("timestamp", "resign")),
    Attack("frozen snapshot", lambda a: expired(a, "snapshot"), ExpiredError, ("snapshot", "resign")),
    Attack("frozen targets", lambda a: expired(a, "targets"), ExpiredError, ("targets", "resign")),
    Attack("frozen images", lambda a: expired(a, "images"), ExpiredError, ("images", "resign")),
    Attack(
        "frozen root",
        lambda a: new_root(a, ["root-1", "root-2"], expire),
        ExpiredError,
        ("root",),
        lasting=True,
    ),
    Attack(
        "rolled-back timestamp",
        rolled_back_timestamp,
        VerificationError,
        ("rolled back", "timestamp.json"),
        before=seen,
    ),
    Attack("rolled-back snapshot", rolled_back_snapshot, VerificationError, ("rolled back",), before=seen),
    Attack("rolled-back images", rolled_back_images, VerificationError, ("rolled back",), before=seen),
    Attack("mix-and-match", mixed, CorruptError, ("differs", "images.json")),
    Attack(
        "a site's key signs images",
        lambda a: images_signed_by(a, "site-a"),
        VerificationError,
        ("not signed", "site-a"),
    ),
    Attack(
        "the timestamp's key signs images",
        lambda a: images_signed_by(a, "timestamp"),
        VerificationError,
        ("not signed", "timestamp"),
    ),
    Attack(
        "root below its threshold",
        lambda a: new_root(a, ["root-1"]),
        VerificationError,
        ("1/2", "2.root.json"),
    ),
    Attack(
        "root signed by online keys",
        lambda a: new_root(a, ["timestamp", "snapshot"]),
        VerificationError,
        ("0/2",),
    ),
    Attack("root of other keys", root_of_others, VerificationError, ("0/2", "2.root.json")),
    Attack(
        "root with a wrong number",
        lambda a: new_root(a, ["root-1", "root-2"], lambda r: setattr(r, "version", 9)),
        VerificationError,
        ("root",),
    ),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_attack_ends_in_its_error_and_changes_nothing(attack: Attack, tmp_path: Path) -> None:
    kiosk = behind(tmp_path / "k")
    attacker = Attacker(kiosk)
    if attack.before:
        attack.before(attacker)
    honest = tmp_path / "honest"
    duplicate(kiosk.settings.repository, honest)
    before = kiosk.held()
    attack.do(attacker)

    with pytest.raises(KioskError) as caught:
        raise kiosk.sync("worker").failure or AssertionError("the attack was not noticed")
    assert type(caught.value) is attack.error, caught.value
    for words in attack.says:
        assert words in str(caught.value), caught.value
    assert kiosk.held() == before

    if not attack.lasting:
        shutil.rmtree(kiosk.settings.repository)
        honest.rename(kiosk.settings.repository)
        writer = kiosk.repository()
        for _ in range(2):  # stolen online keys have used numbers that the kiosk has to step over
            with writer.locked():
                writer.publish({"images": {"images/filler/1.json": b"{}"}})
        assert kiosk.sync("worker").failure is None
        assert kiosk.held()["images/worker/current"] == "2"


def test_a_role_that_lists_what_it_may_not_sign_is_not_believed(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    kiosk.sync()
    before = kiosk.held()
    attacker = Attacker(kiosk)
    evil = attacker.manifest("worker", "1").read_bytes().replace(b'"version":"1"', b'"version":"9"')
    cases = [
        ("site-a", "images/worker/9.json", "worker@9"),
        ("images", "layers/site/a/base/9.json", "site/a/base@9"),
        ("site-a", "layers/site/b/base/9.json", "site/b/base@9"),
        ("site-a", "layers/experiment/x/base/9.json", "experiment/x/base@9"),
    ]
    for role, path, name in cases:
        attacker.list_target(role, path, evil)
        done = kiosk.sync(name)
        assert type(done.failure) is VerificationError
        assert f"listed by {role}, which may not sign it" in str(done.failure)
    everything = kiosk.sync()  # and what is honest goes on
    assert everything.failure is None
    assert {r.name: r.version for r in everything.results} == {"worker": "1", "site/a/base": "1"}
    assert kiosk.held() == before


def test_a_manifest_signed_for_another_name_is_refused(tmp_path: Path) -> None:
    """The images key is stolen, or its holder errs: worker@1's manifest is signed as worker@9's."""
    kiosk = ready(tmp_path)
    kiosk.sync()
    before = kiosk.held()
    attacker = Attacker(kiosk)
    attacker.list_target("images", "images/worker/9.json", attacker.manifest("worker", "1").read_bytes())
    done = kiosk.sync("worker")
    assert type(done.failure) is VerificationError
    assert "is the manifest of worker@1, not of worker@9" in str(done.failure)
    assert kiosk.held() == before


def test_one_sites_broken_role_does_not_keep_others_from_their_images(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    kiosk.image(version="2")
    attacker = Attacker(kiosk)
    attacker.edit("site-a", ["site-b"])
    attacker.chain("site-a")
    done = kiosk.sync()
    assert type(done.failure) is VerificationError
    assert "site-a" in str(done.failure)
    assert kiosk.held()["images/worker/current"] == "2"
    assert not any("layers" in name for name in kiosk.held())


def test_recovery_from_fast_forward_takes_a_root_with_another_timestamp_key(tmp_path: Path) -> None:
    """A stolen timestamp key runs the number far ahead: honest timestamps then look rolled back. A new root
    that names another key makes the hypervisor drop what the stolen key had signed."""
    kiosk = ready(tmp_path)
    attacker = Attacker(kiosk)
    honest = kiosk.metadata / "timestamp.json"
    kept = honest.read_bytes()
    attacker.edit("timestamp", ["timestamp"], lambda t: setattr(t, "version", 2_000_000_000))
    assert kiosk.sync().failure is None
    honest.write_bytes(kept)
    with pytest.raises(VerificationError, match="rolled back"):
        kiosk.sync()

    fresh = kiosk.keys.create("timestamp-2", b"correct horse battery staple").key

    def exchange(root: Any) -> None:
        root.revoke_key(root.roles["timestamp"].keyids[0], "timestamp")
        root.add_key(fresh, "timestamp")

    new_root(attacker, ["root-1", "root-3"], exchange)
    attacker.edit("timestamp", ["timestamp-2"])
    assert kiosk.sync().failure is None


def test_another_kiosks_root_is_not_taken_in_place_of_the_first(tmp_path: Path) -> None:
    kiosk = ready(tmp_path / "one")
    other = Kiosk(tmp_path / "other").create()
    kiosk.sync()
    before = kiosk.held()
    from kiosk.sync import sync

    with pytest.raises(VerificationError, match="root of trust given is not"):
        sync(kiosk.hypervisor, root=other.root.read_bytes())
    with pytest.raises(VerificationError):
        sync(kiosk.hypervisor, root=None, url=str(other.settings.repository))
    assert kiosk.held() == before
    assert kiosk.sync().failure is None
