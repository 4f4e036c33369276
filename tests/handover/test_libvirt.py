"""Images as volumes of a pool in a real libvirt: a daemon of its own, as a user who is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiosk.errors import GuestError, NetworkError, NotFoundError
from kiosk.handover import Handover
from kiosk.handover.settings import LibvirtTable
from kiosk.run import CommandError, run, tool
from kiosk.sync.prune import prune
from tests.golden.libvirtd import QEMU_CONF, USER
from tests.simulators.hypervisor import Hypervisor

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="libvirt runs as another user"),
    pytest.mark.slow,
]
POOL = "<pool type='dir'><name>{name}</name><target><path>{folder}</path></target></pool>"
DOMAIN = """<domain type='qemu'><name>worker-1</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>
<target dev='vda' bus='virtio'/></disk>
</devices></domain>"""


class Libvirt:
    """The daemon, and the folder of a pool in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.uri = f"qemu+unix:///session?socket={folder}/s/r/libvirt/libvirt-sock"

    def virsh(self, *words: str) -> str:
        return run(["virsh", "-q", "-c", self.uri, *words], timeout=60)

    def define(self, what: str, text: str) -> None:
        (self.folder / "it.xml").write_text(text)
        self.virsh(what, str(self.folder / "it.xml"))

    def volumes(self) -> list[str]:
        return sorted(line.split()[0] for line in self.virsh("vol-list", "pool").splitlines() if line.strip())


@pytest.fixture(scope="module")
def daemon() -> Iterator[Libvirt]:
    folder = Path(tempfile.mkdtemp(prefix="kiosk-", dir="/var/tmp"))  # short, for the paths of sockets
    folder.chmod(0o755)
    made, owner, state = Libvirt(folder), pwd.getpwnam(USER), folder / "s"
    for name in ("c/libvirt", "r", "d", "k"):
        (state / name).mkdir(parents=True)
    (state / "c/libvirt/qemu.conf").write_text(QEMU_CONF)
    (state / "libvirtd.conf").write_text('auth_unix_rw = "none"\n')
    for path in [state, *state.rglob("*")]:
        os.chown(path, owner.pw_uid, owner.pw_gid)
    xdg = {"XDG_CONFIG_HOME": "c", "XDG_RUNTIME_DIR": "r", "XDG_DATA_HOME": "d", "XDG_CACHE_HOME": "k"}
    env = {**os.environ, "HOME": str(state), **{key: str(state / name) for key, name in xdg.items()}}
    argv = [tool("setpriv"), f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    process = subprocess.Popen(
        [*argv, tool("libvirtd"), "-f", str(state / "libvirtd.conf")],
        env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while True:
            try:
                made.virsh("list")
                break
            except CommandError:
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.2)
        yield made
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


@pytest.fixture
def libvirt(daemon: Libvirt) -> Iterator[Libvirt]:
    daemon.images.mkdir(mode=0o755)
    daemon.define("pool-define", POOL.format(name="pool", folder=daemon.images))
    daemon.virsh("pool-start", "pool")
    yield daemon
    daemon.virsh("pool-destroy", "pool")
    daemon.virsh("pool-undefine", "pool")
    shutil.rmtree(daemon.images)


@pytest.fixture
def host(daemon: Libvirt) -> Iterator[Hypervisor]:
    folder = daemon.folder / "h"
    made = Hypervisor(folder)
    made.put("1")
    yield made
    shutil.rmtree(folder)


def place(host: Hypervisor, libvirt: Libvirt, **more: object) -> Handover:
    table = {"kind": "libvirt", "uri": libvirt.uri, "pool": "pool", **more}
    return Handover(host.cache, [LibvirtTable.model_validate(table)])


def test_versions_are_volumes_of_the_pool(host: Hypervisor, libvirt: Libvirt) -> None:
    handover = place(host, libvirt)
    assert [o.state for o in handover.offer_current()] == ["handed over"]
    assert "worker@1.raw" in libvirt.volumes()
    assert [o.state for o in handover.offer_current()] == ["stands"]
    host.put("2")
    assert [o.state for o in handover.offer_current()] == ["handed over"]
    assert {"worker@1.raw", "worker@2.raw"} <= set(libvirt.volumes())


def test_an_overlay_is_a_volume_with_the_cache_below_it(host: Hypervisor, libvirt: Libvirt) -> None:
    assert [o.state for o in place(host, libvirt, mode="overlay").offer_current()] == ["handed over"]
    assert str(host.disk("worker@1")) in libvirt.virsh("vol-dumpxml", "worker@1.qcow2", "pool")


def test_what_the_disk_of_a_domain_that_is_off_is_built_on_stays(host: Hypervisor, libvirt: Libvirt) -> None:
    handover = place(host, libvirt, mode="overlay")
    handover.offer_current()
    disk = libvirt.folder / "elsewhere.qcow2"
    base = libvirt.images / "worker@1.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, disk], timeout=20)
    libvirt.define("define", DOMAIN.format(disk=disk))
    try:
        host.put("2", "3", "4")
        handover.offer_current()
        done = prune(host.cache, host.settings.vms, handed=handover)
        assert [str(r) for r in done.removed] == ["worker@2"]
        assert any("elsewhere.qcow2" in why for why in done.kept.values())
    finally:
        libvirt.virsh("undefine", "worker-1")
    done = prune(host.cache, host.settings.vms, handed=handover)
    assert [str(r) for r in done.removed] == ["worker@1"]
    assert "worker@1.qcow2" not in libvirt.volumes()


def test_a_libvirt_that_does_not_answer_keeps_every_version(host: Hypervisor, libvirt: Libvirt) -> None:
    host.put("2", "3", "4")
    table = {"kind": "libvirt", "uri": libvirt.uri + "-gone", "pool": "pool"}
    handover = Handover(host.cache, [LibvirtTable.model_validate(table)])
    (outcome,) = handover.offer_current()
    assert isinstance(outcome.error, NetworkError)
    assert not prune(host.cache, host.settings.vms, handed=handover).removed


def test_a_pool_that_is_missing_or_not_active_is_said(host: Hypervisor, libvirt: Libvirt) -> None:
    (outcome,) = place(host, libvirt, pool="other").offer_current()
    assert isinstance(outcome.error, NotFoundError)
    libvirt.virsh("pool-destroy", "pool")
    (outcome,) = place(host, libvirt).offer_current()
    assert isinstance(outcome.error, GuestError) and outcome.error.hint == "virsh pool-start pool"
    libvirt.virsh("pool-start", "pool")
    assert [o.state for o in place(host, libvirt).offer_current()] == ["handed over"]
