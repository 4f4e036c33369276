"""LSF and its relatives by their commands. Which of them it is, and what its commands can do, is seen in what they
print: `lsid` once, then the richest form of each command that it understands, which is kept to.

A look runs `bjobs`, `bqueues`, `bhosts` and `lshosts` once each. kiosk closes hosts with a lock of its own where there
are locks (IBM), and with its mark in the comment elsewhere; then it opens only a host that bears this mark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from kiosk import clock
from kiosk.batch.api import Look, Share
from kiosk.batch.ask import HOST, Answer, Commands, plain
from kiosk.batch.lsf import hosts, jobs, queues
from kiosk.batch.lsf.hosts import LOCK, MARK, Seat
from kiosk.batch.lsf.jobs import Jobs
from kiosk.batch.lsf.tables import NO_OPTION, Streamed, is_json, unread
from kiosk.batch.lsf.times import reader
from kiosk.errors import BatchError

BANNER = re.compile(
    r"^(IBM|Platform|volclava|OpenLava|openlava)\b[^\n]*?\b([0-9]+(?:\.[0-9]+){1,3})\b", re.MULTILINE
)
NO_HOST = re.compile(
    r"No such host|[Uu]nknown host|[Bb]ad host name|not (?:a )?(?:used by|in|known|found)|not exist"
)
DONE = re.compile(r"\.\.\. *done|already (?:closed|open)", re.IGNORECASE)
GROUPS = frozenset({"all", "allremote", "none", "others", "default"})
"""What LSF takes for many hosts."""
BHOSTS = "host_name status max njobs run ssusp ususp rsv"
MASTER = "this needs a user whom LSF knows as an administrator, on its master"


class Lsf:
    """The driver; see BatchSystem. `clock` is for tests."""

    def __init__(self, commands: Commands, now: Callable[[], datetime] = clock.now) -> None:
        self._run, self._now = commands, now
        self._product, self._name = "", ""
        self._jobs_by: str | None = None
        self._forms: dict[str, Sequence[str]] = {}
        self._partitions = True
        self._locks = False
        self._closed: set[str] = set()

    @property
    def name(self) -> str:
        """`lsf 10.1`, `volclava 2.2`; `lsf` before it was asked."""
        return self._name or "lsf"

    @property
    def queries(self) -> int:
        """Commands that asked."""
        return self._run.queries

    def look(self) -> Look:
        """See BatchSystem."""
        self._identify()
        now = self._now()
        found = self._jobs(now)
        look = Look(now, found.tally.pending(), found.tally.running())
        return self.complete(look, found.on, empty=found.seen == 0)

    def complete(self, look: Look, on: Mapping[str, int], empty: bool = False) -> Look:
        """A look that has jobs only, with what is asked of hosts, queues and shares; `on` is how many jobs are on each
        host. `empty` says that `bjobs` listed none, which the queues must then confirm."""
        self._identify()
        all_queues, shares, counted = queues.queues(self._first("bqueues", ("-l", "-r"), ("-l",), ("-w",)))
        if empty and counted:
            raise BatchError(
                f"bjobs lists no job, and bqueues counts {counted}", where=self.name,
                hint="one of them is wrong, or jobs came just now; the next look will tell",
            )  # fmt: skip
        rich = [("-o", f"{BHOSTS} comments", "-json")] if self._product == "lsf" else []
        seats = hosts.seats(self._first("bhosts", *rich, ("-l",)))
        machines = hosts.machines(self._run.ask("lshosts", "-w"))
        self._closed &= {seat.name for seat in seats if seat.closed}
        found = tuple(
            hosts.host(
                seat, machines.get(seat.name, hosts.NOTHING), on.get(seat.name, 0), seat.name in self._closed
            )
            for seat in seats
        )
        return replace(look, hosts=found, queues=all_queues, shares=(*shares, *self._of_partitions()))

    def close(self, host: str, reason: str) -> None:
        """See BatchSystem."""
        self._identify()
        comment = f"{MARK} {plain(reason, 200)}".replace('"', "'")
        if not (self._locks and self._badmin("hclose", "-C", comment, "-i", LOCK, hostname(host))):
            if self._seat(host).closed:
                return  # by kiosk before, or by somebody whose comment must not be lost
            self._badmin("hclose", "-C", comment, hostname(host))
        self._closed.add(host)

    def open(self, host: str) -> None:
        """See BatchSystem."""
        self._identify()
        if not (self._locks and self._badmin("hopen", "-i", LOCK, hostname(host))):
            seat = self._seat(host)
            if not (seat.mine or (seat.closed and not seat.comment and host in self._closed)):
                return
            self._badmin("hopen", hostname(host))
        self._closed.discard(host)

    def remove(self, host: str) -> None:
        """See BatchSystem. LSF's own dynamic hosts leave by themselves, or by `lsadmin expire` where there is one;
        volclava's by `lsrmhost`, which would end what runs there: it is not run for a host that answers and is busy."""
        self._identify()
        if self._product == "lsf":
            answer = self._run.tell("lsadmin", "expire", hostname(host))
            quiet = re.search(r"Unknown command|[Uu]sage", answer.error + answer.text)
        else:
            seat = self._known(host)
            if seat is None:
                return
            if seat.status not in hosts.AWAY and seat.used:
                raise BatchError(
                    f"{host} answers and has {seat.used} slots busy: it is not removed", where=self.name
                )
            answer = self._run.tell("lsrmhost", hostname(host))
            quiet = None
        if answer.status != 0 and not quiet and not NO_HOST.search(answer.error + answer.text):
            raise answer.refused(f"did not remove {host}", MASTER)
        self._closed.discard(host)

    def _identify(self) -> None:
        if self._name:
            return
        answer = self._run.ask("lsid")
        banner = BANNER.search(answer.text)
        if answer.status != 0 or not banner:
            raise unread(answer, "does not say which LSF it is")
        self._product = "lsf" if banner[1] in ("IBM", "Platform") else banner[1].lower()
        self._locks = self._product == "lsf"
        self._name = f"{self._product} {'.'.join(banner[2].split('.')[:2])}"

    def _jobs(self, now: datetime) -> Jobs:
        when, seconds = reader(now), now.timestamp()
        fields = " ".join(jobs.FIELDS)
        if self._jobs_by in (None, "json") and self._product == "lsf":
            source = Streamed(self._run.pieces("bjobs", "-u", "all", "-o", fields, "-json"), "JOBS")
            found = jobs.from_json(source, when, seconds)
            if source.begun or jobs.no_jobs(source.answer):
                self._jobs_by = "json"
                return found
            self._give_up(source.answer, self._jobs_by)
        if self._jobs_by in (None, "columns") and self._product == "lsf":
            answer = self._run.ask("bjobs", "-u", "all", "-o", f"{fields} delimiter='{jobs.DELIMITER}'")
            if jobs.no_jobs(answer) or "JOBID" in answer.text:
                found = jobs.from_columns(answer, when, seconds)
                self._jobs_by = "columns"
                return found
            self._give_up(answer, self._jobs_by)
        found, _ = jobs.from_paragraphs(self._run.pieces("bjobs", "-l", "-u", "all"), when, seconds)
        self._jobs_by = "paragraphs"
        return found

    def _give_up(self, answer: Answer, known: str | None) -> None:
        """Goes on to a simpler form of a command only where this one is not understood."""
        if known is not None or not NO_OPTION.search(answer.error + answer.text[:2000]):
            raise unread(answer, "can't be understood")

    def _first(self, command: str, *forms: Sequence[str]) -> Answer:
        """The answer to the first form of a command that is understood; which one it is is remembered."""
        known = self._forms.get(command)
        for form in forms if known is None else [known]:
            answer = self._run.ask(command, *form)
            if answer.status == 0 and (is_json(answer) or not NO_OPTION.search(answer.error)):
                self._forms[command] = form
                return answer
            if not NO_OPTION.search(answer.error + answer.text[:2000]):
                raise unread(answer, "failed")
        raise unread(answer, "understands none of the forms that kiosk knows")

    def _of_partitions(self) -> tuple[Share, ...]:
        if self._product != "lsf" or not self._partitions:
            return ()
        answer = self._run.ask("bhpart", "-r")
        self._partitions = "SHARE_INFO_FOR" in answer.text
        return queues.partitions(answer)

    def _known(self, host: str) -> Seat | None:
        answer = self._run.ask("bhosts", "-l", hostname(host))
        if answer.status != 0 and NO_HOST.search(answer.error + answer.text):
            return None
        return next(iter(hosts.seats(answer)), None)

    def _seat(self, host: str) -> Seat:
        found = self._known(host)
        if found is None:
            raise BatchError(f"does not know the host {plain(host)}", where=self.name)
        return found

    def _badmin(self, *words: str) -> bool:
        """Runs badmin; False where it knows no locks, which is remembered. BatchError where it refuses."""
        answer = self._run.tell("badmin", *words)
        said = answer.text + answer.error
        if "-i" in words and NO_OPTION.search(said):
            self._locks = False
            return False
        if answer.status != 0 or not DONE.search(said):
            raise (
                answer.refused("refused", MASTER) if answer.error.strip() else unread(answer, "did not do it")
            )
        return True


def hostname(host: str) -> str:
    """A host's name as an argument; BatchError for what can be none (an option, a path, a group of hosts)."""
    if not HOST.fullmatch(host) or host.lower() in GROUPS:
        raise BatchError(f"{plain(host)!r} is no host's name")
    return host
