"""`kiosk scheduler plan`, `replay` and `simulate`: what is made of jobs of the past."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kiosk.cli.common import DryRun, Json, emit, say, settings, table
from kiosk.errors import NotFoundError, UsageError
from kiosk.progress import bar

if TYPE_CHECKING:
    from kiosk.scheduler.simulate.farm import Farm
    from kiosk.scheduler.simulate.result import Result
    from kiosk.scheduler.simulate.workload import Workload

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--scheduler-config", "--config", metavar="FILE", help="Instead of /etc/kiosk/scheduler.toml."
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="DIR", help="Draw pending jobs, nodes, utilization, shares there."),
]
KINDS = ("day", "bursts", "mixed", "weeks")


def day(text: str) -> date:
    """A date of the command line."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text[:40]!r} is not a date such as 2026-11-25") from None


def plan(
    ctx: typer.Context,
    source: Annotated[
        Path, typer.Option("--from", metavar="FILE", help="lsb.acct, the output of sacct, or a trace (SWF).")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The plan, which is replaced whole.")],
    on: Annotated[
        str | None, typer.Option("--day", metavar="DATE", help="The day to plan (UTC); else today.")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option("--like", metavar="DATE", help="The day whose jobs are taken; else the one before."),
    ] = None,
    scheduler_config: ConfigFile = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Plans a day from the jobs of the day before, and from the history where there is one: how many nodes of each type
    from when on, and why. `kiosk scheduler run --plan FILE` then runs that day without a question to the batch system.

    Example: `kiosk scheduler plan --from lsb.acct --out /var/lib/kiosk/scheduler/plan.json`
    """
    from kiosk import clock
    from kiosk.cli.scheduler import read, state_folder
    from kiosk.scheduler import dayplan
    from kiosk.scheduler.history import History

    s, file, now = settings(ctx), read(scheduler_config), clock.now()
    wanted = day(on) if on else now.astimezone(UTC).date()
    before = day(like) if like else wanted - timedelta(days=1)
    path, hours = state_folder(s).history, []
    if path.exists():
        with History(path) as history:
            hours = history.rows(now)
    with bar("jobs", None, unit=" jobs") as shown:
        made = dayplan.make(
            source, file, file.node_types(s.flavours), wanted, before, hours, now, shown.update
        )
    if not dry_run:
        made.write(out)
    if json:
        emit(made)
        return
    rows = [
        (name, f"{one.begins:%H:%M}", one.nodes, "; ".join(one.because))
        for name, stretches in made.types.items()
        for one in stretches
    ]
    table(("TYPE", "FROM (UTC)", "NODES#", "BECAUSE"), rows)
    if made.unserved:
        say(f"! {made.unserved} jobs are served by no type")
    say(f"{'would write' if dry_run else 'wrote'} {out}: {wanted}, like {before}")


def replay(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="FILE", help="lsb.acct, the output of sacct, or SWF.")],
    scheduler_config: ConfigFile = None,
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="Jobs submitted from this day on (UTC).")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="Jobs submitted before this day (UTC).")
    ] = None,
    plot: Plot = None,
    json: Json = False,
) -> None:
    """Says what the scheduler would have done with the jobs of the past and this configuration, beside what they really
    waited.

    Example: `kiosk scheduler replay /usr/share/lsf/work/c/logdir/lsb.acct --since 2026-10-01 --until 2026-11-01`
    """
    from kiosk.cli.scheduler import read
    from kiosk.scheduler.simulate import past
    from kiosk.scheduler.simulate.policies import Kiosk

    file = read(scheduler_config)
    types = file.node_types(settings(ctx).flavours)
    _drawable(plot)
    with bar("read", None, unit=" jobs") as shown:
        slots = max(t.slots for t in types.values())
        jobs = past.jobs_of(source, slots, _moment(since), _moment(until), shown.update)
    work = past.workload(source.name, jobs, file, types)
    really = past.waited(jobs)
    result, farm = _simulated(work, Kiosk, "replay")
    if plot is not None:
        _draw({"kiosk": farm}, "kiosk", plot, work.name)
    if json:
        emit(
            {
                "really": asdict(really),
                "kiosk": asdict(result),
                "types": _types(farm),
                "unserved": _lost(farm),
            }
        )
        return
    say(f"{really.first:%Y-%m-%d %H:%M} to {really.last:%Y-%m-%d %H:%M} UTC: {really.jobs:,} jobs")
    table(
        ("", "JOBS#", "WAIT: MEAN, S#", "95 OF 100, S#", "SLOT-HOURS#", "NODE-HOURS#", "IDLE#", "LAUNCHES#"),
        [
            ("really", f"{really.jobs:,}", f"{really.mean:,.0f}", f"{really.p95:,.0f}", f"{really.slot_hours:,.0f}",
             "-", "-", "-"),
            ("kiosk", f"{result.jobs:,}", f"{result.mean:,.0f}", f"{result.p95:,.0f}",
             f"{sum(p.hours.used for p in farm.pools.values()) / 3600:,.0f}", f"{result.hours:,.0f}",
             f"{result.idle / max(result.hours, 1e-9):.1%}", f"{result.launches:,}"),
        ],
    )  # fmt: skip
    say()
    table(
        ("TYPE", "MOST NODES#", "NODE-HOURS#", "LAUNCHES#"),
        [(n, t["most"], f"{t['hours']:,.0f}", f"{t['launches']:,}") for n, t in _types(farm).items()],
    )
    for lost in _lost(farm):
        say(
            f"! {lost['jobs']:,} jobs of {lost['user']} in {lost['queue']} are served by no type: {lost['reason']}"
        )


def simulate(
    ctx: typer.Context,
    source: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Accounts, as for replay.")] = None,
    synthetic: Annotated[
        str | None, typer.Option(metavar="KIND", help=f"A made-up workload instead: {', '.join(KINDS)}.")
    ] = None,
    policies: Annotated[
        str, typer.Option(metavar="NAMES", help="Which are compared, with commas between them; else all.")
    ] = "",
    scheduler_config: ConfigFile = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Of a trace without a configuration: its nodes")
    ] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="and the slots of each.")] = None,
    plot: Plot = None,
    json: Json = False,
) -> None:
    """Compares policies that decide how many nodes a farm has: kiosk's own and those of others as published.

    Example: `kiosk scheduler simulate --synthetic day --policies kiosk,purely-reactive`
    """
    from kiosk.scheduler.simulate.policies import ALL

    every = {policy.name.lower().replace(" ", "-"): policy for policy in ALL}
    names = [n.strip() for n in policies.split(",") if n.strip()] or list(every)
    if wrong := [n for n in names if n not in every]:
        raise UsageError(f"there is no policy {wrong[0]!r}", hint=f"There are: {', '.join(every)}")
    _drawable(plot)
    work = _workload(ctx, source, synthetic, scheduler_config, nodes, slots)
    found: dict[str, tuple[Result, Farm]] = {}
    for name in names:
        found[name] = _simulated(work, every[name], name)
    if plot is not None:
        first = "kiosk" if "kiosk" in found else names[0]
        _draw({name: farm for name, (_, farm) in found.items()}, first, plot, work.name)
    if json:
        emit([asdict(result) for result, _ in found.values()])
        return
    say(f"{work.name}: {len(work.tasks):,} jobs from {work.begin:%Y-%m-%d %H:%M} UTC on")
    table(
        ("POLICY", "WAIT: MEAN, S#", "95 OF 100, S#", "NODE-HOURS#", "IDLE#", "BOOT#", "WASTED#", "LAUNCHES#",
         "CHANGE / H#", "SHARES OFF#"),
        [
            (name, f"{r.mean:,.0f}", f"{r.p95:,.0f}", f"{r.hours:,.0f}", f"{r.idle / max(r.hours, 1e-9):.1%}",
             f"{r.boot / max(r.hours, 1e-9):.1%}", f"{1 - r.used / max(r.hours, 1e-9):.1%}", f"{r.launches:,}",
             f"{r.swing:,}", "-" if r.unfair is None else f"{r.unfair:.1%}")
            for name, (r, _) in found.items()
        ],
    )  # fmt: skip
    for lost in _lost(next(iter(found.values()))[1]):
        say(
            f"! {lost['jobs']:,} jobs of {lost['user']} in {lost['queue']} are served by no type: {lost['reason']}"
        )


def _workload(
    ctx: typer.Context, source: Path | None, kind: str | None, config: Path | None, nodes: int | None,
    slots: int | None,
) -> Workload:  # fmt: skip
    from kiosk.cli.scheduler import read
    from kiosk.scheduler.settings import FILE
    from kiosk.scheduler.simulate import past, synthetic

    if (source is None) == (kind is None):
        raise UsageError("name accounts, or a made-up workload", hint=f"--synthetic {'|'.join(KINDS)}")
    if source is None:
        made = {make.__name__: make for make in synthetic.ALL}.get(kind or "")
        if made is None:
            raise UsageError(f"there is no made-up workload {kind!r}", hint=f"There are: {', '.join(KINDS)}")
        return made()
    if nodes is not None or (config is None and not FILE.exists()):
        return past.trace(source, nodes, slots)
    file = read(config)
    types = file.node_types(settings(ctx).flavours)
    with bar("read", None, unit=" jobs") as shown:
        jobs = past.jobs_of(source, max(t.slots for t in types.values()), told=shown.update)
    return past.workload(source.name, jobs, file, types)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    found = day(text)
    return datetime(found.year, found.month, found.day, tzinfo=UTC)


def _simulated(work: Workload, policy: Any, what: str) -> tuple[Result, Farm]:
    from kiosk.scheduler.simulate.result import run

    if not work.tasks:
        raise NotFoundError("has no job that ran", where=work.name)
    with bar(what, len(work.tasks), unit=" jobs") as shown:
        return run(work, policy(), shown.update)


def _types(farm: Farm) -> dict[str, dict[str, Any]]:
    most = {name: max((s.nodes.get(name, 0) for s in farm.samples), default=0) for name in farm.pools}
    return {
        name: {"most": most[name], "hours": pool.hours.all / 3600, "launches": pool.launches}
        for name, pool in farm.pools.items()
    }


def _lost(farm: Farm) -> list[dict[str, Any]]:
    """Jobs that no type serves, the largest groups of them."""
    return [asdict(one) for one in farm.unserved()[:20]]


def _drawable(plot: Path | None) -> None:
    if plot is not None:
        from kiosk.scheduler.simulate.plot import available

        available()


def _draw(farms: dict[str, Farm], shown: str, folder: Path, name: str) -> None:
    from kiosk.scheduler.simulate.plot import draw

    path = folder / f"{Path(name).stem or 'farm'}.svg"
    draw(farms, shown, path)
    print(f"drew {path}", file=sys.stderr)
