"""What the guest gets runs on the guest's own Python, which is not the build host's."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk.build import guest
from kiosk.errors import BuildError


def distribution(folder: Path, name: str, needs: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}\n")


def test_a_wheel_that_needs_a_newer_python_than_the_guests_ends_the_build(tmp_path: Path) -> None:
    distribution(tmp_path, "anything", "")
    distribution(tmp_path, "fitting", "Requires-Python: >=3.9,!=3.9.0,!=3.9.1")
    guest.check_python(tmp_path, guest.PYTHONS["bullseye"])
    distribution(tmp_path, "modern", "Requires-Python: >=3.10")
    with pytest.raises(BuildError, match=r"modern 1\.0 needs Python >=3\.10, and the guest has 3\.9\.2"):
        guest.check_python(tmp_path, guest.PYTHONS["bullseye"])
    guest.check_python(tmp_path, guest.PYTHONS["trixie"])


def test_a_release_with_an_old_python_has_pins_of_its_own_and_a_key_of_its_own() -> None:
    ours, old = guest.constraints("bookworm"), guest.constraints("bullseye")
    assert ours == guest.constraints("trixie")
    assert {name for name in ours if ours[name] != old[name]} <= set(guest.OLDER["bullseye"])
    assert old["tuf"] == guest.OLDER["bullseye"]["tuf"]
    assert guest.digest("bullseye") != guest.digest("bookworm")
