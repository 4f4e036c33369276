"""kill -9 at random moments of ticks, of a real process with a cloud in files: no VM is lost, none started twice."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kiosk import files
from kiosk.batch.api import Host, Look
from kiosk.cloud.api import Capabilities, VmSpec, VmState
from kiosk.errors import NotFoundError
from kiosk.model.names import ImageRef
from kiosk.scheduler.breaker import Images
from kiosk.scheduler.execute import Executor, begin, given_up
from kiosk.scheduler.ledger import Ledger
from kiosk.scheduler.life import Moment
from kiosk.scheduler.model import Node, Target
from kiosk.scheduler.plan import Rules, Site
from kiosk.scheduler.reconcile import reconcile
from tests.simulators.site import CAN, IMAGE, TYPES, fast_folder

KILLS = 40
MAXIMUM = TYPES["worker"].maximum


@dataclass
class Files:
    """A cloud and a batch system whose VMs are files; what was started is a log. A VM joins 200 s after its start."""

    folder: Path
    name: str = "files"
    queries: int = 0
    capabilities: Capabilities = CAN

    def now(self) -> datetime:
        """The site's clock, which goes on with each tick."""
        path = self.folder / "time"
        return datetime.fromtimestamp(int(path.read_text()) if path.exists() else 0, UTC)

    def goes_on(self, seconds: int = 250) -> None:
        files.write(self.folder / "time", str(int(self.now().timestamp()) + seconds).encode())

    def start(self, spec: VmSpec) -> VmState:
        with (self.folder / "started").open("a") as log:
            log.write(f"{spec.name} {len(self.list_vms())}\n")
        path = self.folder / f"{spec.name}.vm"
        files.write(path, json.dumps([str(spec.image), self.now().timestamp()]).encode())
        return self._state(path)

    def list_vms(self) -> list[VmState]:
        return [self._state(path) for path in sorted(self.folder.glob("*.vm"))]

    def _state(self, path: Path) -> VmState:
        image, begun = json.loads(path.read_bytes())
        created = datetime.fromtimestamp(begun, UTC)
        phase = "ready" if self.now() - created > timedelta(seconds=200) else "booting"
        return VmState(path.stem, path.stem, path.stem, image, (), "", phase, created)  # type: ignore[arg-type]

    def stop(self, id: str, *, now: bool = False) -> None:
        try:
            (self.folder / f"{id}.vm").unlink()
        except FileNotFoundError:
            raise NotFoundError(f"there is no VM {id}") from None

    def drain(self, id: str, reason: str) -> None:
        raise NotFoundError("no guest")

    def look(self) -> Look:
        hosts = []
        for vm in self.list_vms():
            closed = (self.folder / f"{vm.name}.closed").exists()
            if vm.phase == "ready":
                hosts.append(Host(vm.name, "closed" if closed else "open", 4, 0, 0, mine=closed))
        return Look(self.now(), hosts=hosts)

    def close(self, host: str, reason: str) -> None:
        (self.folder / f"{host}.closed").touch()

    def open(self, host: str) -> None:
        (self.folder / f"{host}.closed").unlink(missing_ok=True)

    def remove(self, host: str) -> None:
        (self.folder / f"{host}.closed").unlink(missing_ok=True)


def spec(node: Node) -> VmSpec:
    return VmSpec(node.id, ImageRef.parse(node.image), (), TYPES["worker"].flavour, Path("/"))


def tick(site: Files, wanted: int) -> None:
    """A whole tick, as a process of its own would do it."""
    rules = Rules()
    with Ledger.opened(site.folder / "ledger.sqlite") as ledger:
        site.goes_on()
        now = site.now()
        begin(ledger, Moment(now, "boot", now.timestamp()))
        vms, hosts = site.list_vms(), site.look().hosts
        images = Images({IMAGE: (f"{IMAGE}@1",)}, {IMAGE: None})
        gone = given_up(ledger, vms, hosts, rules)
        known = Site(
            now, {"worker": TYPES["worker"]}, ledger.nodes(), vms, hosts, [Target("worker", wanted)], images,
            ledger.circuits(), gone=gone, born=ledger.born(now),
        )  # fmt: skip
        Executor(site, site, ledger, spec, rules, site.now).run(reconcile(known, rules))


def works(site: Files, chance: random.Random) -> None:
    """Ticks for ever, with what is wanted always changing."""
    while True:
        tick(site, chance.randrange(MAXIMUM + 3))


def test_killed_at_random_no_vm_is_lost_and_none_is_started_twice() -> None:
    chance = random.Random(9)
    kills = Counter[bool]()
    with fast_folder() as folder:
        site = Files(folder)
        for _ in range(KILLS):
            child = os.fork()
            if child == 0:
                try:
                    works(site, chance)
                finally:
                    os._exit(1)
            time.sleep(chance.uniform(0.005, 0.08))
            os.kill(child, signal.SIGKILL)
            kills[os.WIFSIGNALED(os.waitpid(child, 0)[1])] += 1
            chance.random()
        assert kills == {True: KILLS}
        for _ in range(200):  # those that were killed between intent and effect count as failures for a while
            tick(site, 5)
        started = [line.split() for line in (folder / "started").read_text().splitlines()]
        assert len(started) > 10
        assert len({name for name, _ in started}) == len(started), "started twice"
        assert all(int(there) < MAXIMUM for _, there in started), "above the maximum"
        with Ledger.reading(folder / "ledger.sqlite") as ledger:
            nodes = ledger.nodes()
        assert {vm.name for vm in site.list_vms()} == set(nodes)
        assert {n.phase for n in nodes.values()} == {"joined"}
        assert len(nodes) == 5
