"""What an rpm tree says of itself, by databases that rpm has made."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from kiosk.errors import CorruptError, MissingToolError
from kiosk.files import sha256
from kiosk.model.census import Package
from kiosk.model.changes import direction
from kiosk.model.changes import packages as compare
from kiosk.packages import installed
from kiosk.run import run
from tests.packages.trees import Rpm, dpkg_tree, rpm_tree, stanza

OPENSSL = Rpm("openssl", "3.0.7", "27.el9", epoch=1, licence="ASL 2.0")
KERNELS = (Rpm("kernel-core", "5.14.0", "427.el9"), Rpm("kernel-core", "5.14.0", "503.el9"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rpm_tree(tmp_path / "root", tmp_path / "work", OPENSSL, *KERNELS, Rpm("bash", "5.1.8~rc2^git1", epoch=0))
    return tmp_path / "root"


def test_packages_are_what_rpm_installed(root: Path, tmp_path: Path) -> None:
    found = installed(root, tmp_path)
    assert [(p.kind, p.name, p.version) for p in found] == [
        ("rpm", "bash", "5.1.8~rc2^git1-1.el9"),
        ("rpm", "kernel-core", "5.14.0-427.el9"),
        ("rpm", "kernel-core", "5.14.0-503.el9"),
        ("rpm", "openssl", "1:3.0.7-27.el9"),
    ]
    openssl = found[-1]
    assert (openssl.source, openssl.vendor, openssl.licences) == ("openssl", "Example Linux", ("ASL 2.0",))
    assert len(openssl.header or "") == 64
    assert openssl.row().model_dump(exclude_defaults=True) == {
        "name": "openssl", "version": "1:3.0.7-27.el9", "architecture": "noarch", "kind": "rpm",
    }  # fmt: skip


def test_reading_leaves_the_tree_as_it_was(root: Path, tmp_path: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, sha256(p)) for p in root.rglob("*") if p.is_file()}
    installed(root, tmp_path)
    assert {p: (p.stat().st_mtime_ns, sha256(p)) for p in root.rglob("*") if p.is_file()} == before
    assert not list(tmp_path.glob("rpm-*"))


def test_what_a_live_database_has_not_yet_written_into_its_file_counts(root: Path, tmp_path: Path) -> None:
    live = sqlite3.connect(root / "var/lib/rpm/rpmdb.sqlite")  # open, as on a node that goes on running
    live.execute("PRAGMA wal_autocheckpoint=0")
    live.execute("DELETE FROM Packages WHERE hnum = 1")
    live.commit()
    assert (root / "var/lib/rpm/rpmdb.sqlite-wal").stat().st_size > 0
    assert len(installed(root, tmp_path)) == 3
    live.close()


def test_a_newer_place_of_the_database_is_known(root: Path, tmp_path: Path) -> None:
    place = root / "usr/lib/sysimage/rpm"
    place.parent.mkdir(parents=True)
    (root / "var/lib/rpm").rename(place)
    (root / "var/lib/rpm").symlink_to("../../usr/lib/sysimage/rpm")
    assert len(installed(root, tmp_path)) == 4


def test_an_rpm_database_that_nobody_uses_does_no_harm_to_a_debian_tree(tmp_path: Path) -> None:
    root = dpkg_tree(tmp_path / "root", stanza("rpm", "4.18"))
    run(["rpm", "--root", root, "--dbpath", "/var/lib/rpm", "--initdb"], timeout=60)
    assert [p.name for p in installed(root, tmp_path)] == ["rpm"]


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (
            "UPDATE Packages SET blob = substr(blob, 1, 900) || zeroblob(length(blob) - 900) WHERE hnum = 2",
            "BAD",
        ),
        ("UPDATE Packages SET blob = x'0000' WHERE hnum = 3", "BAD"),
        ("UPDATE Packages SET blob = zeroblob(30000000) WHERE hnum = 3", "BAD"),
    ],
)
def test_a_package_with_a_damaged_header_is_not_just_left_out(
    root: Path, tmp_path: Path, statement: str, says: str
) -> None:
    with sqlite3.connect(root / "var/lib/rpm/rpmdb.sqlite") as database:
        database.execute(statement)
    with pytest.raises(CorruptError, match=f"a part of this database is damaged.*{says}"):
        installed(root, tmp_path)


@pytest.mark.parametrize("data", [b"", b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8000, b"#!/bin/sh\n"])
@pytest.mark.parametrize("name", ["rpmdb.sqlite", "Packages"])
def test_what_is_no_database_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    folder = tmp_path / "root/var/lib/rpm"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(data)
    with pytest.raises(CorruptError, match="can't read this database"):
        installed(tmp_path / "root", tmp_path)


def test_without_the_program_the_package_that_has_it_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("kiosk.run.SYSTEM_PATHS", ())
    with pytest.raises(MissingToolError, match="apt-get install rpm"):
        installed(root, tmp_path)


def test_a_database_without_an_end_is_damage(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kiosk.packages.rpm.LARGEST_LIST", 100)
    with pytest.raises(CorruptError, match="no end of it in 300 s and 100 bytes"):
        installed(root, tmp_path)


def test_versions_go_up_and_down_as_rpm_has_it() -> None:
    versions = [
        "1.0-1",
        "1.0-1.el9",
        "1.0~rc1-1",
        "1.0^git1-1",
        "1.0a-1",
        "1.10-1",
        "1:0.9-1",
        "1.0.0-1",
        "01.0-1",
    ]
    pairs = [(a, b) for a in versions for b in versions if a != b]
    lua = "".join(f'print(rpm.vercmp("{a}", "{b}"), "")' for a, b in pairs)
    answers = [int(word) for word in run(["rpm", "-E", f"%{{lua: {lua}}}"], timeout=60).split()]
    words = {-1: "upgraded", 0: "changed", 1: "downgraded"}
    assert len(answers) == len(pairs)
    for (a, b), answer in zip(pairs, answers, strict=True):
        old, new = (Package(name="p", version=v, architecture="x86_64", kind="rpm") for v in (a, b))
        assert direction(old, new) == words[answer], (a, b)


def test_kernels_side_by_side_are_added_and_removed_one_by_one() -> None:
    def kernels(*versions: str) -> list[Package]:
        return [Package(name="kernel", version=v, architecture="x86_64", kind="rpm") for v in versions]

    found = compare(kernels("5-1", "5-2"), kernels("5-2", "5-3"))
    assert [(c.before, c.after, c.direction) for c in found.changed] == [("5-1", "5-3", "upgraded")]
    found = compare(kernels("5-1"), kernels("5-1", "5-2"))
    assert ([p.version for p in found.added], found.removed, found.changed) == (["5-2"], (), ())
    found = compare(kernels("5-1", "5-2", "5-3"), kernels("5-3", "5-4"))
    assert ([p.version for p in found.removed], [p.version for p in found.added]) == (["5-1", "5-2"], ["5-4"])
