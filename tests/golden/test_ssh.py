"""A physical node over a real sshd: its files as root sees them, or an error and nothing at all."""

from __future__ import annotations

import copy
import io
import os
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kiosk.errors import BuildError, GuestError, NetworkError, NotFoundError, StorageError, VerificationError
from kiosk.golden.settings import SshSettings
from kiosk.golden.ssh import SshSource, exclusions
from kiosk.run import run
from tests.golden.sshd import Node, node, wrap_tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: sshd, chroot, owners")


@pytest.fixture
def golden(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path / "golden") as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "capture"
    made.mkdir(mode=0o700)
    return made


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_nodes_files_arrive_as_root_sees_them(golden: Node, folder: Path) -> None:
    root = golden.root
    os.chown(put(root / "home/someone/thing"), 1234, 5678)
    put(root / "usr/bin/su").chmod(0o4755)
    (root / "etc").mkdir()
    (root / "etc/mtab").symlink_to("/proc/mounts")
    (root / "etc/up").symlink_to("../../outside")
    os.link(put(root / "srv/one"), root / "srv/two")
    os.mkfifo(root / "srv/pipe")
    put(root / "srv/sparse", b"")
    os.truncate(root / "srv/sparse", 1 << 30)
    os.setxattr(
        put(root / "usr/bin/ping"), "security.capability", bytes.fromhex("0100000202200000") + bytes(12)
    )
    (root / "secret").mkdir(mode=0o000)

    found = SshSource(golden.settings()).capture(folder)

    assert found.tree is not None and found.disk is None and found.warnings == ()
    tree = found.tree
    assert tree.is_relative_to(folder) and found.frozen_seconds is None and "tar" in found.method
    assert (tree / "home/someone/thing").stat().st_uid == 1234
    assert (tree / "home/someone/thing").stat().st_gid == 5678
    assert stat.S_IMODE((tree / "usr/bin/su").stat().st_mode) == 0o4755
    assert (tree / "etc/mtab").readlink() == Path("/proc/mounts")
    assert (tree / "etc/up").readlink() == Path("../../outside")
    assert (tree / "srv/one").stat().st_ino == (tree / "srv/two").stat().st_ino
    assert stat.S_ISFIFO((tree / "srv/pipe").stat().st_mode)
    assert (tree / "srv/sparse").stat().st_size == 1 << 30 and (tree / "srv/sparse").stat().st_blocks < 100
    assert os.getxattr(tree / "usr/bin/ping", "security.capability").startswith(bytes.fromhex("01000002"))
    assert stat.S_IMODE((tree / "secret").stat().st_mode) == 0


def test_scratch_and_what_the_definition_excludes_stay_where_they_are(golden: Node, folder: Path) -> None:
    root = golden.root
    gone = ["tmp/a", "var/tmp/.hidden", "scratch/deep/job", "run/x", "lost+found/1", "cvmfs/repo/file"]
    gone += ["data/one.tmp", "data/deep/two.tmp"]
    kept = ["srv/tmp/stays", "home/lost+found/stays", "data/one.txt"]
    for name in gone + kept:
        put(root / name)
    found = SshSource(golden.settings(exclude=["/cvmfs", "/data/*.tmp"])).capture(folder)
    assert found.tree is not None
    assert [name for name in gone if (found.tree / name).exists()] == []
    assert [name for name in kept if not (found.tree / name).exists()] == []
    assert (found.tree / "tmp").is_dir() and (found.tree / "scratch").is_dir()


def test_another_file_system_is_read_only_when_it_is_named(golden: Node, folder: Path) -> None:
    for name in ("boot", "nfs"):
        (golden.root / name).mkdir()
        run(["mount", "-t", "tmpfs", "tmpfs", golden.root / name], timeout=20)
        put(golden.root / name / "file")
        put(golden.root / name / "lost+found/1")
    try:
        found = SshSource(golden.settings(mounts=["/", "/boot"])).capture(folder)
    finally:
        for name in ("boot", "nfs"):
            run(["umount", golden.root / name], timeout=20)
    assert found.tree is not None
    assert sorted(p.name for p in (found.tree / "boot").iterdir()) == ["file"]
    assert list((found.tree / "nfs").iterdir()) == []


def test_files_that_change_while_they_are_read_are_warnings_that_name_them(
    golden: Node, folder: Path
) -> None:
    put(golden.root / "var/log/busy", bytes(8 << 20))
    action = "exec=echo more >>/var/log/busy"
    wrap_tar(golden.root, f'exec /bin/tar.real --checkpoint=20 --checkpoint-action="{action}" "$@"')
    found = SshSource(golden.settings()).capture(folder)
    assert found.warnings == ("changed while it was read: ./var/log/busy",)


def test_a_connection_that_dies_in_the_middle_leaves_nothing(golden: Node, folder: Path) -> None:
    put(golden.root / "srv/large", os.urandom(4 << 20))
    os.mkfifo(golden.root / "begun")
    wrap_tar(golden.root, "/bin/tar.real -c -f - -C / ./srv\necho >/begun\nexec sleep 1000")

    def kill() -> None:
        (golden.root / "begun").read_bytes()
        for pid in golden.sessions():
            run(["pkill", "-KILL", "-P", str(pid)], timeout=20)
            os.kill(pid, 9)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(NetworkError, match="lost"):
        SshSource(golden.settings()).capture(folder)
    killer.join()
    assert list(folder.iterdir()) == []


def test_a_node_that_never_ends_is_given_up_and_leaves_nothing(golden: Node, folder: Path) -> None:
    wrap_tar(golden.root, "/bin/tar.real -c -f - -C / ./usr\nexec sleep 1000")
    with pytest.raises(NetworkError, match="not read after 2 s"):
        SshSource(golden.settings(timeout=2)).capture(folder)
    assert list(folder.iterdir()) == []


def test_more_bytes_than_allowed_end_the_transfer(golden: Node, folder: Path) -> None:
    put(golden.root / "srv/large", os.urandom(4 << 20))
    with pytest.raises(NetworkError, match="more than 1048576 bytes"):
        SshSource(golden.settings(max_bytes=1 << 20)).capture(folder)
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(golden: Node, folder: Path) -> None:
    put(golden.root / "srv/large", os.urandom(4 << 20))
    run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", folder], timeout=20)
    try:
        with pytest.raises(StorageError, match="no space"):
            SshSource(golden.settings()).capture(folder)
        assert list(folder.iterdir()) == []
    finally:
        run(["umount", folder], timeout=20)


def test_a_node_whose_tar_fails_is_an_error_that_shows_why(golden: Node, folder: Path) -> None:
    with pytest.raises(BuildError, match=r"status 2:\n.*nowhere"):
        SshSource(golden.settings(mounts=["/", "/nowhere"])).capture(folder)
    assert list(folder.iterdir()) == []


def test_an_unknown_host_key_is_refused(golden: Node, folder: Path) -> None:
    other = golden.folder / "other"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], timeout=20)
    public = " ".join(Path(f"{other}.pub").read_text().split()[:2])
    (golden.folder / "known_hosts").write_text(f"[127.0.0.1]:{golden.port} {public}\n")
    with pytest.raises(VerificationError, match="host key"):
        SshSource(golden.settings()).capture(folder)
    (golden.folder / "known_hosts").write_text("")
    with pytest.raises(VerificationError, match="host key"):
        SshSource(golden.settings()).run(["cat"], timeout=20)
    (golden.folder / "known_hosts").unlink()
    with pytest.raises(NotFoundError, match="known_hosts"):
        SshSource(golden.settings()).run(["cat"], timeout=20)


def test_a_key_that_the_node_does_not_know_is_said(golden: Node) -> None:
    with pytest.raises(NetworkError, match="does not accept the key"):
        SshSource(golden.settings(identity=golden.folder / "host")).run(["cat"], timeout=20)


def test_commands_run_in_the_node_with_their_words_untouched(golden: Node) -> None:
    source = SshSource(golden.settings())
    words = ["a b", "$HOME", "'; exit 7 #", "*"]
    answer = source.run(["sh", "-c", 'for w in "$@"; do echo "<$w>"; done; exit 3', "sh", *words], timeout=20)
    assert answer.status == 3
    assert answer.output.splitlines() == [f"<{word}>" for word in words]
    with pytest.raises(GuestError, match="not done after 1 s"):
        source.run(["sleep", "100"], timeout=1)


def test_a_hook_makes_and_drops_a_snapshot_whatever_happens(golden: Node, folder: Path) -> None:
    hook = ["sh", "-c", "echo $0 >>/hooks"]
    settings = golden.settings(before=[*hook, "before"], after=[*hook, "after"])
    found = SshSource(settings).capture(folder)
    assert found.tree is not None and (found.tree / "hooks").read_text() == "before\n"
    assert (golden.root / "hooks").read_text() == "before\nafter\n"
    bad = settings.model_copy(update={"before": ("sh", "-c", "echo half; exit 4")})
    (folder / "second").mkdir(mode=0o700)
    with pytest.raises(BuildError, match=r"`before` ended with status 4(.|\n)*half"):
        SshSource(bad).capture(folder / "second")
    assert (golden.root / "hooks").read_text() == "before\nafter\nafter\n"
    assert list((folder / "second").iterdir()) == []


@pytest.mark.parametrize("host", ["-oProxyCommand=evil", "a b", "", "host;evil", "user@host"])
def test_a_host_that_is_more_than_a_name_is_refused(host: str) -> None:
    with pytest.raises(ValidationError):
        SshSettings(kind="ssh", host=host, identity=Path("/i"), known_hosts=Path("/k"))


def test_mounts_with_strange_names_exclude_only_their_own_lost_found() -> None:
    assert "./a\\*\\[b/lost+found" in exclusions([Path("/"), Path("/a*[b")], [])


# -- a node that lies: a program named ssh sends what it likes ------------------------------------------


def member(
    name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", data: bytes = b"evil"
) -> tuple[Any, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o777
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    return info, data


@pytest.fixture
def lying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[..., SshSource]:
    def make(*members: tuple[Any, bytes], raw: bytes | None = None) -> SshSource:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for info, data in members:
                tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
        programs = tmp_path / "programs"
        programs.mkdir(exist_ok=True)
        (programs / "stream").write_bytes(stream.getvalue() if raw is None else raw)
        put(programs / "ssh", f"#!/bin/sh\nexec cat {programs}/stream\n".encode()).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        known = {"identity": put(tmp_path / "id"), "known_hosts": put(tmp_path / "known")}
        return SshSource(
            SshSettings.model_validate({"kind": "ssh", "host": "node", **known, "max_bytes": 4 << 20})
        )

    return make


EVIL = {
    "an absolute name": [member("{out}/evil")],
    "a name with dots": [member("../../evil")],
    "a name with dots in the middle": [member("a/../../../evil")],
    "a hard link to an absolute name": [member("a", tarfile.LNKTYPE, link="{out}/victim"), member("a")],
    "a hard link upwards": [member("a", tarfile.LNKTYPE, link="../../../victim"), member("a")],
    "a file through an absolute link": [member("a", tarfile.SYMTYPE, link="{out}"), member("a/evil")],
    "a file through a link upwards": [member("a", tarfile.SYMTYPE, link="../../.."), member("a/evil")],
    "a file in the place of a link": [member("a", tarfile.SYMTYPE, link="{out}/victim"), member("a")],
    "a folder in the place of a link": [
        member("a", tarfile.SYMTYPE, link="{out}"),
        member("a", tarfile.DIRTYPE),
        member("a/evil"),
    ],
    "a file through two links": [
        member("a", tarfile.SYMTYPE, link="b"),
        member("b", tarfile.SYMTYPE, link="../../.."),
        member("a/evil"),
    ],
    "a hard link to a link": [
        member("a", tarfile.SYMTYPE, link="{out}/victim"),
        member("b", tarfile.LNKTYPE, link="a"),
        member("b"),
    ],
    "a file through a hard link to a link": [
        member("a", tarfile.SYMTYPE, link="{out}"),
        member("b", tarfile.LNKTYPE, link="a"),
        member("b/evil"),
    ],
}


@pytest.mark.parametrize("story", EVIL)
def test_a_stream_that_reaches_for_what_is_outside_touches_nothing(
    story: str, lying: Callable[..., SshSource], folder: Path, tmp_path: Path
) -> None:
    victim = put(tmp_path / "victim", b"unharmed")
    members = []
    for info, data in EVIL[story]:
        changed = copy.copy(info)
        changed.name = info.name.replace("{out}", str(tmp_path))
        changed.linkname = info.linkname.replace("{out}", str(tmp_path))
        members.append((changed, data))
    before = sorted(p for p in tmp_path.rglob("*") if not p.is_relative_to(folder))
    try:
        source = lying(*members)
        before = sorted(p for p in tmp_path.rglob("*") if not p.is_relative_to(folder))
        source.capture(folder)
    except (VerificationError, NetworkError):
        assert list(folder.iterdir()) == []
    assert victim.read_bytes() == b"unharmed" and victim.stat().st_nlink == 1
    assert sorted(p for p in tmp_path.rglob("*") if not p.is_relative_to(folder)) == before


def test_a_stream_with_a_name_outside_is_refused_as_a_whole(
    lying: Callable[..., SshSource], folder: Path
) -> None:
    source = lying(member("./good"), member("/etc/evil"))
    with pytest.raises(VerificationError, match="outside"):
        source.capture(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("raw", [b"", b"noise" * 1000, b"\0" * 512])
def test_what_is_no_archive_or_an_empty_one_is_no_node(
    raw: bytes, lying: Callable[..., SshSource], folder: Path
) -> None:
    source = lying(raw=raw)
    with pytest.raises(NetworkError):
        source.capture(folder)
    assert list(folder.iterdir()) == []


def test_a_stream_that_is_cut_off_is_no_node(lying: Callable[..., SshSource], folder: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info, data = member("./large", data=os.urandom(1 << 20))
        tar.addfile(info, io.BytesIO(data))
    source = lying(raw=stream.getvalue()[: 1 << 19])
    with pytest.raises(NetworkError, match="can't be unpacked"):
        source.capture(folder)
    assert list(folder.iterdir()) == []


def test_a_file_that_pretends_to_be_huge_is_refused(lying: Callable[..., SshSource], folder: Path) -> None:
    info, _ = member("./huge", data=b"")
    info.size = 1 << 40
    source = lying(raw=info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
    with pytest.raises(NetworkError):
        source.capture(folder)
    assert list(folder.iterdir()) == []
