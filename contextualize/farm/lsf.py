"""LSF and its open relatives: this machine is a dynamic host.

Its programs come in a site layer or on a shared file system; its lsf.conf is written at boot. A host is open
when lsload says ok *and* bhosts says that it takes jobs: the first ok in bhosts comes too early. Which relative
it is shows in what `lsid` prints, and decides only whether a closed host gets a lock of our own. This driver
never opens a host, and doesn't add one: where a master wants `lsaddhost`, its admin or a scheduler runs that.
"""

from __future__ import annotations

import re
from string import Template
from typing import ClassVar, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from contextualize.errors import Refused
from contextualize.farm import services
from contextualize.farm.driver import Driver, File, Look, Seat, program, template
from contextualize.farm.services import Service
from contextualize.farm.settings import (
    HOST,
    NUMBER,
    PORT,
    PROGRAMS,
    USER,
    WORD,
    Secret,
    Setting,
    several,
)
from contextualize.machine import UNANSWERED, Answer

ENVDIR = "/run/kiosk/lsf"
LOGS = "/var/log/lsf"
SUDOERS = "/etc/lsf.sudoers"
LOCK = "kiosk"
UNREACHED = re.compile(
    r"Cannot (?:locate|connect)|not responding|still trying|Communication time ?out|no answer after"
    r"|daemon (?:is )?down|Failed in an LSF library call",
    re.IGNORECASE,
)
NO_JOBS = re.compile(r"No (?:[a-z]+ )?job(?:s)? found", re.IGNORECASE)
NO_OPTION = re.compile(r"illegal option|invalid option|unrecognized option|usage", re.IGNORECASE)
LOCKS = re.compile(r"\b(?:IBM|Platform)\b")
"""Those of whose `badmin hclose` a lock's name is known."""
TAKES_JOBS = ("ok", "closed_Full", "closed_Busy", "closed_Excl", "closed_cu_Excl")
"""bhosts' words for a host that has jobs or gets them."""
NOT_HERE = ("PEND", "PSUSP", "WAIT", "DONE", "EXIT")
"""Jobs that are not on a host, or not any more."""


class Row(NamedTuple):
    """A host's line in a table, by the table's header."""

    cells: Mapping[str, str]

    @property
    def status(self) -> str:
        """The word in the column STATUS."""
        return self.cells.get("STATUS", "")


def rows(text: str, name: str) -> Optional[Row]:
    """The line of a host; it may be listed by its full name or by the first label. None where it is not."""
    header: List[str] = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["HOST_NAME"]:
            header = [word.upper() for word in words]
        elif header and words and name.split(".")[0] == words[0].split(".")[0]:
            return Row(dict(zip(header, words)))
    return None


class Lsf(Driver):
    """The driver."""

    kind = "lsf"
    settings: ClassVar[Dict[str, Setting]] = {
        "servers": Setting(
            several(HOST, 10), None, "the master and its candidates, with commas between them"
        ),
        "bindir": Setting(PROGRAMS, None, "the folder of lsid, bhosts and badmin (LSF_BINDIR)"),
        "serverdir": Setting(PROGRAMS, None, "the folder of lim, res and sbatchd (LSF_SERVERDIR)"),
        "libdir": Setting(
            rf"(?:{PROGRAMS})?", "", "the folder of the libraries (empty: `lib` beside bindir)"
        ),
        "confdir": Setting(
            rf"(?:{PROGRAMS})?",
            "",
            "a folder with lsf.shared and lsf.cluster.NAME (empty: asked of the servers)",
        ),
        "node_name": Setting("short|full", "full", "`full` or `short` (first label of the name)"),
        "resources": Setting(rf"(?:{several(WORD, 20)})?", "kiosk", "boolean resources of this host"),
        "image_resource": Setting(rf"(?:{WORD})?", "", "a string resource that gets the image's name"),
        "lim_port": Setting(PORT, "7869", "LSF_LIM_PORT"),
        "res_port": Setting(PORT, "6878", "LSF_RES_PORT"),
        "mbd_port": Setting(PORT, "6881", "LSB_MBD_PORT"),
        "sbd_port": Setting(PORT, "6882", "LSB_SBD_PORT"),
        "wait_time": Setting(NUMBER, "60", "LSF_DYNAMIC_HOST_WAIT_TIME, as on the master"),
        "admin": Setting(rf"(?:{USER})?", "", "the user as whom badmin is run (empty: root)"),
        "removal": Setting(
            "timeout|expire|remove",
            "timeout",
            "`timeout` (the master's LSF_DYNAMIC_HOST_TIMEOUT), `expire` (lsadmin expire) or `remove` (lsrmhost)",
        ),
    }
    secrets: ClassVar[Dict[str, Secret]] = {
        "eauth_key": Secret(6, 64, "LSF_EAUTH_KEY, where the cluster has one", needed=False)
    }

    def environment(self, seat: Seat) -> Mapping[str, str]:
        """Where LSF's programs find lsf.conf."""
        settings = seat.settings
        return {
            "LSF_ENVDIR": seat.path(ENVDIR),
            "LSF_SERVERDIR": seat.path(settings["serverdir"]),
            "LSF_LIBDIR": seat.path(settings["libdir"] or _beside(settings["bindir"])),
        }

    def files(self, seat: Seat, secrets: Mapping[str, bytes]) -> Sequence[File]:
        """lsf.conf, names of this host that don't lead to its loopback, and the key of eauth, which its programs
        read again and again: it stays, readable by root alone, until the machine leaves."""
        settings, own = seat.settings, not seat.settings["confdir"]
        values = {
            "farm": seat.farm,
            "servers": settings["servers"].replace(",", " "),
            "envdir": seat.path(ENVDIR),
            "confdir": seat.path(settings["confdir"] or ENVDIR),
            "logdir": seat.path(LOGS),
            **{key: settings[key] for key in ("lim_port", "res_port", "mbd_port", "sbd_port", "wait_time")},
            **{key: seat.path(settings[key]) for key in ("bindir", "serverdir")},
            "libdir": self.environment(seat)["LSF_LIBDIR"],
        }
        text = Template(template("lsf.conf")).substitute(values) + ("LSF_GET_CONF=lim\n" if own else "")
        local = [f"[resource {name}]" for name in settings["resources"].split(",") if name]
        if settings["image_resource"]:
            local.append(f"[resourcemap {seat.node.image}*{settings['image_resource']}]")
        text += f'LSF_LOCAL_RESOURCES="{" ".join(local)}"\n' if local else ""
        found = [File(f"{ENVDIR}/lsf.conf", text.encode())]
        address = seat.machine.address(settings["servers"].split(",")[0])
        if address and own:
            names = [seat.name(), *sorted({seat.node.name, seat.node.name.split(".")[0]} - {seat.name()})]
            found.append(File(f"{ENVDIR}/hosts", f"{address} {' '.join(names)}\n".encode()))
        if "eauth_key" in secrets:
            key = secrets["eauth_key"].decode("ascii", "replace").strip()
            if not re.fullmatch(r"[A-Za-z0-9._+/=-]{6,64}", key):
                raise Refused(
                    f"farm {seat.farm}: the secret eauth_key has characters that lsf.sudoers can't hold"
                )
            found.append(File(SUDOERS, f"LSF_EAUTH_KEY={key}\n".encode(), 0o600))
        elif not secrets and seat.machine.exists(SUDOERS):
            found.append(File(SUDOERS, b"", 0o600))
        return found

    def services(self, seat: Seat) -> Tuple[Service, ...]:
        """lim, res and sbatchd, which go to the background by themselves. Their units stay active whatever
        becomes of them, so that the end of one never ends jobs; stopping a unit ends all that it started. Whether
        a daemon lives is seen from its process."""
        lines = ("RemainAfterExit=yes", "LimitNOFILE=65536", "LimitMEMLOCK=infinity", "TasksMax=infinity")
        return tuple(
            Service(
                name,
                f"LSF's {name}",
                (seat.path(f"{seat.settings['serverdir']}/{name}"),),
                tuple(self.environment(seat).items()),
                "oneshot",
                lines,
                process=name,
            )
            for name in ("lim", "res", "sbatchd")
        )

    def prepare(self, seat: Seat) -> None:
        """Looks for all programs before any is started, and makes the folders."""
        for folder, names in (
            ("serverdir", ("lim", "res", "sbatchd")),
            ("bindir", ("lsid", "bhosts", "badmin")),
        ):
            for name in names:
                program(seat, seat.settings[folder], name)
        seat.folder(ENVDIR)
        seat.folder(LOGS)

    def look(self, seat: Seat) -> Look:
        """What both parts of LSF say of this host."""
        load, batch = self._bin(seat, "lsload", "-w", seat.name()), self._bhosts(seat)
        load_row, row = rows(load.out, seat.name()), rows(batch.out, seat.name())
        servers = seat.settings["servers"]
        for answer, found in ((load, load_row), (batch, row)):
            if found is None and _unreached(answer):
                return Look("waiting", f"{servers} can't be reached: {answer.said}", listed=row is not None)
        if load_row is None or row is None:
            where = "lsload" if load_row is None else "bhosts"
            return Look("waiting", f"{where} does not list {seat.name()} (does the master admit it, by "
                        "LSF_HOST_ADDR_RANGE and LSF_DYNAMIC_HOST_WAIT_TIME, or has lsaddhost to be run there?)",
                        listed=load_row is not row)  # fmt: skip
        saw = f"lsload says {load_row.status}, bhosts says {row.status}"
        if row.status == "closed_Adm":
            return Look("waiting", f"{saw}: an administrator has closed {seat.name()}, and has to open it "
                        f"(badmin hopen {seat.name()})", listed=True)  # fmt: skip
        ready = load_row.status in ("ok", "busy") and row.status in TAKES_JOBS
        return Look("open" if ready else "waiting", saw, listed=True)

    def close(self, seat: Seat, reason: str) -> None:
        """`badmin hclose` with the reason, under a lock of our own where there are such; done when bhosts says
        closed_Adm."""
        said = ""
        lock = ["-i", LOCK] if LOCKS.search(self._bin(seat, "lsid").out) else []
        for pause in (2.0, 5.0, 0.0):
            answer = self._badmin(seat, "hclose", "-C", reason, *lock, seat.name())
            if answer.status and lock and NO_OPTION.search(f"{answer.out} {answer.err}"):
                lock = []
                answer = self._badmin(seat, "hclose", "-C", reason, seat.name())
            shown = self._bhosts(seat)
            row = rows(shown.out, seat.name())
            if row and row.status == "closed_Adm":
                return
            if row is None and self._gone(seat):
                return
            said = (
                f"bhosts says {row.status}" if row and not answer.status else f"{answer.said}; {shown.said}"
            )
            seat.machine.sleep(pause)
        raise Refused(f"farm {seat.farm}: {seat.name()} was not closed: {said}")

    def busy(self, seat: Seat) -> int:
        """The jobs that bjobs or bhosts see here, or those whose sbatchd runs here."""
        here = self._here(seat)
        answer = self._bin(seat, "bjobs", "-r", "-s", "-w", "-u", "all", "-m", seat.name())
        text = f"{answer.out}\n{answer.err}"
        listed = sum(
            len(words) > 3 and words[0][:1].isdigit() and words[2] not in NOT_HERE
            for words in (line.split() for line in answer.out.splitlines())
        )
        if listed or here:
            return max(listed, here)
        shown = self._bhosts(seat)
        row = rows(shown.out, seat.name())
        if row is None and self._gone(seat):
            return 0
        if row is None or not NO_JOBS.search(text):
            fault = answer if not NO_JOBS.search(text) else shown
            raise Refused(f"farm {seat.farm}: whether {seat.name()} has jobs can't be told: {fault.said}")
        return 0 if row.cells.get("NJOBS") == "0" else 1

    def _gone(self, seat: Seat) -> bool:
        """Whether the cluster lists hosts, and this one is not among them."""
        everything = self._bin(seat, "bhosts", "-w")
        table = any(line.startswith("HOST_NAME") for line in everything.out.splitlines())
        return everything.status == 0 and table and rows(everything.out, seat.name()) is None

    def _here(self, seat: Seat) -> int:
        """sbatchd has one child of its own name, and root's like itself, for each job."""
        return max(0, seat.machine.processes("sbatchd") - 1)

    def leave(self, seat: Seat, reason: str) -> None:
        """Stops sbatchd, res and lim; removes the host from the cluster only where the settings ask for it, since
        every removal can cost the master a reconfiguration."""
        for service in reversed(self.services(seat)):
            services.stop(seat, service)
        removal = seat.settings["removal"]
        if removal == "timeout":
            return
        argv = ("lsadmin", "expire") if removal == "expire" else ("lsrmhost",)
        answer = self._bin(seat, *argv, seat.name(), admin=True)
        if answer.status:
            raise Refused(f"farm {seat.farm}: `{' '.join(argv)} {seat.name()}` failed: {answer.said}")

    def _bhosts(self, seat: Seat) -> Answer:
        return self._bin(seat, "bhosts", "-w", seat.name())

    def _badmin(self, seat: Seat, *words: str) -> Answer:
        return self._bin(seat, "badmin", *words, admin=True)

    def _bin(self, seat: Seat, name: str, *words: str, admin: bool = False) -> Answer:
        own = ["runuser", "-u", seat.settings["admin"], "--"] if admin and seat.settings["admin"] else []
        argv = [*own, program(seat, seat.settings["bindir"], name), *words]
        return self.ask(seat, *argv)


def _beside(bindir: str) -> str:
    """The folder `lib` beside a folder of programs."""
    return f"{bindir.rsplit('/', 1)[0]}/lib"


def _unreached(answer: Answer) -> bool:
    """Whether a program could not talk to the farm."""
    return answer.status == UNANSWERED or bool(UNREACHED.search(f"{answer.out} {answer.err}"))


DRIVER = Lsf()
