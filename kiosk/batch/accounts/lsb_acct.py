"""LSF's accounts: the files `lsb.acct`, `lsb.acct.1`, ... of its log directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kiosk.batch.api import Job
from kiosk.batch.lsf.events import BadRecord, Fields, job_finish
from kiosk.batch.lsf.finished import job_of
from kiosk.batch.lsf.log import LogFile


class LsbAcct:
    """The jobs of one file; see Accounts. Records of other kinds than JOB_FINISH are passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def jobs(self) -> Iterator[Job]:
        """See Accounts."""
        with LogFile(self._path) as file:
            for record in file.records(0, 0, frozenset({b"JOB_FINISH"})):
                try:
                    yield job_of(job_finish(Fields(record.rest), record.time))
                except BadRecord as e:
                    raise file.unread(record.line, f"can't be understood: {e}") from None
