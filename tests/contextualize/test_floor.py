"""What was revoked does not boot, whoever hands the guest its metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from contextualize.document import parts
from contextualize.errors import Refused
from contextualize.floor import below_floor, floor, floor_of
from contextualize.trust import Trust
from tests.contextualize.guest import Guest

Squashfs = Callable[[dict[str, str]], bytes]
LAYER = "experiment/demo/software"
WHY = "CVE-2026-1234 in openssl"


def revoke(guest: Guest, name: str, below: str, /, *, role: str, **changes: str) -> None:
    folder = f"layers/{name}" if "/" in name else f"images/{name}"
    document = {"schema": "kiosk.floor/1", "name": name, "below": below, "reason": WHY}
    document["date"] = "2026-03-01T12:00:00Z"
    guest.add_manifest(role, f"{folder}/floor.json", {**document, **changes})


@pytest.fixture
def demo(guest: Guest, squashfs: Squashfs) -> Guest:
    """A guest with one experiment layer, version 1."""
    guest.add_layer(LAYER, squashfs({"share/version": "4.2\n"}))
    return guest


def test_an_image_below_its_floor(demo: Guest) -> None:
    revoke(demo, "debian-12-minimal", "20260301.2", role="images")
    assert demo.boot() == 1
    assert demo.refused() == (
        "verify: debian-12-minimal@20260301.1 was revoked: nothing below 20260301.2 may run (CVE-2026-1234 in openssl)"
    )


def test_a_layer_below_its_floor(demo: Guest) -> None:
    revoke(demo, LAYER, "1.1", role="experiment-demo")
    assert demo.boot() == 1
    assert demo.refused() == f"verify: {LAYER}@1 was revoked: nothing below 1.1 may run ({WHY})"


def test_a_version_at_its_floor_is_good(demo: Guest) -> None:
    revoke(demo, LAYER, "1", role="experiment-demo")
    revoke(demo, "debian-12-minimal", "20260301.1", role="images")
    assert demo.boot() == 0


def test_a_hypervisor_that_hides_the_floor(demo: Guest) -> None:
    revoke(demo, LAYER, "2", role="experiment-demo")
    demo.sign()
    (file,) = (demo.disk / "kiosk/targets/layers" / LAYER).glob("*.floor.json")
    file.unlink()
    assert demo.boot(signed=True) == 1
    assert "floor.json" in demo.refused()


@pytest.mark.parametrize("role", ["site-example", "experiment-other", "targets"])
def test_a_floor_that_another_role_has_set(demo: Guest, role: str) -> None:
    """Nobody else can stop an experiment's layer, nor lift its floor; a role that lists both is refused."""
    revoke(demo, LAYER, "2", role=role)
    if role == "targets":
        assert demo.boot() == 1
    else:
        assert demo.boot() == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "experiment/demo/other"}, "is the floor of experiment/demo/other"),
        ({"below": "one"}, "below: 'one' is not valid"),
        ({"colour": "blue"}, "'colour': unknown key"),
        ({"schema": "kiosk.floor/2"}, "schema: is 'kiosk.floor/2'"),
        ({"reason": "x\ny"}, "reason: "),
    ],
)
def test_a_floor_that_does_not_hold(demo: Guest, changes: dict[str, str], expected: str) -> None:
    revoke(demo, LAYER, "1", role="experiment-demo", **changes)
    assert demo.boot() == 1
    assert expected in demo.refused()


def test_versions_compare_as_numbers() -> None:
    assert parts("1.2") < parts("1.10") < parts("2") < parts("2.0")


def test_a_later_look_can_not_be_shown_an_older_state(demo: Guest, tmp_path: Path) -> None:
    """The same question again, from what was verified at boot: for a machine that runs and watches."""
    demo.repository.version = 2
    revoke(demo, LAYER, "1", role="experiment-demo")
    demo.sign()
    work, old = demo.root / "run/kiosk/private/tuf", tmp_path / "older"
    assert demo.boot(signed=True) == 0
    demo.repository.version = 1
    demo.repository.write(old)
    root = demo.repository.root()
    with pytest.raises(Refused, match=r"VersionNumberError"):
        Trust(root, old, None, work)
    newer = tmp_path / "newer"
    demo.repository.version = 3
    revoke(demo, LAYER, "2", role="experiment-demo")
    demo.repository.write(newer)
    assert WHY in str(below_floor(floor_of(Trust(root, newer, None, work), LAYER), LAYER, "1"))


def test_a_reader_of_floors_takes_no_other_document() -> None:
    with pytest.raises(Refused, match="not a JSON object"):
        floor(b"[]", "x")


def test_a_reason_that_can_not_be_printed_does_not_hide_the_revocation() -> None:
    found = floor(
        b'{"schema":"kiosk.floor/1","name":"x","below":"2","reason":"bad \\ud800 one","date":"d"}', "f"
    )
    said = below_floor(found, "x", "1")
    assert said is not None and said.encode() and "bad   one" in said
