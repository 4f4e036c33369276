"""A golden node's tree loses all that is its own, and nothing else; hostile trees lose nothing outside of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kiosk.errors import PolicyError
from kiosk.model.accounts import AccountPolicy
from kiosk.sanitise import rules
from kiosk.sanitise.engine import Done, sanitise
from kiosk.sanitise.rules import Rule
from tests.sanitise import debian
from tests.simulators import planted

TABLE = rules.load()
POLICY = AccountPolicy(keep=("slurm",))
State = tuple[int, int, int, int, bytes | str]


def rule(**fields: object) -> Rule:
    """A rule without anything but what matters here."""
    about = {"name": "test", "reason": "Is only here for a test.", "examples": [{"path": "x"}]}
    return Rule.model_validate({**about, **fields})


def states(root: Path, *, folders: bool = True) -> dict[str, State]:
    found = {}
    for path in sorted(root.rglob("*")):
        s = path.lstat()
        content: bytes | str = b""
        if path.is_symlink():
            content = str(path.readlink())
        elif stat.S_ISREG(s.st_mode):
            content = path.read_bytes()
        elif not folders:
            continue
        found[str(path.relative_to(root))] = (s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns, content)
    return found


def test_a_clean_tree_stays_as_it_is_to_the_nanosecond(tmp_path: Path) -> None:
    root = debian.make(tmp_path / "root")
    before = states(root)
    assert sanitise(root, TABLE, POLICY) == ()
    assert states(root) == before


def test_of_all_that_was_planted_nothing_is_left_and_all_else_is_as_before(tmp_path: Path) -> None:
    root = debian.make(tmp_path / "root")
    before = states(root, folders=False)
    planted.plant(root)
    assert planted.found_in(root) == sorted(p.name for p in planted.PLANTED)
    done = sanitise(root, TABLE, POLICY)
    assert planted.found_in(root) == []
    after = states(root, folders=False)
    appended = {p.path[1:] for p in planted.PLANTED if p.append}
    for path, state in before.items():
        if path in appended | {"etc/machine-id"}:
            assert after[path][:3] + after[path][4:] == state[:3] + state[4:], path
        else:
            assert after[path] == state, path
    new = {path: content for path, (*_, content) in after.items() if path not in before}
    assert set(new) == {
        "etc/sssd/sssd.conf",
        "etc/telegraf/telegraf.conf",
        "etc/sysconfig/network-scripts/ifcfg-eth0",
    }
    assert len({d.path for d in done}) >= 60
    assert sanitise(root, TABLE, POLICY) == ()


def test_there_are_enough_of_them_and_each_can_be_told_from_the_others() -> None:
    assert len(planted.PLANTED) >= 25
    assert len({p.name for p in planted.PLANTED}) == len(planted.PLANTED)
    whole = b"\n\n".join(p.content for p in planted.PLANTED)
    for p in planted.PLANTED:
        assert len(p.marker) >= 16, p.name
        assert p.marker in p.content or p.kind == "account", p.name
        holding = [q.name for q in planted.PLANTED if p.marker in q.content]
        assert whole.count(p.marker) >= 1, p.name
        assert all(p.kind == "account" or name == p.name or "hash" in name for name in holding), (
            p.name,
            holding,
        )


@pytest.mark.parametrize("where", ["etc", "var/log", "tmp", "root", "home", "var/lib", "etc/ssh"])
def test_a_folder_that_is_a_link_out_of_the_root_costs_nothing_there(tmp_path: Path, where: str) -> None:
    outside = debian.make(tmp_path / "outside")
    planted.plant(outside)
    before = states(outside)
    root = debian.make(tmp_path / "root")
    victim = root / where
    for target in (
        str(outside / where),
        os.path.relpath(outside / where, victim.parent),
        "/" * 3,
        ".." + "/.." * 40,
    ):
        victim.rename(tmp_path / "moved") if victim.is_dir() and not victim.is_symlink() else victim.unlink()
        victim.symlink_to(target)
        with contextlib.suppress(PolicyError):
            sanitise(root, TABLE, POLICY)
        assert states(outside) == before


def test_a_link_to_itself_ends(tmp_path: Path) -> None:
    root = debian.make(tmp_path / "root")
    shutil.rmtree(root / "var/log")
    (root / "var/log").symlink_to("/loop")
    (root / "loop").symlink_to("/var/log")
    assert sanitise(root, TABLE, POLICY) == ()


def test_a_tree_without_a_folder_for_the_machine_id_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").symlink_to("/nowhere")
    with pytest.raises(PolicyError, match="/etc: is no folder"):
        sanitise(tmp_path, TABLE, POLICY)


@pytest.mark.parametrize(
    "name", ["etc/shadow", "etc/machine-id", "etc/hosts", "etc/fstab", "root/.bash_history"]
)
def test_a_file_that_is_a_link_out_of_the_root_costs_nothing_there(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.write_text("root:$6$s$h:1::::::\n127.0.1.1 x\nUUID=1 / ext4\n")
    root = debian.make(tmp_path / "root")
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(outside)
    sanitise(root, TABLE, POLICY)
    assert outside.read_text().startswith("root:$6$")


def test_links_inside_the_root_lead_to_what_they_name(tmp_path: Path) -> None:
    root = debian.make(tmp_path / "root")
    for old, new in {"var/log": "data/log", "home": "export/home", "etc/grid-security": "opt/grid"}.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)
        (root / old).symlink_to(f"/{new}")
    for path in ("data/log/auth.log", "export/home/alice/notes", "opt/grid/hostcert.pem"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")
    sanitise(root, TABLE, POLICY)
    assert not (root / "data/log/auth.log").exists()
    assert not (root / "export/home/alice").exists()
    assert not (root / "opt/grid/hostcert.pem").exists()
    assert (root / "opt/grid/certificates/Example.pem").is_file()
    assert (root / "data/log/apt").is_dir()


def test_a_user_can_not_choose_what_is_removed_outside_of_the_home(tmp_path: Path) -> None:
    root = debian.make(tmp_path / "root")
    home = root / "var/lib/service"
    home.mkdir()
    with (root / "etc/passwd").open("a") as f:
        f.write("service:x:990:990::/var/lib/service:/bin/sh\n")
    for name in (".ssh", ".local", ".config", ".lsbatch", ".cache", ".puppet", ".aws"):
        (home / name).symlink_to("/etc")
    before = {p: s for p, s in states(root).items() if p.startswith(("etc/", "usr/")) and p != "etc/passwd"}
    sanitise(root, TABLE, POLICY)
    after = states(root)
    assert {p: after.get(p) for p in before} == before
    assert not (home / ".ssh").is_symlink()


def test_depth_names_and_special_files_are_no_danger(tmp_path: Path) -> None:
    root = debian.make(tmp_path / "root")
    fd = os.open(root / "tmp", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    odd = os.fsencode(root) + b"/root/.\xff\xfe\n\x1b[31m_history"
    Path(os.fsdecode(odd)).write_bytes(b"x")
    os.mkfifo(root / "etc/krb5.keytab")
    os.mkfifo(root / "opt/waits")
    (root / "etc/fstab").unlink()
    os.mkfifo(root / "etc/fstab")
    (root / "etc/machine-id").unlink()
    (root / "etc/machine-id").mkdir()
    done = sanitise(root, TABLE, POLICY)
    assert not any((root / "tmp").iterdir())
    assert not os.path.lexists(odd)
    assert (root / "etc/machine-id").read_bytes() == b""
    assert stat.S_IMODE((root / "etc/machine-id").stat().st_mode) == 0o444
    assert all(d.path.isprintable() for d in done)


def test_a_password_file_loses_its_hashes_under_all_its_names(tmp_path: Path) -> None:
    root = debian.make(tmp_path / "root")
    (root / "etc/shadow").write_text("root:$6$salt$hash:20000:0:99999:7:::\n")
    os.link(root / "etc/shadow", root / "opt/other-name")
    sanitise(root, TABLE, POLICY)
    assert (root / "opt/other-name").read_text() == (root / "etc/shadow").read_text()
    assert "$6$" not in (root / "opt/other-name").read_text()


def test_a_file_too_large_to_be_edited_is_refused(tmp_path: Path) -> None:
    root = debian.make(tmp_path / "root")
    with (root / "etc/passwd").open("ab") as f:
        f.truncate(17 << 20)
    with pytest.raises(PolicyError, match="/etc/passwd: is too large to be edited"):
        sanitise(root, TABLE, POLICY)


def test_what_was_done_does_not_depend_on_the_order_of_a_folder(tmp_path: Path) -> None:
    def run(name: str, order: Callable[[list[str]], list[str]]) -> tuple[Done, ...]:
        root = tmp_path / name
        for file in order([f"var/log/{i}" for i in range(20)] + [f"etc/ssh/ssh_host_{i}" for i in range(20)]):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text("x")
        return sanitise(root, TABLE, POLICY)

    assert run("one", sorted) == run("two", lambda names: sorted(names, reverse=True))


def test_a_node_with_an_ssh_server_makes_host_keys_of_its_own(tmp_path: Path) -> None:
    root = debian.make(tmp_path / "root")
    unit = root / "usr/lib/systemd/system/ssh.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/usr/sbin/sshd -D\n")
    done = sanitise(root, TABLE, POLICY)
    assert [(d.rule, d.what) for d in done] == [("ssh-host-keys-at-boot", "created")]
    assert "ssh-keygen -A" in (root / "etc/systemd/system/ssh.service.d/10-kiosk-host-keys.conf").read_text()


def test_a_rule_may_be_only_for_some_trees_and_leave_some_paths(tmp_path: Path) -> None:
    for name in ("a/one/x", "a/two/x", "b/three"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert sanitise(tmp_path, [rule(action="empty", paths=["a"], needs=["c"])], POLICY) == ()
    done = sanitise(tmp_path, [rule(action="remove", paths=["a"], keep=["a/two"])], POLICY)
    assert [d.path for d in done] == ["/a"]
    assert not (tmp_path / "a/one").exists()
    assert (tmp_path / "a/two/x").exists()
