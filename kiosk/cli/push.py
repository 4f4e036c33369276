"""`kiosk push`: hosts are asked to fetch images now, and shown while they do."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from kiosk.cli.common import DryRun, Json, emit, say, settings, table
from kiosk.cli.fleet import ago, opened
from kiosk.errors import KioskError, NetworkError, NotFoundError, UsageError

if TYPE_CHECKING:
    from kiosk.fleet.catalogue import Catalogue
    from kiosk.fleet.database import Database, Host
    from kiosk.fleet.pushes import Push, State

LOOK = 0.5
SHOWN = 30


def register(app: typer.Typer) -> None:
    """Adds `push`."""
    app.command("push")(push)


def push(
    ctx: typer.Context,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Images or layers, by name.")],
    hosts: Annotated[
        str | None, typer.Option("--hosts", metavar="PATTERN,...", help="Only hosts that match: 'rack1-*'.")
    ] = None,
    waves: Annotated[
        str, typer.Option(metavar="PERCENT,...", help="Shares of the hosts, one after the other: 10,100.")
    ] = "100",
    every: Annotated[str, typer.Option(metavar="TIME", help="Time between waves: 30s, 5m, 1h.")] = "5m",
    detach: Annotated[bool, typer.Option("--detach", help="Ask, and don't wait.")] = False,
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="How long hosts are asked and waited for.")
    ] = "1h",
    ssh: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Push over ssh to a host that may not connect out (repeatable)."),
    ] = None,
    ssh_config: Annotated[
        Path | None, typer.Option(help="ssh's configuration file (default: the user's).")
    ] = None,
    remote: Annotated[
        str, typer.Option(metavar="COMMAND", help="kiosk on the host of --ssh: 'sudo -n kiosk'.")
    ] = "kiosk",
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Asks agents to fetch the newest version now, and shows each host until all have it or have failed.

    Example: `kiosk push debian-12-worker --hosts 'rack1-*' --waves 10,100 --every 5m`

    Example: `kiosk push --ssh root@hv-3 debian-12-worker`

    Agents that are connected begin within a second; what they hold follows from signed metadata alone. Hosts that
    were lost already (no report for 20 minutes) are named and not waited for; one that says nothing for 7 ½ minutes is
    silent, and not waited for either. Ends with 0 when all have it, 1 when some have failed, 8 when
    some are silent or have not finished in time; interrupted, no further host is asked.
    """
    s = settings(ctx)
    if not s.repository.is_dir():
        raise NotFoundError(
            "there is no repository here", where=str(s.repository), hint="Run it on the kiosk."
        )
    if ssh:
        if hosts or detach or dry_run or waves != "100":
            raise UsageError("--ssh goes with none of --hosts, --waves, --detach and --dry-run")
        from kiosk.cli.push_ssh import over_ssh

        over_ssh(s, ssh, images, ssh_config, shlex.split(remote), duration(timeout), json=json)
        return
    from kiosk.fleet import catalogue
    from kiosk.fleet.pushes import Push

    offered = catalogue.current(s.repository)
    for image in images:
        if image not in offered.newest:
            hint = "Name it without a version: the newest is pushed." if "@" in image else "See: kiosk list"
            raise NotFoundError(f"{image} is not in the repository", where=str(s.repository), hint=hint)
    now = time.time()
    wanted = Push(
        id=0,
        images=tuple(dict.fromkeys(images)),
        hosts=tuple(p for p in (hosts or "").split(",") if p),
        waves=shares(waves),
        every=duration(every),
        created=now,
        expires=now + duration(timeout),
    )
    with opened(s) as database:
        run = Run(database, offered, wanted)
        lost = run.lost()
        if dry_run:
            would_ask(run, lost, json=json)
            return
        if not run.hosts() and not detach:
            what = f"no host that has reported lately matches{f' (lost: {few(lost)})' if lost else ''}"
            raise NotFoundError(what, hint="See: kiosk fleet status")
        run.push = database.add_push(wanted)
        if detach:
            emit({"push": run.push.id}) if json else say(f"Push {run.push.id} began.")
            return
        if lost and not json:
            say(f"Lost, and not waited for: {few(lost)}.")
        try:
            states = follow(run, json=json)
        finally:
            database.end_push(run.push.id, time.time())
    end(run.push, states, lost, json=json)


@dataclass
class Run:
    """A push that is followed."""

    database: Database
    offered: Catalogue
    push: Push
    now: Callable[[], float] = time.time

    def hosts(self) -> list[Host]:
        """The hosts that are followed: those that match, are not lost, and are offered one of the images."""
        return [h for h in self.meant() if not self.is_lost(h)]

    def lost(self) -> list[str]:
        """The hosts that match and are lost, or never reported."""
        return [h.host for h in self.meant() if self.is_lost(h)]

    def meant(self) -> list[Host]:
        """All that match and are offered one of the images."""
        return [h for h in self.database.hosts() if self.push.matches(h.host) and self.wanted(h.host)]

    def is_lost(self, host: Host) -> bool:
        """Whether it has not reported for long."""
        from kiosk.model.report import LOST, REPORT_SECONDS

        return not host.reported or host.reported <= self.now() - LOST * REPORT_SECONDS

    def wanted(self, host: str) -> list[tuple[str, str]]:
        """The versions that a host is to hold."""
        found = [(name, self.offered.offered(name, host)) for name in self.push.images]
        return [(name, version) for name, version in found if version is not None]

    def missing(self, host: Host) -> list[str]:
        """NAME@VERSION of those that a host does not have."""
        held = {f"{h.name}@{h.version}" for h in host.report.held} if host.report else set()
        return [
            one
            for one in (f"{name}@{version}" for name, version in self.wanted(host.host))
            if one not in held
        ]

    def states(self, hosts: list[Host]) -> dict[str, State]:
        """How far each is."""
        from kiosk.fleet.pushes import progress

        now = self.now()
        return {
            h.host: progress(self.push, h.host, h.report, h.reported, self.wanted(h.host), now) for h in hosts
        }


def would_ask(run: Run, lost: list[str], *, json: bool) -> None:
    """Says who would be asked, and what each would be asked for that it does not have."""
    found = {h.host: run.missing(h) for h in run.hosts()}
    if json:
        emit({"images": run.push.images, "hosts": found, "lost": lost, "dry_run": True})
        return
    table(["host", "would fetch"], [(host, " ".join(missing)) for host, missing in found.items()])
    say(f"{len(found)} hosts would be asked; {sum(map(bool, found.values()))} lack something.")
    if lost:
        say(f"Lost, and not waited for: {few(lost)}.")


def follow(run: Run, *, json: bool) -> dict[str, State]:
    """Shows the hosts until all have finished, are silent or lost, or the push is over; how far each is then."""
    states: dict[str, State] = {}
    shown = sys.stdout.isatty() and not json
    with ExitStack() as stack:
        live = stack.enter_context(Live(console=Console(markup=False), auto_refresh=False)) if shown else None
        while True:
            hosts = run.hosts()
            before, states = states, states | run.states(hosts)
            if live is not None:
                live.update(picture(hosts, states, run.now()), refresh=True)
            elif not json:
                for host in hosts:
                    if before.get(host.host) != states[host.host]:
                        say(f"{host.host}: {states[host.host]}{detail(host, states[host.host], run.now())}")
            waited_for = [states[h.host] for h in hosts]
            if all(s in ("done", "failed", "silent") for s in waited_for) or run.push.over(run.now()):
                return states
            time.sleep(LOOK)


def picture(hosts: list[Host], states: dict[str, State], now: float) -> Table:
    """The hosts on a terminal: those that work first, and a line of counts."""
    order = {"fetching": 0, "failed": 1, "silent": 2, "asked": 3, "later": 4, "done": 5}
    rows = sorted(hosts, key=lambda h: (order[states[h.host]], h.host))
    grid = Table(box=None, pad_edge=False, show_header=False, caption=counts(states), caption_justify="left")
    for host in rows[:SHOWN]:
        grid.add_row(host.host, states[host.host], detail(host, states[host.host], now))
    return grid


def detail(host: Host, state: State, now: float) -> str:
    """What is on its way to a host, or what it complains of."""
    from kiosk.cloud.untrusted import line

    if state == "silent":
        return f", nothing heard for {ago(now - (host.reported or 0))}"
    if host.report is None:
        return ""
    busy = host.report.fetching
    if busy is not None:
        return f" {busy.name}@{busy.version} {100 * busy.done // max(1, busy.size)}% by {busy.transport}"
    return f" {line(host.report.error, limit=120)}" if host.report.error else ""


def counts(states: dict[str, State]) -> str:
    """The hosts in numbers."""
    names: list[State] = ["done", "fetching", "asked", "later", "silent", "failed"]
    found = [(name, sum(s == name for s in states.values())) for name in names]
    return f"{len(states)} hosts: " + ", ".join(f"{n} {name}" for name, n in found if n)


def end(push: Push, states: dict[str, State], lost: list[str], *, json: bool) -> None:
    """Says what became of a push, and raises where it did not reach all."""
    if json:
        emit({"push": push.id, "images": push.images, "hosts": states, "lost": lost})
    else:
        say(f"Push {push.id}: {counts(states)}.")
    failed = sorted(h for h, s in states.items() if s == "failed")
    silent = sorted(h for h, s in states.items() if s == "silent")
    late = sorted(h for h, s in states.items() if s not in ("done", "failed", "silent"))
    if failed:
        raise KioskError(
            f"{len(failed)} of {len(states)} hosts failed: {few(failed)}", hint="See: kiosk fleet status"
        )
    what = [f"{few(late)} have not finished in time"] if late else []
    what += [f"{few(silent)} have said nothing since they were asked"] if silent else []
    if what:
        raise NetworkError(
            f"{len(late) + len(silent)} of {len(states)} hosts do not have it yet: {'; '.join(what)}",
            hint="What runs there goes on by itself; see: kiosk fleet status",
        )


def few(names: list[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def duration(text: str) -> float:
    """Seconds of a time such as 30s, 5m, 1h or 90; UsageError where it is none."""
    match = re.fullmatch(r"([0-9]{1,6})(s|m|h)?", text)
    if match is None or int(match[1]) == 0:
        raise UsageError(f"{text!r} is not a time", hint="For example 30s, 5m, 1h")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


def shares(text: str) -> tuple[int, ...]:
    """Percentages that grow to 100; UsageError where they don't."""
    words = text.split(",")
    if all(re.fullmatch("[0-9]{1,3}", w) for w in words):
        found = tuple(map(int, words))
        if found[-1] == 100 and found[0] > 0 and all(a < b for a, b in itertools.pairwise(found)):
            return found
    raise UsageError(f"{text!r} are no waves", hint="Percentages that grow to 100, for example 10,50,100")
