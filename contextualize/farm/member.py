"""A machine's membership of a farm: taken in one step or not at all, and remembered for later processes.

`join` ends in one of two ways: the farm sends jobs here, or nothing that it started runs any more, no secret is
left, and Refused says what the farm said. What is remembered holds no secret.
"""

from __future__ import annotations

import contextlib
import json
from typing import Dict, List, Mapping, Optional

from contextualize.context import Farm
from contextualize.document import NAME, SETTING, SETTING_VALUE, VERSION, read
from contextualize.errors import Refused
from contextualize.farm import drivers, services
from contextualize.farm.driver import Driver, Look, Node, Seat, told
from contextualize.farm.settings import checked, checked_secrets
from contextualize.machine import PRIVATE, Machine

MEMORY = f"{PRIVATE}/farm.json"
SCHEMA = "kiosk.farm-member/1"
GRACE = 15.0
"""Seconds for which a farm must keep on refusing before it is believed: its daemons may just be starting."""
LONGEST_PAUSE = 5.0


class Member:
    """A machine that is in a farm, or about to be."""

    def __init__(self, driver: Driver, seat: Seat) -> None:
        self._driver = driver
        self._seat = seat

    @property
    def farm(self) -> str:
        """The farm's name."""
        return self._seat.farm

    @property
    def name(self) -> str:
        """This node's name in the farm."""
        return self._seat.name()

    def look(self) -> Look:
        """What the farm says of this node now."""
        return self._driver.look(self._seat)

    def check(self) -> None:
        """Refused when one of the farm's daemons does not run here. The farm itself is not asked."""
        dead = [s for s in self._driver.services(self._seat) if not services.running(self._seat, s)]
        if dead:
            raise Refused(f"farm {self.farm}: {' and '.join(s.what for s in dead)} does not run")

    def close(self, reason: str) -> None:
        """Has the farm send no more jobs; returns when the farm has confirmed it, Refused when it doesn't.
        Running jobs go on. Nothing here opens a node again."""
        self._driver.close(self._seat, told(reason))

    def busy(self) -> int:
        """How many jobs are here, those that are just ending too. Refused when that can't be told: no answer
        never reads as no jobs."""
        return self._driver.busy(self._seat)

    def leave(self, reason: str = "leaves the farm", *, last: bool = True) -> None:
        """Takes the node off the farm and stops the farm's daemons; jobs that still run are lost. At the `last` try
        the daemons are stopped and the secrets wiped even where the farm can't be told, which is then the Refused;
        before it, what another try needs is kept."""
        try:
            self._driver.leave(self._seat, told(reason))
        except Refused:
            if last:
                self._stop()
            raise
        except BaseException:
            self._stop()
            raise
        self._stop()

    def _stop(self) -> None:
        """Nothing of the farm is left on the machine."""
        seat = self._seat
        try:
            for service in reversed(self._driver.services(seat)):
                services.stop(seat, service)
        finally:
            for file in self._driver.files(seat, {}):
                seat.machine.wipe(file.path)
            seat.machine.path(MEMORY).unlink(missing_ok=True)

    def start(self, secrets: Mapping[str, bytes]) -> None:
        """Writes the files and starts the daemons, each secret gone as soon as its daemon has read it."""
        seat = self._seat
        self._driver.prepare(seat)
        files = self._driver.files(seat, secrets)
        for file in files:
            seat.machine.replace(file.path, file.data, file.mode)
            if file.owner != "root":
                seat.machine.chown(file.path, *seat.machine.account(file.owner))
        for service in self._driver.services(seat):
            services.start(seat, service, self._driver.environment(seat))
            for file in files:
                if file.once == service.name:
                    seat.machine.wipe(file.path)

    def wait(self, seconds: float) -> None:
        """Returns when the farm sends jobs here. Refused when it doesn't within some seconds, or keeps on
        saying that it won't; the node is taken off the farm again where it had been listed."""
        looks: List[Look] = []
        try:
            self._wait(seconds, looks)
        except BaseException:
            if any(look.listed for look in looks):
                with contextlib.suppress(Refused):
                    self._driver.leave(self._seat, told("could not join"))
            raise

    def _wait(self, seconds: float, looks: List[Look]) -> None:
        """Keeps only looks that differ from the one before: they are few."""
        machine = self._seat.machine
        began, pause = machine.clock(), 0.5
        since: Optional[float] = None
        while True:
            look = self.look()
            if look not in looks[-1:]:
                looks.append(look)
                print(f"join: {self.farm}: {look.state}: {look.saw}", flush=True)
            now = machine.clock()
            if look.state == "open":
                return
            since = (now if since is None else since) if look.state == "refused" else None
            if since is not None and now - since >= min(GRACE, seconds / 2):
                raise Refused(f"farm {self.farm} does not take this node: {look.saw}")
            if now - began >= seconds:
                raise Refused(f"farm {self.farm} did not take this node within {seconds:.0f} s: {look.saw}")
            machine.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)

    def remember(self) -> None:
        """Writes down what `load` needs."""
        seat = self._seat
        known = {
            "schema": SCHEMA,
            "kind": self._driver.kind,
            "farm": seat.farm,
            "node": seat.node._asdict(),
            "settings": dict(seat.settings),
        }
        seat.machine.replace(MEMORY, json.dumps(known).encode(), 0o600)


def join(machine: Machine, farm: Farm, node: Node) -> Member:
    """Joins; see above. Takes at most the farm's timeout, and some seconds more to undo what can't be finished."""
    driver = drivers.driver(farm.kind)
    seat = Seat(machine, farm.name, node, checked(farm, driver.settings))
    secrets = checked_secrets(farm, driver.secrets)
    member = Member(driver, seat)
    began = machine.clock()
    try:
        member.remember()
        member.start(secrets)
        member.wait(farm.timeout - (machine.clock() - began) - min(30.0, farm.timeout / 5))
    except BaseException:
        with contextlib.suppress(Refused):  # the first reason is the one that helps
            member._stop()
        raise
    return member


def load(machine: Machine, *, ends: bool = False) -> Optional[Member]:
    """The member that an earlier process joined, or None. `ends`: the machine is being shut down (see Seat)."""
    if not machine.exists(MEMORY):
        return None
    f = read(machine.read(MEMORY), MEMORY)
    f.schema(SCHEMA)
    kind, name = f.text("kind", "|".join(drivers.KINDS)), f.text("farm", NAME)
    node = f.fields("node")
    settings: Dict[str, str] = f.pairs("settings", SETTING, SETTING_VALUE, 50)
    driver = drivers.driver(kind)
    known = Node(node.text("name", r".{1,253}"), node.text("image", NAME), node.text("version", VERSION))
    found = checked(Farm(kind, name, settings, {}), driver.settings)
    return Member(driver, Seat(machine, name, known, found, ends))
