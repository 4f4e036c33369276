"""From a definition's text to a source; monitors that are not what they should be."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from kiosk.errors import GuestError, UsageError
from kiosk.golden.disk import DiskSource
from kiosk.golden.libvirt import LibvirtSource
from kiosk.golden.qemu import QemuSource
from kiosk.golden.settings import QemuSettings
from kiosk.golden.source import AnySource, open_source
from kiosk.golden.ssh import SshSource
from tests.golden.agents import fake_agent

HELLO = b'{"QMP": {}}\n'
DEFINITIONS = {
    QemuSource: 'kind = "qemu"\nmonitor = "/run/m"\nagent = "/run/a"\nspeed = 50000000',
    LibvirtSource: 'kind = "libvirt"\ndomain = "golden"\nfolder = "/var/lib/libvirt/kiosk"',
    DiskSource: 'kind = "disk"\npath = "/dev/vg0/golden"\nformat = "raw"\nafter = ["lvremove", "--yes", "vg0/golden"]',
    SshSource: 'kind = "ssh"\nhost = "golden.example.org"\nidentity = "/k"\nknown_hosts = "/h"\nexclude = ["/cvmfs"]',
}
WRONG = {
    "no kind": 'monitor = "/run/m"',
    "another kind": 'kind = "vmware"',
    "freezing without an agent": 'kind = "qemu"\nmonitor = "/run/m"',
    "a relative path": 'kind = "qemu"\nmonitor = "m"\nagent = "/run/a"',
    "an unknown key": 'kind = "libvirt"\ndomain = "golden"\nfroze = true',
    "a domain that is an option": 'kind = "libvirt"\ndomain = "--all"',
    "a uri that is none": 'kind = "libvirt"\ndomain = "golden"\nuri = "--help"',
    "a command as one line": 'kind = "disk"\npath = "/d"\nformat = "raw"\nbefore = "lvcreate -s"',
    "mounts without the root": 'kind = "ssh"\nhost = "h"\nidentity = "/k"\nknown_hosts = "/h"\nmounts = ["/boot"]',
}


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_each_kind_of_definition_means_its_source(kind: type) -> None:
    settings = TypeAdapter(AnySource).validate_python(tomllib.loads(DEFINITIONS[kind]))
    source = open_source(settings)
    assert type(source) is kind and source.describe()


@pytest.mark.parametrize("fault", WRONG)
def test_a_definition_that_makes_no_sense_is_refused(fault: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(AnySource).validate_python(tomllib.loads(WRONG[fault]))


def source(path: Path) -> QemuSource:
    return QemuSource(QemuSettings(kind="qemu", monitor=path, freeze=False))


def test_a_monitor_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="can't reach the monitor"):
        source(tmp_path / "qmp").capture(tmp_path)


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH\n", b"[]\n", b'{"event": "RESET"}\n'])
def test_what_is_no_monitor_is_not_taken_for_one(greeting: bytes, tmp_path: Path) -> None:
    with fake_agent(tmp_path / "qmp", greeting=greeting) as monitor, pytest.raises(GuestError):
        source(monitor.path).capture(tmp_path)
    assert monitor.seen == []


def test_a_qemu_that_is_too_old_is_not_touched(tmp_path: Path) -> None:
    old = {"qemu": {"major": 6, "minor": 2, "micro": 0}}
    with fake_agent(
        tmp_path / "qmp", greeting=HELLO, query_version=old, query_jobs=[], query_named_block_nodes=[],
        query_fdsets=[], query_block=[],
    ) as monitor, pytest.raises(UsageError, match=r"6\.2 is too old"):  # fmt: skip
        source(monitor.path).capture(tmp_path)
    assert not {"blockdev-add", "qom-set", "add-fd"} & set(monitor.seen)
