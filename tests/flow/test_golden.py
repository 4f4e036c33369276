"""The road from a golden node: a VM that goes on running, full of secrets, becomes images that have none of them.

One node, two snapshots with a day of updates between, published, moved to a hypervisor, and booted: each test
below asks one question about what was seen on the way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard

from kiosk import files
from kiosk.disk.disk import root_volume
from kiosk.model.manifest import ImageManifest
from kiosk.run import run
from tests.golden.node import GoldenVm, golden_vm
from tests.golden.updates import WAITING, Update, put_back
from tests.simulators.images import kept_home
from tests.simulators.planted import PLANTED, found_in, plant

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
ROOT = Path(__file__).resolve().parents[2]
DEFINITION = """
name = "batch"
description = "The golden batch node"
os = "debian"
release = "bookworm"
architecture = "x86_64"
base = "debian-12"

[ready]
run = ["systemctl", "is-active", "ssh", "cron"]

[source]
kind = "qemu"
monitor = "{monitor}"
agent = "{agent}"
"""
READY = 400.0
POLICY = 10
"""The exit code of an audit that found something."""


@dataclass
class Road:
    """What happened on the way."""

    home: Path
    updates: list[Update]
    planted: list[str]
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    gap: float = 0.0
    uptime: tuple[float, float] = (0.0, 0.0)
    services: str = ""
    moved: list[int] = field(default_factory=list)
    audits: list[dict[str, Any]] = field(default_factory=list)

    def kiosk(self, where: str, *words: str, timeout: float = 1200, codes: tuple[int, ...] = (0,)) -> str:
        """Runs a kiosk command on `kiosk-host` or `hypervisor`."""
        env = {
            "KIOSK_HOME": str(self.home / where),
            "KIOSK_RECIPES": str(self.home / "recipes"),
            "KIOSK_CACHE": str(kept_home() / "cache"),
            "KIOSK_PASSPHRASE_FILE": str(self.home / "passphrase"),
            "KIOSK_PROGRESS": "0",
            "PYTHONPATH": str(ROOT),
        }
        if where == "hypervisor":
            env["KIOSK_URL"] = str(self.home / "kiosk-host/repository")
        done = subprocess.run(
            [sys.executable, "-m", "kiosk", *words],
            env={**os.environ, **env},
            cwd=self.home,
            timeout=timeout,
            capture_output=True,
            text=True,
        )
        assert done.returncode in codes, f"kiosk {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def manifest(self, number: int) -> ImageManifest:
        """The manifest of the first or second snapshot, as it was built."""
        file = self.built(number) / "manifest.json"
        return ImageManifest.from_json(file.read_bytes(), where=str(file))

    def built(self, number: int) -> Path:
        """Its folder."""
        return Path(self.snapshots[number]["folder"])

    def snapshot(self) -> None:
        """`kiosk snapshot`, `kiosk audit`, `kiosk publish`, and `kiosk sync` on the hypervisor.

        The first snapshot is from the day before the updates came out: then nothing was missing.
        """
        made = json.loads(self.kiosk("kiosk-host", "snapshot", "batch", "--json"))
        audit = self.kiosk("kiosk-host", "audit", made["image"], "--json", codes=(0, POLICY))
        self.audits.append(json.loads(audit))
        before = [] if self.snapshots or not self.updates else ["--no-updates"]
        self.snapshots.append(made)
        self.kiosk("kiosk-host", "publish", "batch", *before)
        synced = json.loads(self.kiosk("hypervisor", "sync", "--root", str(self.root), "--json"))
        self.moved.append(synced["moved"])

    @property
    def root(self) -> Path:
        """The root of trust."""
        return self.home / "kiosk-host/repository/metadata/1.root.json"


@pytest.fixture(scope="module")
def road() -> Iterator[Road]:
    """Walks the road once."""
    with files.scratch(kept_home() / "tests", prefix="golden-") as home:
        updates: list[Update] = []
        planted: list[str] = []

        def prepare(tree: Path) -> None:
            updates.extend(put_back(tree))
            plant(tree)
            planted.extend(found_in(tree))

        with golden_vm(home / "node", prepare) as vm:
            found = Road(home, updates, planted)
            (home / "recipes/golden").mkdir(parents=True)
            text = DEFINITION.format(monitor=vm.monitor, agent=vm.agent)
            (home / "recipes/golden/batch.toml").write_text(text)
            files.write(home / "passphrase", b"only for tests", mode=0o600)
            found.kiosk("kiosk-host", "init")
            walk(found, vm)
        yield found
        for line in json.loads(found.kiosk("hypervisor", "vm", "list", "--json")):
            found.kiosk("hypervisor", "vm", "stop", line["id"], "--now")


def walk(road: Road, vm: GoldenVm) -> None:
    """Two snapshots with updates between them, while a process writes all the time."""
    before = float(vm.shell("cat /proc/uptime").split()[0])
    road.snapshot()
    times = [float(line) for line in vm.shell("cat /var/lib/writer/log").split()]
    road.gap = max(later - earlier for earlier, later in pairwise(times) if later > before)
    if road.updates:
        vm.shell(f"dpkg -i /{WAITING}/*.deb", timeout=900)
    road.snapshot()
    road.uptime = (before, float(vm.shell("cat /proc/uptime").split()[0]))
    road.services = vm.shell("systemctl is-active ssh cron writer")


def test_secrets_of_all_kinds_were_in_the_node(road: Road) -> None:
    assert len(road.planted) == len(PLANTED) >= 25
    assert len({p.kind for p in PLANTED}) >= 10


def test_the_node_went_on_and_stood_still_for_no_longer_than_the_freeze(road: Road) -> None:
    before, after = road.uptime
    assert after > before
    assert road.services.split() == ["active"] * 3
    frozen = road.snapshots[0]["frozen_seconds"]
    assert 0 < frozen < 5
    # The process sleeps 10 ms between two lines, and shares two emulated cores with all else in the node.
    assert road.gap <= frozen + 2, (road.gap, frozen)


def test_none_of_the_secrets_is_anywhere_on_the_disk(road: Road) -> None:
    markers = {p.marker: p.name for p in PLANTED}
    longest = max(map(len, markers))
    for number in (0, 1):
        left = set()
        with (road.built(number) / "disk.raw").open("rb") as f:
            tail = b""
            while chunk := f.read(8 << 20):
                window = tail + chunk
                left |= {name for marker, name in markers.items() if marker in window}
                tail = window[-longest:]
        assert left == set()


def test_the_audit_finds_the_updates_that_are_missing_and_nothing_else(road: Road) -> None:
    first, second = ([(f["check"], f.get("item")) for f in audit["findings"]] for audit in road.audits)
    assert {check for check, _ in first} <= {"security-update"}
    assert {item for _, item in first} == {u.name for u in road.updates}
    assert second == []


def test_its_file_systems_are_clean(road: Road, tmp_path: Path) -> None:
    manifest = road.manifest(0)
    disk = road.built(0) / "disk.raw"
    parts = {p.label: p for p in manifest.partitions}
    for name in parts:
        run(
            ["dd", f"if={disk}", f"of={tmp_path / name}", "bs=1M", "conv=sparse", "status=none",
             f"skip={parts[name].offset >> 20}", f"count={parts[name].size >> 20}"],
            timeout=300,
        )  # fmt: skip
    run(["e2fsck", "-f", "-n", tmp_path / "root"], timeout=300)
    run(["fsck.vfat", "-n", tmp_path / "esp"], timeout=60)
    run(
        ["veritysetup", "verify", tmp_path / "root", tmp_path / "verity", manifest.verity.root_hash],
        timeout=300,
    )


def test_a_day_of_updates_moves_less_than_the_files_that_changed(road: Road) -> None:
    if not road.updates:
        pytest.skip("the archive has no update of these packages at the moment")
    changed = changed_files(road)
    with root_volume(road.built(1) / "disk.raw") as volume:
        packer = zstandard.ZstdCompressor(level=19).compressobj()
        size = sum(
            len(packer.compress(piece))
            for node in volume.nodes()
            if node.path.decode(errors="backslashreplace") in changed and node.size
            for piece in volume.read(node)
        ) + len(packer.flush())
    print(f"{len(changed)} files changed, {size} bytes compressed; {road.moved[1]} moved")
    assert len(changed) > len(road.updates)
    assert road.moved[1] <= 1.5 * size


def changed_files(road: Road) -> set[str]:
    """Regular files that the second snapshot has and the first has not, or not so."""
    before, after = (
        {row["path"]: row.get("digest") for row in json.loads((road.built(n) / "files.json").read_bytes())}
        for n in (0, 1)
    )
    return {path for path, digest in after.items() if digest is not None and before.get(path) != digest}


def test_what_was_updated_can_be_told(road: Road) -> None:
    if not road.updates:
        pytest.skip("the archive has no update of these packages at the moment")
    history = json.loads(road.kiosk("kiosk-host", "history", "batch", "--packages", "--json"))
    said = json.dumps(history)
    for update in road.updates:
        assert update.before in said and update.after in said
    difference = road.kiosk("kiosk-host", "diff", *(s["image"] for s in road.snapshots))
    assert all(update.name in difference for update in road.updates)


def test_where_the_image_is_from_can_be_told(road: Road) -> None:
    statement = json.loads(road.kiosk("kiosk-host", "show", "batch", "--provenance"))
    definition = statement["predicate"]["buildDefinition"]
    assert definition["buildType"].endswith("golden-node/v1")
    assert definition["externalParameters"]["golden"]["name"] == "batch"


def test_two_nodes_of_one_image_are_two_machines(road: Road) -> None:
    identities = []
    for name in ("node-1", "node-2"):
        road.kiosk("hypervisor", "vm", "start", "batch", "--name", name, "--flavour", "tiny")
    for name in ("node-1", "node-2"):
        up = "systemctl is-active --quiet ssh && systemctl is-active --quiet cron"
        script = f"{up} && cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub"
        identities.append(in_vm(road, name, script).splitlines())
    one, two = identities
    assert len(one[0]) == 32 and one[0] != two[0]
    assert one[1].split()[:2] != two[1].split()[:2]
    assert in_vm(road, "node-1", SEARCH).split() == []


SEARCH = "\n".join(
    f"if [ -f '{p.path}' ] && grep -aqF -e '{p.marker.decode()}' '{p.path}'; then echo '{p.path}'; fi"
    for p in PLANTED
    if p.marker.isascii() and p.marker.decode().isprintable() and "'" not in p.marker.decode()
)
"""A script that prints the paths which still hold what was planted there."""


def in_vm(road: Road, name: str, script: str) -> str:
    """What a script prints in a VM, as soon as it succeeds there."""
    until = time.monotonic() + READY
    while True:
        try:
            return road.kiosk("hypervisor", "vm", "exec", name, "--", "/bin/sh", "-c", script)
        except AssertionError:
            if time.monotonic() > until:
                raise
            time.sleep(2)
