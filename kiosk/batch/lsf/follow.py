"""LSF without asking it: what waits, what runs, and where, from `lsb.events`, which mbatchd itself starts from.

mbatchd writes a log from which its state can be made again, so no memory of what was read is needed: after a restart
of kiosk the file is read from its beginning. The `position` that a caller keeps only serves to see that nothing was
lost in between. Hosts are those that the log has named (a job ran there, somebody closed or opened it): a host that
joined and never had a job is not among them, and one that went is. Neither are shares and the queues' priorities in
the log. A driver that asks may be given for what the log does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from kiosk import clock
from kiosk.batch.api import Job, Look
from kiosk.batch.lsf.driver import Lsf
from kiosk.batch.lsf.events import BadRecord, Fields, job_finish
from kiosk.batch.lsf.finished import job_of
from kiosk.batch.lsf.log import QUERY, LogFile, Position, older
from kiosk.batch.lsf.state import KINDS, State, fresh_tally
from kiosk.errors import BatchError

EVENTS, ACCOUNTS = "lsb.events", "lsb.acct"
WANTED = frozenset(kind.encode() for kind in KINDS)
FINISHED = frozenset({b"JOB_FINISH"})


class EventLog:
    """`lsb.events` in a folder. `since` is the position of an earlier reader, which must still be explained."""

    def __init__(self, folder: Path, since: Position | None = None) -> None:
        self._path = folder / EVENTS
        self._since = since
        self._state = State()
        self._line = 0
        self.position = since

    def forget(self) -> None:
        """Takes the log as it is from the next reading on, whatever was missing before."""
        self.position = self._since = None

    def read(self) -> State:
        """The state now. BatchError where the log can't be read, or records are missing; nothing is known then."""
        with LogFile(self._path) as file:
            known = self.position
            if known is None:
                self._rebuild(file)
            elif file.cut(known):
                raise self._gap(f"became shorter ({file.size} bytes, {known.offset} were read)")
            elif not file.at(known):
                self._switched(file, known)
            elif self._since is not None:
                self._rebuild(file)
            else:
                self._fold(file, known.offset)
            self._since = None
        if self._state.master_ended:
            raise BatchError(
                "mbatchd has ended, and not started again", where=str(self._path), hint="is LSF up?"
            )
        return self._state

    def _switched(self, file: LogFile, known: Position) -> None:
        """Goes on in another file: what was alive at the end of the one before must be in it."""
        if self._since is not None:
            if not older(self._path, known) and not file.switched:
                raise self._gap("is not the file that was read before, and mbatchd did not switch it")
            self._rebuild(file)
            return
        between = older(self._path, known)
        if not between:
            raise self._gap("is not the file that was read before, which is gone")
        for path in between:
            with LogFile(path) as old:
                if old.at(known):
                    self._fold(old, known.offset)
                else:
                    self._from_start(old)
        self._from_start(file)

    def _from_start(self, file: LogFile) -> None:
        before = {number for number, job in self._state.jobs.items() if not job.over}
        kept = (self._state, self.position, self._line)
        self._rebuild(file)
        lost = before - self._state.known
        if lost:
            self._state, self.position, self._line = kept
            raise self._gap(f"lacks {len(lost)} jobs that had not ended, such as {min(lost)}")

    def _rebuild(self, file: LogFile) -> None:
        self._state, self._line = State(), 0
        self._fold(file, 0)

    def _fold(self, file: LogFile, offset: int) -> None:
        """Adds a file's records from an offset on. What was added when one can't be read is added once only."""
        try:
            for record in file.records(offset, self._line, WANTED):
                try:
                    self._state.record(record.kind, record.time, record.rest)
                except BadRecord as e:
                    raise file.unread(record.line, f"can't be understood: {e}") from None
                self._line, offset = record.last, record.end
        finally:
            self.position = Position(file.inode, offset, file.first)

    def _gap(self, what: str) -> BatchError:
        return BatchError(f"{what}: records are missing", where=str(self._path), hint=QUERY)


class Followed:
    """A BatchSystem by the event log. Closing, opening and removing are commands of `driver`, which also is asked for
    hosts, queues and shares where `asks` says so."""

    def __init__(
        self, log: EventLog, driver: Lsf, asks: bool = False, now: Callable[[], datetime] = clock.now
    ) -> None:
        self._log, self._driver, self._asks, self._now = log, driver, asks, now

    @property
    def name(self) -> str:
        """As the driver, where that has asked."""
        return f"{self._driver.name} by its event log"

    @property
    def queries(self) -> int:
        """Commands that asked."""
        return self._driver.queries

    @property
    def position(self) -> Position | None:
        """Up to where the log was read: for the caller to keep."""
        return self._log.position

    def look(self) -> Look:
        """See BatchSystem; no command is run, but where `asks` says so."""
        state, now, tally = self._log.read(), self._now(), fresh_tally()
        on = state.count(tally, now.timestamp())
        look = Look(now, tally.pending(), tally.running(), state.seats(on), state.of_queues(), ())
        return self._driver.complete(look, on) if self._asks else look

    def close(self, host: str, reason: str) -> None:
        """See BatchSystem."""
        self._driver.close(host, reason)

    def open(self, host: str) -> None:
        """See BatchSystem."""
        self._driver.open(host)

    def remove(self, host: str) -> None:
        """See BatchSystem."""
        self._driver.remove(host)


class AccountLog:
    """`lsb.acct` in a folder, from `since` on (None: from what is there now, or from its beginning where `all`)."""

    def __init__(self, folder: Path, since: Position | None = None, whole: bool = False) -> None:
        self._path = folder / ACCOUNTS
        self._whole = whole
        self.position = since

    def jobs(self) -> Iterator[Job]:
        """The jobs that ended since the last call. BatchError where records are missing; `position` then stays behind
        the last job that was yielded."""
        with LogFile(self._path) as file:
            known = self.position
            if known is None:
                self.position = known = Position(file.inode, 0 if self._whole else file.size, file.first)
            if file.cut(known):
                raise BatchError("became shorter: records are missing", where=str(self._path), hint=QUERY)
            if file.at(known):
                yield from self._from(file, known.offset)
                return
            between = older(self._path, known)
            if not between:
                what = "is not the file that was read before, which is gone: records are missing"
                raise BatchError(what, where=str(self._path), hint=QUERY)
            for path in between:
                with LogFile(path) as old:
                    yield from self._from(old, known.offset if old.at(known) else 0)
            yield from self._from(file, 0)

    def _from(self, file: LogFile, offset: int) -> Iterator[Job]:
        self.position = Position(file.inode, offset, file.first)
        for record in file.records(offset, 0, FINISHED):
            try:
                job = job_of(job_finish(Fields(record.rest), record.time))
            except BadRecord as e:
                raise file.unread(record.line, f"of those read now can't be understood: {e}") from None
            self.position = replace(self.position, offset=record.end)
            yield job
