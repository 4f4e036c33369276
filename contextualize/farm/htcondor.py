"""HTCondor (9.0 or later): this machine runs a master and a startd, which show the pool a token.

Written from HTCondor's documentation and tried against programs that behave as it says; no pool was at hand. The
token stays on the disk, readable by root alone: the daemons read it at every new connection to the collector.
"""

from __future__ import annotations

import re
from string import Template
from typing import ClassVar, Dict, List, Mapping, Sequence, Tuple

from contextualize.errors import Refused
from contextualize.farm import services
from contextualize.farm.driver import Driver, File, Look, Seat, program, template
from contextualize.farm.services import Service
from contextualize.farm.settings import HOST, PATH, RESOURCES, SERVER, Secret, Setting, several
from contextualize.machine import UNANSWERED, Answer

FOLDER = "/run/kiosk/condor"
CONFIG = f"{FOLDER}/condor_config"
TOKENS = f"{FOLDER}/tokens.d"
LOCAL = "/var/lib/condor-kiosk"
UNREACHED = re.compile(
    r"communication error|Failed to connect|Couldn't contact|can't find address|timed? ?out", re.IGNORECASE
)
WRONG_TOKEN = re.compile(
    r"SECMAN:200[0-9]|AUTHENTICATE:1|Authentication failed|PERMISSION DENIED|DENIED", re.IGNORECASE
)
IDLE_STATES = ("Unclaimed", "Owner", "Drained")
OPEN_STATES = ("Unclaimed", "Claimed", "Matched", "Preempting")
STOPPING = 60.0
"""Seconds that the master has to end its startd, and the collector to forget the node."""


class HTCondor(Driver):
    """The driver."""

    kind = "htcondor"
    settings: ClassVar[Dict[str, Setting]] = {
        "collector": Setting(several(SERVER, 3), None, "one to three collectors, HOST or HOST:PORT"),
        "prefix": Setting(rf"/usr|/opt/site(?:{PATH})?", "/usr", "the folder above sbin/condor_master"),
        "node_name": Setting("short|full", "full", "`full` or `short` (first label of the name)"),
        "uid_domain": Setting(rf"(?:{HOST})?", "", "UID_DOMAIN (empty: the node's name)"),
        "execute": Setting(
            rf"(?=/var/|/scratch/|/scratch\Z){PATH}", "/var/lib/condor-kiosk/execute", "EXECUTE"
        ),
        **RESOURCES,
        "features": Setting(
            rf"(?:{several('(?:Has|KIOSK_)[A-Za-z0-9_]{1,60}', 30)})?",
            "",
            "attributes that are true, Has... or KIOSK_...: any other name could be one of HTCondor's own settings",
        ),
    }
    secrets: ClassVar[Dict[str, Secret]] = {
        "token": Secret(20, 8192, "an IDTOKEN with ADVERTISE_STARTD, ADVERTISE_MASTER and READ")
    }

    def prepare(self, seat: Seat) -> None:
        """The execute folder belongs to root: HTCondor makes one for each job in it."""
        for name in ("condor_master", "condor_startd"):
            program(seat, f"{seat.settings['prefix']}/sbin", name)
        seat.folder(FOLDER)
        seat.folder(TOKENS, 0o700)
        for folder in (LOCAL, f"{LOCAL}/log", f"{LOCAL}/spool", f"{LOCAL}/lock", seat.settings["execute"]):
            seat.folder(folder)

    def files(self, seat: Seat, secrets: Mapping[str, bytes]) -> Sequence[File]:
        """condor_config and the token."""
        settings, names = seat.settings, [f for f in seat.settings["features"].split(",") if f]
        values = {
            "farm": seat.farm,
            "collectors": settings["collector"].replace(",", ", "),
            "name": seat.name(),
            "uid_domain": settings["uid_domain"] or seat.name(),
            "tokens": seat.path(TOKENS),
            "release": seat.path(settings["prefix"]),
            "local": seat.path(LOCAL),
            "execute": seat.path(settings["execute"]),
            "memory": str(seat.memory()),
            "cpus": f"NUM_CPUS = {settings['cpus']}\n" if settings["cpus"] else "",
            "image": seat.node.image,
            "version": seat.node.version,
            "features": "".join(f"{name} = True\n" for name in names),
            "attributes": ", ".join(["KioskImage", "KioskImageVersion", *names]),
        }
        token = secrets.get("token", b"").strip()
        if token and not re.fullmatch(rb"[A-Za-z0-9._=-]+", token):
            raise Refused(
                f"farm {seat.farm}: the secret token is not a token (three parts of base64 with dots)"
            )
        config = Template(template("condor.conf")).substitute(values)
        return [File(CONFIG, config.encode()), File(f"{TOKENS}/pool", token + b"\n", 0o600)]

    def environment(self, seat: Seat) -> Mapping[str, str]:
        """Where HTCondor's programs find their configuration."""
        return {"CONDOR_CONFIG": seat.path(CONFIG)}

    def services(self, seat: Seat) -> Tuple[Service, ...]:
        """The master, which starts the startd. It ends its children itself."""
        argv = (seat.path(f"{seat.settings['prefix']}/sbin/condor_master"), "-f")
        lines = ("KillMode=mixed", "TimeoutStopSec=60", "Delegate=yes", "LimitNOFILE=16384", "TasksMax=infinity",
                 "Restart=on-failure", "RestartSec=5")  # fmt: skip
        return (
            Service("condor", "HTCondor's master", argv, tuple(self.environment(seat).items()), lines=lines),
        )

    def look(self, seat: Seat) -> Look:
        """Whether the collector lists a slot of this node that takes jobs."""
        master, collector = self.services(seat)[0], seat.settings["collector"]
        if not services.running(seat, master):
            return Look("waiting", f"condor_master does not run: {services.said(seat, master)}")
        answer, slots = self._slots(seat)
        if answer.status:
            if WRONG_TOKEN.search(answer.err):
                return Look("refused", f"the collector {collector} does not accept the token: {answer.said}")
            return Look("waiting", f"the collector {collector} can't be reached: {answer.said}")
        if not slots:
            said = self._log(seat)
            denied = bool(WRONG_TOKEN.search(said))
            return Look("refused" if denied else "waiting", f"the collector {collector} does not list {seat.name()}"
                        + (f", whose token it did not accept: {said}" if denied else ""))  # fmt: skip
        states = ", ".join(sorted({f"{state}/{activity}" for state, activity in slots}))
        ready = any(state in OPEN_STATES for state, _ in slots)
        return Look("open" if ready else "waiting", f"the collector says {states}", listed=True)

    def close(self, seat: Seat, reason: str) -> None:
        """Peacefully: the startd takes no more jobs, and ends with its last one. The reason stays here, since the
        pool has no place for it."""
        answer = self._ask(seat, "sbin/condor_off", "-peaceful", "-startd")
        if answer.status:
            raise Refused(f"farm {seat.farm}: {seat.name()} was not closed: {answer.said}")

    def busy(self, seat: Seat) -> int:
        """Each running job has a starter here, whose real user is root whatever it acts as; a slot that the collector
        still shows as claimed is one too."""
        here = seat.machine.processes("condor_starter")
        answer, slots = self._slots(seat)
        if answer.status and not here:
            raise Refused(f"farm {seat.farm}: whether {seat.name()} has jobs can't be told: {answer.said}")
        return max(here, sum(state not in IDLE_STATES for state, _ in slots))

    def leave(self, seat: Seat, reason: str) -> None:
        """Ends the master, which takes the node's slots back from the collector."""
        services.stop(seat, self.services(seat)[0])
        end = seat.machine.clock() + STOPPING
        while True:
            answer, slots = self._slots(seat)
            if answer.status == 0 and not slots:
                return
            if answer.status or seat.machine.clock() >= end:
                said = answer.said if answer.status else f"it lists {len(slots)} slots"
                raise Refused(f"farm {seat.farm}: the collector may still know {seat.name()}: {said}")
            seat.machine.sleep(3)

    def _slots(self, seat: Seat) -> Tuple[Answer, List[Tuple[str, str]]]:
        """The states and activities of this node's slots, but those of a partitionable one that is cut up."""
        answer = self._ask(seat, "bin/condor_status", "-constraint", f'Machine == "{seat.name()}"',
                           "-af", "State", "Activity")  # fmt: skip
        words = [line.split() for line in answer.out.splitlines()]
        return answer, [(w[0], w[1]) for w in words if len(w) == 2 and w[0][0].isupper()]

    def _log(self, seat: Seat) -> str:
        """The last complaints of the startd."""
        log = f"{LOCAL}/log/StartLog"
        if not seat.machine.exists(log):
            return ""
        with seat.machine.path(log).open("rb") as f:
            f.seek(0, 2)
            f.seek(max(0, f.tell() - 8192))
            lines = f.read().decode(errors="replace").splitlines()
        return " ".join([line for line in lines if WRONG_TOKEN.search(line)][-1:])[:300]

    def _ask(self, seat: Seat, name: str, *words: str) -> Answer:
        folder, _, file = name.partition("/")
        argv = [program(seat, f"{seat.settings['prefix']}/{folder}", file), *words]
        answer = self.ask(seat, *argv, timeout=30)
        if answer.status == 0 and UNREACHED.search(answer.err):
            return Answer(UNANSWERED, answer.out, answer.err)
        return answer


DRIVER = HTCondor()
