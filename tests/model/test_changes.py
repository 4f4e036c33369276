"""Lists of packages and files, in both their forms, and what is different between two of them."""

from __future__ import annotations

import json

import pytest

from kiosk.errors import CorruptError
from kiosk.model import changes
from kiosk.model.census import FileEntry, Package, read_files, read_packages, write_files


def package(name: str, version: str, architecture: str = "amd64") -> Package:
    return Package(name=name, version=version, architecture=architecture)


def test_packages_are_compared_as_debian_does_it() -> None:
    before = [
        package("bash", "5.2-1~rc1"),
        package("epoch", "2.0"),
        package("gone", "1"),
        package("libc6", "2.36-9"),
        package("libc6", "2.36-9", "i386"),
        package("odd", "not a version!"),
        package("same", "1"),
    ]
    after = [
        package("bash", "5.2-1"),
        package("epoch", "1:1.0"),
        package("libc6", "2.36-10"),
        package("libc6", "2.36-8", "i386"),
        package("new", "3"),
        package("odd", "1"),
        package("same", "1"),
    ]
    found = changes.packages(before, after)
    assert [p.name for p in found.added] == ["new"]
    assert [p.name for p in found.removed] == ["gone"]
    assert [(c.name, c.architecture, c.direction) for c in found.changed] == [
        ("bash", "amd64", "upgraded"),
        ("epoch", "amd64", "upgraded"),
        ("libc6", "amd64", "upgraded"),
        ("libc6", "i386", "downgraded"),
        ("odd", "amd64", "changed"),
    ]


def regular(path: str, digest: str = "0", mode: str = "100644", owner: str = "0:0") -> FileEntry:
    return FileEntry(path=path, mode=mode, owner=owner, size=10, digest=digest * 32)


def test_a_file_is_changed_by_whatever_a_guest_can_see() -> None:
    link = FileEntry(path="/bin", mode="120777", owner="0:0", target="usr/bin")
    before = [regular(f"/{n}") for n in ("content", "gone", "mode", "owner", "same", "type")]
    after = [
        regular("/content", "1"),
        regular("/mode", mode="104755"),
        regular("/new"),
        regular("/owner", owner="0:42"),
        regular("/same"),
        FileEntry(path="/type", mode="040755", owner="0:0"),
    ]
    found = changes.files([*before, link], [*after, link.model_copy(update={"target": "usr/sbin"})])
    assert (found.added, found.removed) == (("/new",), ("/gone",))
    assert found.changed is not None
    assert {c.path: c.what for c in found.changed} == {
        "/bin": ("target",),
        "/content": ("content",),
        "/mode": ("permissions",),
        "/owner": ("owner",),
        "/type": ("type",),
    }


def test_a_list_of_bare_paths_is_read_and_says_that_it_knows_no_more() -> None:
    old = read_files(b'["/etc/passwd", "/gone"]', where="old")
    found = changes.files(old, [regular("/etc/passwd")])
    assert (found.added, found.removed, found.changed) == ((), ("/gone",), None)


def test_a_list_of_files_reads_back_as_written() -> None:
    entries = (regular("/a"), FileEntry(path='/b "ü"\n', mode="020660", owner="0:5", device="4:64"))
    assert read_files(write_files(entries), where="here") == entries
    assert read_files(write_files(()), where="here") == ()
    assert len(write_files(entries).splitlines()) == 4


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[1]", b'[{"path": "/a", "more": 1}]', b'[{"path": "/a", "mode": "rwx"}]', b"[" * 100_000],
)
def test_what_is_no_such_list_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptError, match="is not a list of files"):
        read_files(data, where="here")
    with pytest.raises(CorruptError, match="is not a list of packages"):
        read_packages(json.dumps([{"name": 1}]).encode(), where="here")
