"""Slurm (22.05 or later): this machine registers itself as a dynamic node (`slurmd -Z`).

munge's key is gone from the disk as soon as munged has read it. The rest of the configuration comes from the
controller (configless), or is a slurm.conf that a verified site layer brings. That a node is open is what the
controller says of it, never that a daemon started.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Dict, FrozenSet, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from contextualize.errors import Refused
from contextualize.farm import services
from contextualize.farm.driver import MARK, Driver, File, Look, Seat, program
from contextualize.farm.services import Service
from contextualize.farm.settings import PATH, RESOURCES, SERVER, WORD, Secret, Setting, several
from contextualize.machine import Answer

MUNGE = "/run/kiosk/munge"
SOCKETS = "/run/munge"
CACHE = "/run/slurm/conf/slurm.conf"
"""Where slurmd puts the configuration that it has from the controller, for Slurm's other programs."""

WRONG_KEY = re.compile(
    r"Zero Bytes were transmitted|authentication (?:error|credential)|Invalid credential", re.IGNORECASE
)
NO_PLACE = re.compile(r"past MaxNodeCount|lookup failure for node|Invalid node name|Invalid registration")
TAKEN = re.compile(r"Duplicated NodeName")
UNREACHED = re.compile(r"connect failure|Unable to (?:contact|resolve|establish)|timed out|no answer after")
UNKNOWN = re.compile(r"not found|Invalid node name")
PROCTRACK = re.compile(r"^\s*ProctrackType\s*=\s*(\S+)", re.IGNORECASE | re.MULTILINE)
IN_CGROUPS = re.compile(r"^\s*(?:TaskPlugin|JobAcctGatherType)\s*=.*/cgroup", re.IGNORECASE | re.MULTILINE)
INCLUDES = re.compile(r"^\s*Include\s", re.IGNORECASE | re.MULTILINE)
TAKES_JOBS = ("IDLE", "MIXED", "ALLOCATED")
KEEPS_OUT = {"DOWN", "DRAIN", "DRAINING", "DRAINED", "FAIL", "INVAL", "INVALID_REG", "NOT_RESPONDING", "MAINT",
             "PLANNED_DOWN", "POWERED_DOWN", "POWERING_DOWN"}  # fmt: skip
CLOSED = {"DRAIN", "DRAINING", "DRAINED"}
ENDING = 40.0
"""Seconds that jobs which are completing, and the controller's deletion, may take at the end."""


class Listed(NamedTuple):
    """What the controller knows of the node."""

    states: FrozenSet[str]
    reason: str
    partitions: Tuple[str, ...]

    @classmethod
    def read(cls, line: str) -> Listed:
        """Reads one line of `scontrol -o show node`."""

        def value(key: str) -> str:
            found = re.search(rf"(?:^| ){key}=(\S+)", line)
            return found.group(1) if found else ""

        state = value("State")
        states = {word.strip("*~#!%$@^-").upper() for word in state.split("+")}
        if "*" in state:
            states.add("NOT_RESPONDING")
        reason = re.search(r" Reason=(.*?)(?: \[[^\[\]]*\])?(?: Comment=.*| Extra=.*)?$", line)
        return cls(
            frozenset(states),
            reason.group(1) if reason else "",
            tuple(p for p in value("Partitions").split(",") if p),
        )

    def __str__(self) -> str:
        return "+".join(sorted(self.states)) + (f", reason: {self.reason}" if self.reason else "")


class Slurm(Driver):
    """The driver."""

    kind = "slurm"
    settings: ClassVar[Dict[str, Setting]] = {
        "controllers": Setting(several(SERVER, 3), None, "one to three controllers, HOST or HOST:PORT"),
        "config": Setting(
            rf"configless|(?=/etc/slurm/|/opt/site/){PATH}",
            "configless",
            "`configless`, or a slurm.conf below /etc/slurm or /opt/site that a site layer brings",
        ),
        "prefix": Setting(
            rf"/usr|/opt/site(?:{PATH})?", "/usr", "the folder above sbin/slurmd and bin/scontrol"
        ),
        "node_name": Setting("short|full", "short", "`short` (first label of the name) or `full`"),
        **RESOURCES,
        "features": Setting(rf"(?:{several(WORD, 30)})?", "kiosk", "features, with commas between them"),
        "partition": Setting(rf"(?:{WORD})?", "", "a partition that must hold the node (empty: any)"),
        "spool": Setting(
            rf"(?=/var/|/scratch/|/run/){PATH}", "/var/spool/slurmd", "the controller's SlurmdSpoolDir"
        ),
    }
    secrets: ClassVar[Dict[str, Secret]] = {
        "munge_key": Secret(32, 1024, "the munge key that the cluster shares")
    }

    def prepare(self, seat: Seat) -> None:
        """munged wants to own its folders."""
        for folder, name in (("/usr/sbin", "munged"), (f"{seat.settings['prefix']}/sbin", "slurmd")):
            program(seat, folder, name)
        seat.folder(MUNGE, 0o700, "munge")
        seat.folder(SOCKETS, 0o755, "munge")
        seat.folder(seat.settings["spool"])

    def files(self, seat: Seat, secrets: Mapping[str, bytes]) -> Sequence[File]:
        """munge's key, which munged itself must own."""
        return [File(f"{MUNGE}/key", secrets.get("munge_key", b""), 0o400, "munge", once="munged")]

    def environment(self, seat: Seat) -> Mapping[str, str]:
        """Which configuration Slurm's programs read."""
        config = seat.settings["config"]
        return {"SLURM_CONF": seat.path(CACHE if config == "configless" else config)}

    def services(self, seat: Seat) -> Tuple[Service, ...]:
        """munged and slurmd. munged is never started again by itself: its key is gone. slurmd is, and its end
        does not end the jobs."""
        return (self._munged(seat), self._slurmd(seat))

    def _munged(self, seat: Seat) -> Service:
        argv = ["/usr/sbin/munged", "--foreground", f"--socket={seat.path(SOCKETS)}/munge.socket.2"]
        argv += [f"--{file}-file={seat.path(MUNGE)}/{file}" for file in ("key", "pid", "seed")]
        answers = ("/usr/bin/munge", "-n", "-S", f"{seat.path(SOCKETS)}/munge.socket.2")
        lines = ("User=munge", "Group=munge", "Restart=no")
        return Service("munged", "munge's daemon", tuple(argv), lines=lines, answers=answers)

    def _slurmd(self, seat: Seat) -> Service:
        settings = seat.settings
        conf = [f"RealMemory={seat.memory()}"]
        conf += [f"CPUs={settings['cpus']}"] if settings["cpus"] else []
        conf += [f"Feature={settings['features']}"] if settings["features"] else []
        argv = [f"{settings['prefix']}/sbin/slurmd", "-D", "-Z", "-N", seat.name(), "--conf", " ".join(conf)]
        configless = settings["config"] == "configless"
        argv += ["--conf-server", settings["controllers"]] if configless else []
        lines = (
            "Delegate=yes", "KillMode=process", "LimitNOFILE=131072", "LimitMEMLOCK=infinity",
            "LimitSTACK=infinity", "TasksMax=infinity", "Restart=on-failure", "RestartSec=5",
        )  # fmt: skip
        own = () if configless else tuple(self.environment(seat).items())
        return Service("slurmd", "Slurm's node daemon", tuple(argv), own, lines=lines)

    def look(self, seat: Seat) -> Look:
        """What slurmd said if it doesn't run, or else what the controller says."""
        slurmd = self._slurmd(seat)
        if not services.running(seat, slurmd) or not self._configured(seat):
            return self._fault(seat, services.said(seat, slurmd))
        answer, found = self._show(seat)
        if found is None:
            return self._fault(seat, answer.err or answer.out)
        return self._judge(seat, found)

    def _configured(self, seat: Seat) -> bool:
        """Whether slurm.conf is there: Slurm's programs wait long for one that is not."""
        return Path(self.environment(seat)["SLURM_CONF"]).is_file()

    def _show(self, seat: Seat) -> Tuple[Answer, Optional[Listed]]:
        answer = self._scontrol(seat, "-o", "show", "node", seat.name())
        line = next(
            (line for line in answer.out.splitlines() if f"NodeName={seat.name()} " in f"{line} "), ""
        )
        return answer, Listed.read(line) if answer.status == 0 and line else None

    def _fault(self, seat: Seat, text: str) -> Look:
        """What keeps the node from being listed."""
        controllers, last = seat.settings["controllers"], tail(text)
        if WRONG_KEY.search(text):
            return Look("refused", f"the controller {controllers} does not accept munge's credentials (another "
                        f"cluster's munge_key, or clocks that differ): {last}")  # fmt: skip
        if NO_PLACE.search(text):
            return Look("refused", f"the controller {controllers} has no place for a dynamic node "
                        f"{seat.name()} (MaxNodeCount?): {last}")  # fmt: skip
        if TAKEN.search(text):
            return self._taken(seat)
        if UNREACHED.search(text):
            return Look("waiting", f"the controller {controllers} can't be reached: {last}")
        return Look("waiting", f"not listed by {controllers}: {last}")

    def _taken(self, seat: Seat) -> Look:
        return Look("refused", f"the name {seat.name()} belongs to a node of the controller's own slurm.conf")

    def _judge(self, seat: Seat, found: Listed) -> Look:
        partition = seat.settings["partition"]
        if not any(state.startswith("DYNAMIC") for state in found.states):
            return self._taken(seat)
        if found.states & {"INVAL", "INVALID_REG"}:
            return Look("refused", f"the controller finds the node invalid: {found}", listed=True)
        if found.states & CLOSED:
            if not found.reason.startswith(MARK):
                return Look("refused", f"somebody has drained this node: {found}", listed=True)
            # Left over from a life before, whose last words did not reach the controller.
            self._scontrol(seat, "update", f"nodename={seat.name()}", "state=resume")
            return Look("waiting", f"{found}", listed=True)
        if found.states & KEEPS_OUT or not found.states.intersection(TAKES_JOBS):
            return Look("waiting", f"the controller says {found}", listed=True)
        if partition and partition not in found.partitions:
            return Look("refused", f"the node is in the partitions {', '.join(found.partitions) or 'none'}, not in "
                        f"{partition} (which needs Nodes=ALL or a NodeSet of its features)", listed=True)  # fmt: skip
        if self._loses_jobs(seat):
            return Look("refused", "slurm.conf has jobs in cgroups, and the controller has no cgroup.conf beside it: "
                        "this Slurm would end every job unstarted, as done", listed=True)  # fmt: skip
        return Look("open", f"{found}", listed=True)

    def _loses_jobs(self, seat: Seat) -> bool:
        """Whether slurmstepd finds no cgroups, since the configuration that it has from the controller lacks
        cgroup.conf. Seen with Slurm 22.05, which reports such a job as completed."""
        if seat.settings["config"] != "configless" or seat.machine.exists(CACHE.replace("slurm.", "cgroup.")):
            return False
        if not wants_cgroups(seat.machine.read(CACHE).decode(errors="replace")):
            return False
        slurmd = program(seat, f"{seat.settings['prefix']}/sbin", "slurmd")
        return " 22.05" in seat.machine.ask([slurmd, "-V"]).out

    def close(self, seat: Seat, reason: str) -> None:
        """Drains the node. Slurm closes it in one step: no job is sent after the state is seen. A node that is only
        down is not closed: it may come back and get jobs."""
        said = ""
        for pause in (1.0, 2.0, 0.0):
            answer = self._update(seat, "drain", reason)
            if UNREACHED.search(answer.err):
                raise Refused(f"farm {seat.farm}: the controller did not drain {seat.name()}: {answer.said}")
            shown, found = self._show(seat)
            if found and found.states & CLOSED:
                return
            if found is None and self._unknown(shown):
                return
            said = answer.said if answer.status else shown.said if found is None else str(found)
            seat.machine.sleep(pause)
        raise Refused(f"farm {seat.farm}: the controller did not drain {seat.name()}: {said}")

    def busy(self, seat: Seat) -> int:
        """The controller's jobs here, which those that are completing belong to, or the steps that run here."""
        here = self._steps(seat)
        answer = self._ask(seat, "squeue", "-h", "-w", seat.name(), "-o", "%A")
        if answer.status == 0:
            return max(len(here), len(set(answer.out.split())))
        if here or self._unknown(answer):
            return len(here)
        raise Refused(f"farm {seat.farm}: whether {seat.name()} has jobs can't be told: {answer.said}")

    def _steps(self, seat: Seat) -> Set[str]:
        """The jobs that have a step here, by what root's processes call themselves: others can call themselves so."""
        answer = seat.machine.ask(["pgrep", "-U", "root", "-a", "-f", r"^slurmstepd: \["])
        return set(re.findall(r"slurmstepd: \[([0-9]+)", answer.out))

    def leave(self, seat: Seat, reason: str) -> None:
        """Waits for jobs that are completing, stops slurmd, and has the controller delete the node. The deletion
        may time out and still be done: what counts is that the node is gone."""
        end = seat.machine.clock() + ENDING
        while seat.machine.clock() < end - ENDING / 2:
            answer = self._ask(seat, "squeue", "-h", "-w", seat.name(), "-t", "completing", "-o", "%A")
            if answer.status or not answer.out:
                break
            seat.machine.sleep(1)
        known = self._known(seat)
        services.stop(seat, self._slurmd(seat))
        while True:
            self._update(seat, "down", reason, known)
            deleted = self._scontrol(seat, "delete", f"nodename={seat.name()}", environment=known)
            shown = self._scontrol(seat, "-o", "show", "node", seat.name(), environment=known)
            if self._unknown(shown):
                return
            if seat.machine.clock() >= end or UNREACHED.search(shown.err):
                said = deleted.said if deleted.status else shown.said
                raise Refused(f"farm {seat.farm}: the controller did not delete {seat.name()}: {said}")
            seat.machine.sleep(2)

    def _known(self, seat: Seat) -> Dict[str, str]:
        """The environment of Slurm's programs after slurmd's end, which takes its link to the configuration, but not
        the configuration in its spool folder."""
        environment = dict(self.environment(seat))
        link = seat.machine.path(CACHE)
        if seat.settings["config"] == "configless":
            kept = seat.path(f"{seat.settings['spool']}/conf-cache/slurm.conf")
            environment["SLURM_CONF"] = str(link.resolve()) if link.exists() else kept
        return environment

    @staticmethod
    def _unknown(answer: Answer) -> bool:
        """Whether the controller answered that it has no such node."""
        return answer.status not in (0, 124) and bool(UNKNOWN.search(f"{answer.out} {answer.err}"))

    def _update(
        self, seat: Seat, state: str, reason: str, environment: Optional[Dict[str, str]] = None
    ) -> Answer:
        words = ("update", f"nodename={seat.name()}", f"state={state}", f"reason={reason}")
        return self._scontrol(seat, *words, environment=environment)

    def _scontrol(self, seat: Seat, *words: str, environment: Optional[Dict[str, str]] = None) -> Answer:
        return self._ask(seat, "scontrol", *words, environment=environment)

    def _ask(
        self, seat: Seat, name: str, *words: str, environment: Optional[Dict[str, str]] = None
    ) -> Answer:
        argv = [program(seat, f"{seat.settings['prefix']}/bin", name), *words]
        if not environment and not self._configured(seat):
            return Answer(1, "", "there is no slurm.conf yet")
        return self.ask(seat, *argv, environment=environment)


def tail(text: str, most: int = 200) -> str:
    """The end of what was said, in one line and whole words."""
    line = " ".join(text.split())
    return line if len(line) <= most else "... " + line[-most:].partition(" ")[2]


def wants_cgroups(conf: str) -> bool:
    """Whether a slurm.conf has jobs in cgroups, which is Slurm's default; one that includes others may say anything."""
    if INCLUDES.search(conf):
        return False
    track = PROCTRACK.search(conf)
    return track is None or "cgroup" in track.group(1) or bool(IN_CGROUPS.search(conf))


DRIVER = Slurm()
