"""`kiosk fleet ...`: the hosts that report, and their tokens."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from kiosk.cli import common
from kiosk.cli.common import Json, emit, say, settings, size, table
from kiosk.config import Settings
from kiosk.errors import NotFoundError

if TYPE_CHECKING:
    from kiosk.fleet.database import Database
    from kiosk.fleet.status import HostStatus

EVERY = 2.0


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = common.app("The hypervisors that report to this kiosk.\n\nExample: `kiosk fleet status --watch`")
    group.command("status")(status)
    group.command("token")(token)
    group.command("forget")(forget)
    app.add_typer(group, name="fleet")


def status(
    ctx: typer.Context,
    host: Annotated[
        str, typer.Option(metavar="PATTERN", help="Only hosts whose names match: 'rack3-*'.")
    ] = "*",
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Shows the hosts that report here, those that need a look first. `kiosk fleet status --watch`

    A host is online while it reports (every five minutes at least), then late, lost after twenty minutes, and
    silent if it asked for something but never sent a report. `behind` are names of which it lacks the version that
    it is offered. Byte counts are since the agents' starts.
    """
    from kiosk.fleet import status as fleet

    s = settings(ctx)
    with opened(s) as database:
        while True:
            found = [h for h in read(s, database) if fnmatchcase(h.host, host)]
            if watch and sys.stdout.isatty() and not json:
                Console().clear()
                say(f"{time.strftime('%H:%M:%S')}, every {EVERY:.0f} s until Ctrl-C\n")
            if json:
                emit(fleet.fleet(found))
            else:
                show(found)
            if not watch:
                return
            time.sleep(EVERY)


def token(
    ctx: typer.Context,
    hosts: Annotated[list[str], typer.Argument(metavar="HOST...", help="The hosts' names.")],
    json: Json = False,
) -> None:
    """Prints hosts' tokens, by which they sign their reports. `kiosk fleet token hv-17 > token`

    A token is a secret: put it on its host, readable by the agent alone. One host's says nothing of another's.
    """
    from kiosk.fleet.tokens import FleetKey

    key = FleetKey.of(settings(ctx).fleet_key)
    found = {host: key.token(host) for host in hosts}
    if json:
        emit(found)
        return
    for host, text in found.items():
        say(text if len(found) == 1 else f"{host} {text}")


def forget(ctx: typer.Context, host: Annotated[str, typer.Argument(metavar="HOST")]) -> None:
    """Removes a host that is no more. It comes back if it reports again. `kiosk fleet forget hv-17`"""
    with opened(settings(ctx)) as database:
        if not database.forget(host):
            raise NotFoundError(f"no host {host!r} has reported", hint="`kiosk fleet status` lists them.")
    say(f"{host} is forgotten.")


@contextmanager
def opened(s: Settings) -> Iterator[Database]:
    """The fleet database."""
    from kiosk.fleet.database import Database

    database = Database.of(s)
    try:
        yield database
    finally:
        database.close()


def read(s: Settings, database: Database) -> list[HostStatus]:
    """All hosts as they are now."""
    from kiosk.fleet import catalogue, status

    return status.statuses(database.hosts(), catalogue.current(s.repository), time.time())


def show(found: list[HostStatus]) -> None:
    """Prints the hosts and a line of counts."""
    from kiosk.cloud.untrusted import line
    from kiosk.fleet.status import summary

    table(
        ["host", "state", "seen", "does", "holds#", "behind", "fetches", "error"],
        [
            (
                h.host,
                h.state,
                "never" if h.age is None else ago(h.age),
                h.doing,
                len(h.held),
                " ".join(h.behind),
                f"{h.fetching} {100 * h.done // max(1, h.size)}% {h.transport}" if h.fetching else "",
                line(h.error or " ".join(h.failed), limit=100),
            )
            for h in found
        ],
    )
    s = summary(found)
    states = ", ".join(f"{n} {state}" for state, n in s.states.items() if n)
    if not found:
        say(
            "No host has reported here. Hosts do once they have a token: kiosk fleet token HOST, docs/fleet.md."
        )
        return
    say(f"{s.hosts} hosts: {states}; {s.behind} behind, {s.failing} with errors.")
    say(
        f"Since their agents started: {size(s.origin_bytes)} from the kiosk, {size(s.swarm_bytes)} from each other."
    )


def ago(seconds: float) -> str:
    """An age for people: 12 s, 5 min, 3 h, 2 d."""
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
