"""OpenNebula: the driver and the probe, run with the arguments that oned passes them, as its documentation says.

oned itself is not here: `ssh`, `onevm` and `xpath.rb` stand in for OpenNebula's side. The first runs the command that
it is given, as sshd does, and writes it down; the others answer as the real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from kiosk import data
from kiosk.errors import BusyError
from kiosk.handover import Handover
from kiosk.handover.settings import OpenNebulaTable
from kiosk.model.names import ImageRef
from kiosk.run import run
from kiosk.sync.prune import prune
from tests.simulators.hypervisor import Hypervisor

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hands over as root")
SSH = """#!/bin/sh
while :; do case $1 in -o) shift 2 ;; *) break ;; esac; done
host=$1; shift
[ "$host" = down ] && { echo "ssh: connect to host down port 22: No route to host" >&2; exit 255; }
printf '%s %s\\n' "$host" "$*" >>"$SSH_LOG"
exec sh -c "$*"
"""
ONEVM = """#!/bin/sh
[ "$*" = "show -x 42" ] || exit 1
cat "$VM_XML"
"""
XPATH = """#!/usr/bin/env python3
import re, sys
from xml.etree import ElementTree
tree = ElementTree.parse(sys.stdin)
for query in sys.argv[2:]:
    number, name = re.fullmatch(r"/VM/TEMPLATE/DISK\\[DISK_ID=(\\d+)\\]/(\\w+)", query).groups()
    disks = [d for d in tree.iter("DISK") if d.findtext("DISK_ID") == number]
    sys.stdout.write((disks[0].findtext(name) or "") + "\\0")
"""
VM = """<VM><ID>42</ID><TEMPLATE><DISK><DISK_ID><![CDATA[0]]></DISK_ID><FORMAT>{format}</FORMAT>
<SIZE><![CDATA[{size}]]></SIZE></DISK></TEMPLATE></VM>"""


class FrontEnd:
    """OpenNebula's front end, with the driver installed as the documentation says."""

    def __init__(self, folder: Path, host: Hypervisor) -> None:
        self.folder = folder
        self.remotes = folder / "remotes"
        self.log = folder / "ssh.log"
        folder.mkdir()
        self.log.touch()
        shutil.copytree(data.folder("server") / "opennebula/tm", self.remotes / "tm", symlinks=True)
        conf = self.remotes / "tm/kiosk/kiosk.conf"
        conf.write_text(conf.read_text().replace("/var/lib/kiosk/host", str(host.cache.folder)))
        for name, text in (("bin/ssh", SSH), ("bin/onevm", ONEVM), ("remotes/datastore/xpath.rb", XPATH)):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        self.vm()

    @property
    def disk(self) -> Path:
        return self.folder / "datastores/100/42/disk.0"

    def vm(self, size: int = 1, format: str = "qcow2") -> None:
        (self.folder / "vm.xml").write_text(VM.format(size=size, format=format))

    def tm(self, action: str, *words: str) -> subprocess.CompletedProcess[str]:
        """What oned's transfer manager runs."""
        env = {
            **os.environ,
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "SSH_LOG": str(self.log),
            "VM_XML": str(self.folder / "vm.xml"),
        }
        return subprocess.run(
            [self.remotes / "tm/kiosk" / action, *words],
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def clone(self, source: str, host: str = "node01") -> subprocess.CompletedProcess[str]:
        return self.tm("clone", source, f"{host}:{self.disk}", "42", "101")


@pytest.fixture
def host(tmp_path: Path) -> Hypervisor:
    made = Hypervisor(tmp_path / "h")
    made.put("1", "2", "3", "4")
    return made


@pytest.fixture
def front(tmp_path: Path, host: Hypervisor) -> FrontEnd:
    return FrontEnd(tmp_path / "one", host)


def info(disk: Path) -> Mapping[str, object]:
    found = json.loads(run(["qemu-img", "info", "--output=json", disk], timeout=20))
    assert isinstance(found, dict)
    return found


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """What oned shows to the user: the text between its marks."""
    assert done.returncode != 0
    begin, end = "ERROR MESSAGE --8<------\n", "\nERROR MESSAGE ------>8--"
    return done.stderr[done.stderr.index(begin) + len(begin) : done.stderr.index(end)]


@pytest.mark.parametrize("source", ["kiosk:worker", "front:worker", "front:kiosk:worker"])
def test_a_disk_is_made_on_the_current_version_of_the_host(
    front: FrontEnd, host: Hypervisor, source: str
) -> None:
    done = front.clone(source)
    assert (done.returncode, done.stderr) == (0, "")
    assert "worker@4" in done.stdout
    found = info(front.disk)
    assert found["format"] == "qcow2"
    assert found["full-backing-filename"] == str(host.disk("worker@4"))
    assert (front.disk.parents[1] / ".monitor").read_text() == "ssh\n"
    assert front.log.read_text().startswith("node01 /bin/sh -s -- clone ")


def test_a_version_may_be_named_and_a_disk_be_larger_than_its_image(
    front: FrontEnd, host: Hypervisor
) -> None:
    front.vm(size=64)
    assert front.clone("kiosk:worker@1").returncode == 0
    found = info(front.disk)
    assert found["full-backing-filename"] == str(host.disk("worker@1"))
    assert found["virtual-size"] == 64 << 20


def test_a_raw_image_becomes_a_copy_that_the_vm_may_write(front: FrontEnd, host: Hypervisor) -> None:
    front.vm(format="raw")
    assert front.clone("kiosk:worker").returncode == 0
    assert front.disk.read_bytes() == host.disk("worker@4").read_bytes()
    assert front.disk.stat().st_ino != host.disk("worker@4").stat().st_ino
    assert stat.S_IMODE(front.disk.stat().st_mode) == 0o660


@pytest.mark.parametrize(
    ("source", "where", "said"),
    [
        ("kiosk:worker@9", "node01", "worker@9 is not on this host: kiosk sync worker@9"),
        ("kiosk:other", "node01", "no version of other is current here"),
        ("kiosk:worker", "down", "No route to host"),
        ("kiosk:../../etc/passwd", "node01", "should be kiosk:NAME"),
        ("kiosk:worker; rm -rf /", "node01", "should be kiosk:NAME"),
        ("kiosk:worker\nx", "node01", "should be kiosk:NAME"),
        ("kiosk:worker", "-oProxyCommand=x", "no host name"),
    ],
)
def test_what_cannot_be_done_is_an_error_for_oned_and_leaves_nothing(
    front: FrontEnd, source: str, where: str, said: str
) -> None:
    assert said in error_of(front.clone(source, where))
    assert not front.disk.exists() and not front.disk.with_name("disk.0.kiosk").exists()


def test_a_vm_that_opennebula_does_not_tell_of_gets_no_disk_of_a_guessed_size(front: FrontEnd) -> None:
    done = front.tm("clone", "kiosk:worker", f"node01:{front.disk}", "43", "101")
    assert "onevm show does not answer" in error_of(done) and not front.disk.exists()


@pytest.mark.parametrize("disk", ["/x/y/disk.$(id)", "/x/../../etc/disk.0", "disk.0", "/a b/c/disk.0"])
def test_a_strange_disk_never_reaches_a_shell(front: FrontEnd, disk: str) -> None:
    assert "not a path" in error_of(front.tm("clone", "kiosk:worker", f"node01:{disk}", "42", "101"))
    assert "not a path" in error_of(front.tm("delete", f"node01:{disk}", "42", "101"))
    assert front.log.read_text() == ""


def test_a_disk_goes_with_its_vm_and_the_cache_stays(front: FrontEnd, host: Hypervisor) -> None:
    front.clone("kiosk:worker")
    assert front.tm("delete", f"node01:{front.disk}", "42", "101").returncode == 0
    assert not front.disk.exists() and host.disk("worker@4").exists()
    assert "in the cache" in error_of(front.tm("delete", f"node01:{host.disk('worker@4')}", "42", "101"))


def test_a_vm_moves_only_to_a_host_that_holds_its_version(front: FrontEnd, host: Hypervisor) -> None:
    front.clone("kiosk:worker@1")
    words = [f"node01:{front.disk}", f"node02:{front.disk}", "42", "100"]
    assert front.tm("mv", *words).returncode == 0
    shutil.rmtree(host.disk("worker@1").parent)
    assert "is not on this host" in error_of(front.tm("mv", *words))


@pytest.mark.parametrize("action", ["ln", "mvds", "cpds", "snap_create", "snap_revert", "resize"])
def test_a_verified_image_is_never_written_to(front: FrontEnd, action: str) -> None:
    assert f"kiosk {action}: " in error_of(
        front.tm(action, f"node01:{front.disk}", "front:worker", "42", "101")
    )


def probe(host: Hypervisor) -> list[str]:
    script = data.folder("server") / "opennebula/im/kiosk.sh"
    env = {"KIOSK_ATTRIBUTES": str(host.cache.folder / "opennebula.attributes"), "PATH": os.environ["PATH"]}
    done = subprocess.run([script], env=env, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.splitlines()


def place(host: Hypervisor, front: FrontEnd, **more: object) -> Handover:
    table = {"kind": "opennebula", "datastores": front.folder / "datastores", **more}
    return Handover(host.cache, [OpenNebulaTable.model_validate(table)])


def test_the_host_tells_what_it_holds(host: Hypervisor, front: FrontEnd) -> None:
    assert probe(host) == []
    handover = place(host, front)
    assert [o.state for o in handover.offer_current()] == ["handed over"]
    assert probe(host) == [
        'KIOSK_IMAGES="worker@4,worker@3,worker@2,worker@1"',
        'KIOSK_CURRENT_WORKER="worker@4"',
        "KIOSK_HAS_WORKER=1",
    ]
    assert [o.state for o in handover.offer_current()] == ["stands"]
    host.put("5")
    assert [o.state for o in handover.offer_current()] == ["handed over"]
    assert 'KIOSK_CURRENT_WORKER="worker@5"' in probe(host)


def test_what_a_vm_was_built_on_stays_and_what_goes_is_no_longer_told_of(
    host: Hypervisor, front: FrontEnd
) -> None:
    handover = place(host, front)
    handover.offer_current()
    front.clone("kiosk:worker@1")
    with pytest.raises(BusyError, match=r"disk\.0"):
        handover.withdraw(ImageRef.parse("worker@1"))
    done = prune(host.cache, host.settings.vms, handed=handover)
    assert [str(ref) for ref in done.removed] == ["worker@2"]
    assert 'KIOSK_IMAGES="worker@4,worker@3,worker@1"' in probe(host)


def test_lines_that_kiosk_did_not_write_are_not_attributes(host: Hypervisor) -> None:
    (host.cache.folder / "opennebula.attributes").write_text(
        'KIOSK_IMAGES="worker@1"\nFREE_CPU=999\nKIOSK_X="$(id)"\nKIOSK_HAS_WORKER=1\n'
    )
    assert probe(host) == ['KIOSK_IMAGES="worker@1"', "KIOSK_HAS_WORKER=1"]
