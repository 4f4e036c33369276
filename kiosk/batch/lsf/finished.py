"""A job that has ended, from its record in `lsb.acct`."""

from __future__ import annotations

from kiosk.batch.api import Job
from kiosk.batch.lsf.events import Finished
from kiosk.batch.lsf.jobs import requirements
from kiosk.batch.tally import moment


def job_of(finished: Finished) -> Job:
    """The job. That it was on one host is taken from where it was, where it did not ask for that."""
    name = f"{finished.job}[{finished.index}]" if finished.index else str(finished.job)
    wanted = requirements((finished.text, "", finished.slots))
    return Job(
        name, finished.queue, finished.user, None, wanted, moment(finished.submitted),
        moment(finished.started) if finished.started else None, moment(finished.ended), finished.hosts,
    )  # fmt: skip
