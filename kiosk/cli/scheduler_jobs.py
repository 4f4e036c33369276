"""`kiosk scheduler jobs`: what became of a workload file's jobs."""

from __future__ import annotations

import typer

from kiosk.cli.common import Json, emit, say, settings, table
from kiosk.errors import NotFoundError


def jobs(ctx: typer.Context, json: Json = False) -> None:
    """Shows the jobs of a workload file (`system = "workload"`): how many wait and run, and how each ended, and where.

    Example: `kiosk scheduler jobs`
    """
    from kiosk import clock
    from kiosk.batch.workload.book import Book
    from kiosk.scheduler.state import Folder

    path = Folder(settings(ctx).home / "scheduler").workload
    if not path.exists():
        raise NotFoundError(
            "no workload has run here yet", where=str(path), hint='[batch] system = "workload"'
        )
    book = Book.read(path)
    counts = book.counts(clock.now())
    begun = [(n, i, job) for n, group in book.groups.items() for i, job in sorted(group.begun.items())]
    if json:
        emit({
            "groups": {name: dict(states) for name, states in counts.items()},
            "jobs": [{"group": n, "index": i, "state": job.state, "host": job.host, "attempt": job.attempt,
                      "status": job.status, "since": job.since.isoformat(),
                      "ended": job.ended.isoformat() if job.ended else None} for n, i, job in begun],
        })  # fmt: skip
        return
    table(
        ("JOB", "STATE", "STATUS#", "NODE", "STARTED", "TOOK#"),
        [
            (f"{n}.{i}", job.state, "-" if job.status is None else job.status, job.host,
             job.since.strftime("%H:%M:%S"),
             "-" if job.ended is None else f"{(job.ended - job.since).total_seconds():.0f} s")
            for n, i, job in begun
        ],
    )  # fmt: skip
    for name, states in counts.items():
        say(f"{name}: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
