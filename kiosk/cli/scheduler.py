"""`kiosk scheduler ...`: the right virtual nodes for what waits in the batch system."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kiosk.cli import common, scheduler_jobs
from kiosk.cli.common import Json, emit, say, settings, table
from kiosk.errors import NotFoundError

if TYPE_CHECKING:
    from kiosk.batch.api import BatchSystem
    from kiosk.cloud.qemu.driver import QemuCloud
    from kiosk.config import Settings
    from kiosk.scheduler.run import Planned, Scheduler
    from kiosk.scheduler.settings import SchedulerSettings

ConfigFile = Annotated[
    Path | None,
    typer.Option("--scheduler-config", metavar="FILE", help="Instead of /etc/kiosk/scheduler.toml."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = common.app(
        "Starts and drains virtual nodes as the jobs in the queue need them.\n\n"
        "Example: `kiosk scheduler run --observe --once`, then `kiosk scheduler explain`"
    )
    from kiosk.cli import scheduler_past as past

    for name, command in (
        ("run", run), ("status", status), ("explain", explain), ("check", check), ("jobs", scheduler_jobs.jobs),
        ("plan", past.plan), ("replay", past.replay), ("simulate", past.simulate),
    ):  # fmt: skip
        group.command(name)(command)
    app.add_typer(group, name="scheduler")


def run(
    ctx: typer.Context,
    scheduler_config: ConfigFile = None,
    once: Annotated[bool, typer.Option("--once", help="One tick, and no more.")] = False,
    observe: Annotated[
        bool,
        typer.Option(
            "--observe", "--dry-run", help="Only say what would be done: nothing is started or ended."
        ),
    ] = False,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan", metavar="FILE", help="By a plan of `kiosk scheduler plan`: no batch system is asked."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Looks at the batch system and the cloud, starts the nodes that are needed, lets those go that are not; again and
    again.

    Ends in order by SIGTERM or Ctrl-C; killed at any moment it goes on where it was. One runs for a farm at a time
    (exit code 4 for a second one).

    Example: `kiosk scheduler run --observe --once` touches nothing.
    """
    s, file = settings(ctx), read(scheduler_config)
    scheduler = made(s, file, observe=observe, plan=plan or file.batch.plan)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def told(found: dict[str, Any]) -> None:
        if json:
            emit(found)
        else:
            say("\n".join(summary(found)))

    scheduler.run(once=once, every=file.tick, wait=lambda seconds: not stop.wait(seconds), told=told)


def status(ctx: typer.Context, json: Json = False) -> None:
    """Shows what the scheduler's last tick saw and wanted, and which nodes there are.

    Example: `kiosk scheduler status`
    """
    from kiosk.scheduler.ledger import Ledger

    folder = state_folder(settings(ctx))
    found = folder.status()
    with Ledger.reading(folder.ledger) as ledger:
        nodes = sorted(ledger.nodes().values(), key=lambda n: (n.type, n.wanted))
    rows = [
        {
            "id": n.id, "type": n.type, "phase": n.phase, "image": n.image, "since": n.since.isoformat(),
            "until": n.until.isoformat() if n.until else None, "host": n.host, "where": n.where, "reason": n.reason,
        }
        for n in nodes
    ]  # fmt: skip
    if json:
        emit({**found, "nodes": rows})
        return
    say("\n".join(summary(found)))
    if rows:
        say()
        table(
            ("NODE", "PHASE", "SINCE", "IMAGE", "HOST", "REASON"),
            [
                (r["id"], r["phase"], r["since"], r["image"], r["host"] or "-", r["reason"] or "")
                for r in rows
            ],
        )


def explain(
    ctx: typer.Context,
    what: Annotated[
        str | None, typer.Argument(metavar="[TYPE|NODE]", help="A type or a node; else all types.")
    ] = None,
    json: Json = False,
) -> None:
    """Says why there are as many nodes as there are: each rule that moved a number in the last tick, and what became of
    a node.

    Example: `kiosk scheduler explain worker`
    """
    from kiosk.scheduler.ledger import Ledger

    folder = state_folder(settings(ctx))
    found = folder.status()
    if what is not None and what not in found["types"]:
        with Ledger.reading(folder.ledger) as ledger:
            events = ledger.history(what)
        if not events:
            raise NotFoundError(
                f"{what} is neither a type nor a node that the scheduler knows", hint="kiosk scheduler status"
            )
        if json:
            emit([{"at": e.at.isoformat(), "what": e.what, "note": e.note} for e in events])
        else:
            table(("AT", "WHAT", "NOTE"), [(e.at.isoformat(), e.what, e.note or "") for e in events])
        return
    types = {n: t for n, t in found["types"].items() if what in (None, n)}
    if json:
        emit({**found, "types": types})
        return
    for name, one in types.items():
        say(f"{name}: {one['target'] if one['target'] is not None else 'unknown'} nodes")
        for sentence in one["because"]:
            say(f"  {sentence}")
    for note in [*found["notes"], *found["faults"]]:
        say(f"! {note}")
    for lost in found["unserved"] if what is None else ():
        say(
            f"! {lost['jobs']} jobs of {lost['user']} in {lost['queue']} are served by no type: {lost['reason']}"
        )


def check(scheduler_config: ConfigFile = None, json: Json = False) -> None:
    """Reads the configuration and says what it means: the types, and how many nodes of each this host holds.

    Example: `kiosk scheduler check`
    """
    from kiosk.scheduler.breaker import Images
    from kiosk.scheduler.local import hypervisor
    from kiosk.scheduler.placement import Overhead, holds

    file = read(scheduler_config)
    on = hypervisor(file.cloud, Path("/var/lib"), Images())
    types = file.node_types()
    found = {name: holds(on, t.flavour, Overhead()) for name, t in types.items()}
    if json:
        emit({n: {"slots": t.slots, "memory": t.memory, "minimum": t.minimum, "maximum": t.maximum,
                  "holds": found[n].count, "why": found[n].why} for n, t in types.items()})  # fmt: skip
        return
    table(
        ("TYPE", "IMAGE", "FLAVOUR", "SLOTS#", "MIB#", "MIN#", "MAX#"),
        [(n, t.image, t.flavour, t.slots, t.memory, t.minimum, t.maximum) for n, t in types.items()],
    )
    for name in types:
        say(f"{name}: {found[name].why}")


def summary(found: dict[str, Any]) -> list[str]:
    """A tick in a few lines."""
    lines = [f"{found['at']}  {'observed' if found['observes'] else 'tick'} of {found['seconds']:.2f} s"]
    for name, one in found["types"].items():
        nodes = ", ".join(f"{count} {phase}" for phase, count in sorted(one["nodes"].items())) or "none"
        target = "unknown" if one["target"] is None else one["target"]
        needed = "" if one["needed"] is None else f", {one['needed']:.1f} needed"
        lines.append(f"  {name}: {target} wanted{needed}; {nodes}")
    done: dict[str, int] = {}
    for effect in found["effects"]:
        done[f"{effect['what']} {effect['outcome']}"] = (
            done.get(f"{effect['what']} {effect['outcome']}", 0) + 1
        )
    if done:
        lines.append("  " + ", ".join(f"{count} {what}" for what, count in sorted(done.items())))
    return [*lines, *(f"  ! {fault}" for fault in found["faults"])]


def read(file: Path | None) -> SchedulerSettings:
    """The scheduler's configuration."""
    from kiosk.scheduler.settings import FILE, SchedulerSettings

    return SchedulerSettings.read(file or FILE)


def state_folder(s: Settings) -> Any:
    """Where the scheduler keeps its things."""
    from kiosk.scheduler.state import Folder

    return Folder(s.home / "scheduler")


def planned(file: SchedulerSettings, plan: Path) -> Planned:
    """What a plan says at a moment. It is read again each time: it is replaced when it is over. An error where it does
    not hold now."""
    from kiosk import clock
    from kiosk.scheduler.dayplan import DayPlan, configuration

    mine = configuration(file)
    DayPlan.read(plan).targets(clock.now(), mine, str(plan))
    return lambda now: DayPlan.read(plan).targets(now, mine, str(plan))


def made(s: Settings, file: SchedulerSettings, *, observe: bool, plan: Path | None = None) -> Scheduler:
    """The scheduler of a configuration, on this host; with a plan, no batch system is asked."""
    from kiosk.cloud.hostcache import HostCache
    from kiosk.cloud.qemu.driver import QemuCloud
    from kiosk.scheduler.breaker import BreakerLimits
    from kiosk.scheduler.local import LIMITS
    from kiosk.scheduler.plan import Rules
    from kiosk.scheduler.run import Scheduler
    from kiosk.scheduler.tick import Farm
    from kiosk.scheduler.unasked import Unasked

    cache, capacity = HostCache(s.host), file.most()
    cloud = QemuCloud(s.vms, cache)
    rules = Rules(
        prefix=file.cloud.prefix,
        cloud=file.cloud.driver,
        limits=LIMITS,
        breaker=BreakerLimits(canaries=file.canary.nodes, idle_promotion=file.canary.idle),
        nodes=capacity.nodes,
        cores=capacity.cores,
    )
    return Scheduler(
        farm=Farm(file.node_types(s.flavours), file.rules, capacity, rules),
        folder=state_folder(s),
        planned=None if plan is None else planned(file, plan),
        batch=asked(s, file, cloud, observe=observe) if plan is None else Unasked(cloud, file.cloud.prefix),
        cloud=cloud,
        cache=cache,
        metadata=s.host / "metadata",
        table=file.cloud,
        vms=s.vms,
        contexts={name: t.context for name, t in file.types.items() if t.context is not None},
        observes=observe,
    )


def asked(s: Settings, file: SchedulerSettings, cloud: QemuCloud, *, observe: bool) -> BatchSystem:
    """The batch system of a configuration."""
    from kiosk.batch.configured import batch_system
    from kiosk.batch.workload.driver import Workload
    from kiosk.scheduler.guests import FarmGuests
    from kiosk.scheduler.unasked import Logged

    batch = file.batch
    if batch.system != "workload":
        found = batch_system(batch.system, batch.commands, batch.events, batch.timeout)
        return found if batch.events is None else Logged(found, cloud, file.cloud.prefix)
    assert batch.file is not None
    guests = FarmGuests(cloud, file.node_types(s.flavours), file.cloud.prefix)
    return Workload(batch.file, state_folder(s).workload, guests, batch.timeout, observe)
