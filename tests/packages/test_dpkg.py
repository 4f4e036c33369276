"""What a Debian tree says of itself: read without trusting it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiosk.disk.volume import Node
from kiosk.errors import BuildError, CorruptError
from kiosk.packages import Installed, dpkg, installed
from kiosk.packages.tree import Folder, content
from kiosk.packages.wheels import Wheel, wheels
from tests.packages.trees import dpkg_tree, stanza

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: GPL-2+

Files: x
License: Expat
 Permission is hereby granted

License: GPL-2+
 Text
"""


def read(root: Path) -> list[Installed]:
    return installed(root, root.parent)


def test_installed_packages_have_their_source_vendor_and_licences(tmp_path: Path) -> None:
    root = dpkg_tree(
        tmp_path / "root",
        stanza("libssl3", "3.0.11-1", source="openssl", maintainer="Debian OpenSSL Team <x@example.org>"),
        stanza("libc6", "2.36-9", source="glibc (2.36-8)"),
        stanza("libc6", "2.36-9", architecture="i386"),
        stanza("bash", "5.2-1"),
        stanza("half", "1", status="install ok half-configured"),
        stanza("gone", "1", status="deinstall ok config-files"),
    )
    doc = root / "usr/share/doc/bash"
    doc.mkdir(parents=True)
    (doc / "copyright").write_text(COPYRIGHT)
    (root / "usr/share/doc/libssl3").symlink_to("bash")
    found = read(root)
    assert [(p.name, p.architecture) for p in found] == [
        ("bash", "amd64"),
        ("libc6", "amd64"),
        ("libc6", "i386"),
        ("libssl3", "amd64"),
    ]
    assert (found[0].source, found[0].licences) == ("bash", ("Expat", "GPL-2+"))
    assert (found[1].source, found[1].source_version) == ("glibc", "2.36-8")
    assert (found[3].vendor, found[3].licences) == (
        "Debian OpenSSL Team <x@example.org>",
        ("Expat", "GPL-2+"),
    )
    rows = [p.row().model_dump(exclude_defaults=True) for p in found]
    assert rows[0] == {"name": "bash", "version": "5.2-1", "architecture": "amd64"}
    assert rows[3]["source"] == "openssl"
    assert "source_version" not in rows[3]


def test_a_tree_without_dpkg_itself_has_a_file_for_each_package(tmp_path: Path) -> None:
    folder = tmp_path / "root/var/lib/dpkg/status.d"
    folder.mkdir(parents=True)
    (folder / "base").write_text("Package: base-files\nVersion: 12.4\nArchitecture: amd64\n")
    (folder / "tzdata").write_text("Package: tzdata\nVersion: 2024a-0\nArchitecture: all\n")
    (folder / "base.md5sums").write_text("0123  usr/share/x\n")
    assert [p.name for p in read(tmp_path / "root")] == ["base-files", "tzdata"]


class InMemory:
    """A volume of regular files and links, as a disk that is read as data gives it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def nodes(self) -> Iterator[Node]:
        for number, path in enumerate([self._root, *sorted(self._root.rglob("*"))]):
            at = path.lstat()
            name = b"/" + os.fsencode(path.relative_to(self._root)) if path != self._root else b"/"
            link = os.fsencode(path.readlink()) if stat.S_ISLNK(at.st_mode) else None
            yield Node(name, at.st_mode, 0, 0, at.st_size, 0, number, target=link)

    def read(self, node: Node) -> Iterator[bytes]:
        data = (self._root / os.fsdecode(node.path[1:])).read_bytes()
        yield from (data[i : i + 100] for i in range(0, len(data), 100))


def test_a_disk_that_is_read_as_data_says_the_same_as_a_folder(tmp_path: Path) -> None:
    root = dpkg_tree(tmp_path / "root", stanza("bash", "5.2-1"), stanza("twin", "1"))
    (root / "usr/share/doc/bash").mkdir(parents=True)
    (root / "usr/share/doc/bash/copyright").write_text(COPYRIGHT)
    (root / "usr/share/doc/twin").symlink_to("bash")
    assert installed(InMemory(root), tmp_path) == read(root)
    assert len(read(root)) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (stanza("bash", "1") + stanza("bash", "1"), "twice"),
        (stanza("bash", ""), "without Version"),
        (stanza("bash", "1; rm -rf /"), "is no package"),
        (stanza("../../etc/passwd", "1"), "is no package"),
        (stanza("bash\n x", "1"), "strange source"),
        (stanza("bash", "1", source="a b c"), "strange source"),
    ],
)
def test_a_database_with_rows_that_are_none_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(CorruptError, match=says):
        read(dpkg_tree(tmp_path / "root", text))


def test_a_tree_can_not_lead_out_of_itself_or_hang_its_reader(tmp_path: Path) -> None:
    outside = dpkg_tree(tmp_path / "outside", stanza("outside", "1"))
    for name, target in [("absolute", outside / "var"), ("relative", Path("../outside/var"))]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "var").symlink_to(target)
        with pytest.raises(BuildError, match="neither a dpkg nor an rpm database"):
            read(tmp_path / name)
    folder = tmp_path / "pipe/var/lib/dpkg"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "status")
    with pytest.raises(BuildError, match="neither"):
        read(tmp_path / "pipe")
    root = dpkg_tree(tmp_path / "root", stanza("bash", "1"))
    (root / "usr/share/doc").mkdir(parents=True)
    (root / "usr/share/doc/bash").symlink_to("../../../../outside")
    assert read(root)[0].licences == ()


def test_a_database_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = dpkg_tree(tmp_path / "root", stanza("bash", "1"))
    status = root / "var/lib/dpkg/status"
    os.truncate(status, dpkg.LARGEST + 1)  # a hole: it takes no disk
    with pytest.raises(CorruptError, match="has more than the"):
        read(root)
    assert content(Folder(root), "var/lib/dpkg/nothing", 10) is None


def test_the_agents_wheels_are_known_by_their_own_metadata(tmp_path: Path) -> None:
    place = tmp_path / "usr/lib/kiosk/python"
    for name, licence in [("urllib3-2.8.0", "License-Expression: MIT"), ("typing_extensions-4.1", "X: y")]:
        (place / f"{name}.dist-info").mkdir(parents=True)
        (place / f"{name}.dist-info/METADATA").write_text(f"Metadata-Version: 2.4\n{licence}\n\nText\n")
    (place / "contextualize").mkdir()
    assert wheels(tmp_path) == [Wheel("typing-extensions", "4.1"), Wheel("urllib3", "2.8.0", "MIT")]
    (place / "urllib3-2.8.0.dist-info/METADATA").unlink()
    with pytest.raises(CorruptError, match="is missing"):
        wheels(tmp_path)
