"""Files against what their packages say of them: dpkg's database read by kiosk, rpm's by rpm."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from kiosk.audit import Facts
from kiosk.run import run
from tests.audit import material
from tests.audit.images import Root, clean

SPEC = """\
Name: tool
Version: 1.2
Release: 3.el9
Epoch: 1
Summary: tool
License: MIT
BuildArch: noarch
%description
tool
%prep
%build
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/etc
echo tool > %{buildroot}/usr/bin/tool
echo user > %{buildroot}/usr/bin/become
echo conf > %{buildroot}/etc/tool.conf
%files
/usr/bin/tool
%attr(4755, root, root) /usr/bin/become
%config(noreplace) /etc/tool.conf
"""


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return clean(tmp_path / "root")


def test_what_a_package_brought_to_usr_is_public_but_for_what_has_a_form_of_its_own(root: Root) -> None:
    """The package may be a site's own: nobody outside can download it."""
    root.install("manual", {"/usr/share/test/auth.5": "password = example1\n"}, mode=0o644)
    root.install("program", {"/usr/bin/program": b"\x7fELF\2" + material.pem()})
    root.database()
    assert root.audit().passed
    root.write("usr/share/test/auth.5", "password = example2\n")
    assert root.found("package-file-changed") == ["/usr/share/test/auth.5"]


@pytest.mark.parametrize("what", ["private-key", "token"])
def test_a_sites_own_package_does_not_bring_keys_and_tokens_past_the_audit(root: Root, what: str) -> None:
    content = material.pem() if what == "private-key" else material.jwt("farm").encode()
    root.install("site-tools", {"/usr/share/site/secret": content}, mode=0o644)
    root.database()
    assert root.found(what) == ["/usr/share/site/secret"]


def test_configuration_may_be_changed_and_what_it_says_counts(root: Root) -> None:
    root.install("app", {"/etc/app.conf": "password = example\n", "/etc/zabbix/zabbix_agentd.conf": "Hostname=x\n"},
                 conf=("/etc/app.conf", "/etc/zabbix/zabbix_agentd.conf"), mode=0o644)  # fmt: skip
    root.database()
    assert root.audit().passed
    root.write("etc/app.conf", "password = Tr0ub4dor\n")
    root.write("etc/zabbix/zabbix_agentd.conf", "Hostname=node42\n")
    report = root.audit()
    assert [f.check for f in report.findings] == ["password", "monitoring-identity"]


def test_a_diverted_file_is_looked_for_where_it_was_put(root: Root) -> None:
    root.install("dash", {"/bin/sh": b"the first sh"})
    root.database()
    (root.path / "usr/bin/sh").rename(root.path / "usr/bin/sh.distrib")
    root.write("usr/bin/sh", b"another sh", 0o755)
    assert root.found("package-file-changed") == ["/usr/bin/sh"]
    root.write("var/lib/dpkg/diversions", "/bin/sh\n/bin/sh.distrib\nbash\n")
    assert root.audit().passed
    root.write("usr/bin/sh.distrib", b"a third sh", 0o755)
    assert root.found("package-file-changed") == ["/usr/bin/sh.distrib"]


def test_a_shell_is_never_setuid_even_from_a_package(root: Root) -> None:
    root.install("dash", {"/bin/dash": b"sh"}, mode=0o4755)
    root.database()
    assert root.found("setuid-file") == ["/usr/bin/dash"]


def test_a_list_of_files_without_its_package_owns_nothing(root: Root) -> None:
    root.write("usr/local/bin/become", b"x", 0o4755)
    root.write("var/lib/dpkg/info/ghost.list", "/usr/local/bin/become\n")
    assert root.found("setuid-file") == ["/usr/local/bin/become"]


def test_a_package_that_was_not_finished_is_told(root: Root) -> None:
    status = root.path / "var/lib/dpkg/status"
    status.write_text(status.read_text().replace("install ok installed", "install ok half-configured"))
    assert root.found("package-database") == ["/var/lib/dpkg/status"]


def test_the_published_list_must_be_the_images_own(root: Root) -> None:
    here = frozenset({("systemd", "1.0-1", "amd64")})
    assert root.audit(Facts(packages=here)).passed
    other = frozenset({("systemd", "1.0-2", "amd64")})
    found = [f for f in root.audit(Facts(packages=other)).findings if f.check == "package-list"]
    assert [f.message for f in found] == [
        "systemd 1.0-1 amd64 is missing from the published list",
        "systemd 1.0-2 amd64 is only in the published list",
    ]


def test_a_compiled_module_is_as_public_as_its_source(root: Root) -> None:
    source = b'"""Connects to https://user:Tr0ub4dor@example.net/."""\n'
    compiled = bytes(8) + bytes(4) + len(source).to_bytes(4, "little") + source
    root.install("python3-x", {"/usr/lib/python3/x.py": source}, mode=0o644)
    root.database()
    root.write("usr/lib/python3/__pycache__/x.cpython-311.pyc", compiled)
    assert root.audit().passed
    root.write("usr/lib/python3/__pycache__/x.cpython-311.pyc", compiled + material.jwt("farm").encode())
    assert root.found("token") == ["/usr/lib/python3/__pycache__/x.cpython-311.pyc"]


def test_a_second_name_hides_nothing(root: Root) -> None:
    root.write("aaa", "guest::20000:0:99999:7:::\n", 0o600)
    (root.path / "etc/shadow").unlink()
    os.link(root.path / "aaa", root.path / "etc/shadow")
    assert root.found("empty-password") == ["/etc/shadow#guest"]


def test_all_names_of_one_file_are_told(root: Root) -> None:
    first = root.write("opt/a/key", material.pem())
    os.link(first, root.path / "opt/b")
    assert root.found("private-key") == ["/opt/a/key", "/opt/b"]


def test_rpm_packages_are_read_with_rpm(root: Root, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "tool.spec").write_text(SPEC)
    home = {"HOME": str(work)}
    run(["rpmbuild", "-bb", "--define", f"_topdir {work}", work / "tool.spec"], timeout=60, env=home)
    argv: list[str | Path] = ["rpm", "--root", root.path, "--dbpath", "/var/lib/rpm", "--nodeps", "--install"]
    run([*argv, work / "RPMS/noarch/tool-1.2-3.el9.noarch.rpm"], timeout=60, env=home)
    # Macros beside the database are the image's own, and would run a program here.
    for name in (".rpmmacros", ".rpmrc"):
        (root.path / "var/lib/rpm" / name).write_text(f"%_db_backend %(touch {tmp_path}/ran; echo sqlite)\n")
    (root.path / "var/lib/dpkg/status").unlink()
    assert root.audit(Facts(packages=frozenset({("tool", "1:1.2-3.el9", "noarch")}))).findings == ()
    assert root.audit().counts.verified == 3
    root.write("usr/bin/tool", b"another", 0o4755)
    root.write("etc/tool.conf", b"changed")
    assert [(f.check, f.path) for f in root.audit().findings] == [
        ("setuid-file", "/usr/bin/tool"),
        ("package-file-changed", "/usr/bin/tool"),
    ]
    assert not (tmp_path / "ran").exists()
    (root.path / "var/lib/rpm/rpmdb.sqlite").write_bytes(
        b"SQLite format 3\0" + hashlib.sha512(b"x").digest() * 99
    )
    assert root.found("package-database") == ["/var/lib/rpm"]
