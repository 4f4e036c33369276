"""`kiosk rollout ...`: a new version to a few hosts first, then to more, while those that have it are well."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kiosk.cli import common
from kiosk.cli.common import DryRun, Json, emit, passphrase_source, say, settings, table
from kiosk.cli.key import PassphraseFile
from kiosk.config import Settings
from kiosk.errors import BusyError, UsageError
from kiosk.log import logger

if TYPE_CHECKING:
    from kiosk.model.names import Ref
    from kiosk.model.rollout import Rollout
    from kiosk.rollout.driver import Look
    from kiosk.rollout.plan import Plan
    from kiosk.rollout.record import Record
    from kiosk.rollout.sign import Order
    from kiosk.trust.signing.repository import Repository, Signature

log = logger(__name__)
Name = Annotated[str, typer.Argument(metavar="NAME", help="An image or a layer.")]
Stages = Annotated[
    str | None, typer.Option(metavar="SHARES", help="Shares, and how long each holds: 5%/1h,25%,100%.")
]
Hold = Annotated[str | None, typer.Option(metavar="TIME", help="How long a stage holds: 90s, 30m, 2h.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Hosts that have it from the first stage on (several times)."),
]
MaxFailed = Annotated[
    str | None, typer.Option(metavar="SHARE", help="Abort when more of a stage's hosts fail it: 10%.")
]
WATCH = 2.0


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = common.app(
        "Roll-outs: a new version goes to a few hosts first, then to more.\n\n"
        "Example: `kiosk publish debian-12-worker --rollout`, then `kiosk rollout status --watch`"
    )
    for name, command in (
        ("start", start),
        ("status", status),
        ("pause", pause),
        ("resume", resume),
        ("abort", abort),
        ("finish", finish),
        ("end", end),
        ("run", run),
    ):
        group.command(name)(command)
    app.add_typer(group, name="rollout")


def start(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A published version.")],
    stages: Stages = None,
    hold: Hold = None,
    hosts: Hosts = None,
    max_failed: MaxFailed = None,
    recall: Annotated[
        bool, typer.Option("--recall", help="Also where all hosts are offered it already: most go back.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Begins the roll-out of a published version.

    Hosts outside of the first stage stay at what they have. `kiosk publish NAME --rollout` does both at once.

    Example: `kiosk rollout start debian-12-worker --stages 5%,25%,100% --hold 30m`
    """
    from kiosk.model.names import parse_ref
    from kiosk.rollout import sign

    s, ref = settings(ctx), parse_ref(name)
    plan = plan_of(s, ref, stages=stages, hold=hold, hosts=hosts, max_failed=max_failed)
    repository = writer(s, passphrase_file)
    with repository.locked():
        begun, done = sign.start(s, repository, ref, plan, recall=recall, dry_run=dry_run)
    show_order(begun, done, json=json, dry_run=dry_run, plan=plan)


def status(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="An image or a layer; else all.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until none is running.")] = False,
    json: Json = False,
) -> None:
    """Shows roll-outs, and of one what was found so far.

    Example: `kiosk rollout status debian-12-worker --watch`
    """
    s = settings(ctx)
    found = known(s, name)
    if json and not watch:
        emit([as_json(*one) for one in found])
    elif watch:
        follow(s, name, json=json)
    elif not found:
        say("Nothing is rolled out: hosts go by the newest version of each name.")
    else:
        show(found)
        if name is not None:
            show_history(found[0][1])


def pause(
    ctx: typer.Context,
    name: Name,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Stays at the share that is reached, until `resume`. `kiosk rollout pause debian-12-worker`"""
    from kiosk.rollout import orders

    ordered(ctx, name, orders.pause, passphrase_file, json=json, dry_run=dry_run)


def resume(
    ctx: typer.Context,
    name: Name,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Goes on after `pause`. `kiosk rollout resume debian-12-worker`"""
    from kiosk.rollout import orders

    ordered(ctx, name, orders.resume, passphrase_file, json=json, dry_run=dry_run)


def abort(
    ctx: typer.Context,
    name: Name,
    reason: Annotated[str, typer.Option(help="Why; it is signed and shown.")] = "ordered by a person",
    passphrase_file: PassphraseFile = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Returns all hosts to the version before. `kiosk rollout abort debian-12-worker --reason "jobs fail"`"""
    from kiosk.rollout import orders

    if not reason.isprintable() or len(reason) > 400:
        raise UsageError("a reason is one line of at most 400 characters")
    ordered(ctx, name, lambda r: orders.abort(r, reason), passphrase_file, json=json, dry_run=dry_run)


def finish(
    ctx: typer.Context,
    name: Name,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Offers the version to all hosts now. `kiosk rollout finish debian-12-worker`"""
    from kiosk.rollout import orders

    ordered(ctx, name, orders.finish, passphrase_file, json=json, dry_run=dry_run)


def end(
    ctx: typer.Context,
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Also where hosts would get another version by it.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Takes a roll-out away: hosts go by the newest version again. `kiosk rollout end debian-12-worker`"""
    from kiosk.model.names import parse_ref
    from kiosk.rollout import sign

    s = settings(ctx)
    ref = sign.unversioned(parse_ref(name))
    repository = writer(s, passphrase_file)
    with repository.locked():
        there, done = sign.end(s, repository, ref, force=force, dry_run=dry_run)
    if json:
        emit({"name": there.name, "ended": not dry_run, "dry_run": dry_run})
        return
    say(f"Would end the roll-out of {ref}." if dry_run else f"{ref} has no roll-out any more.")
    show_signed(done)


def run(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    every: Annotated[float, typer.Option(min=1, max=600, help="Seconds between two looks.")] = 30,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Looks at the health of the hosts and signs the next step where it is due. A service runs this.

    Example: `kiosk rollout run --once --dry-run`
    """
    from kiosk.rollout.driver import Driver
    from kiosk.rollout.plan import plans_file, read_plans
    from kiosk.rollout.reports import FleetReports
    from kiosk.trust.names import ROLLOUTS

    s = settings(ctx)
    repository = writer(s, passphrase_file)
    driver = Driver(s, repository, FleetReports(s), read_plans(plans_file(s)))
    if not dry_run:
        with repository.locked():
            repository.role(ROLLOUTS)
            repository.open_keys(ROLLOUTS, "snapshot", "timestamp")
    for turn in itertools.count():
        if turn:
            time.sleep(every)
        try:
            looks = driver.look(dry_run=dry_run)
        except BusyError as e:
            if once:
                raise
            log.warning("%s", e.what)
            continue
        show_looks(looks, json=json)
        if once:
            return


# -- what they share ----------------------------------------------------------------------------------


def writer(s: Settings, passphrase_file: Path | None) -> Repository:
    """The repository of this host, to sign."""
    from kiosk.trust.signing.keys import Keys
    from kiosk.trust.signing.repository import Repository

    return Repository(s.repository, Keys(s.keys), passphrase_source(passphrase_file))


def plan_of(
    s: Settings,
    ref: Ref,
    *,
    stages: str | None = None,
    hold: str | None = None,
    hosts: list[str] | None = None,
    max_failed: str | None = None,
) -> Plan:
    """The plan of the settings for a name, with a command's options over it."""
    from kiosk.rollout.plan import plans_file, read_plans

    over: dict[str, Any] = {"hold": hold, "hosts": hosts or None, "max_failed": max_failed}
    over["stages"] = [w.strip() for w in stages.split(",")] if stages else None
    return read_plans(plans_file(s)).of(ref.base, {k: v for k, v in over.items() if v is not None})


def ordered(
    ctx: typer.Context, name: str, give: Order, passphrase_file: Path | None, *, json: bool, dry_run: bool
) -> None:
    """Signs an order and shows what it made."""
    from kiosk.model.names import parse_ref
    from kiosk.rollout import sign

    s = settings(ctx)
    ref = sign.unversioned(parse_ref(name))
    repository = writer(s, passphrase_file)
    with repository.locked():
        made, done = sign.order(s, repository, ref, give, dry_run=dry_run)
    show_order(made, done, json=json, dry_run=dry_run)


def offer(r: Rollout) -> str:
    """Who is offered what, in a sentence."""
    from kiosk.model.rollout import WHOLE
    from kiosk.rollout.plan import percent

    before = f"{r.name}@{r.before}" if r.before else "no version"
    if r.state == "aborted":
        return f"all hosts are offered {before}"
    if r.state == "done" or r.share == WHOLE:
        return f"all hosts are offered {r.name}@{r.version}"
    named = f", and {', '.join(r.hosts)}," if r.hosts else ""
    return f"{percent(r.share)} of the hosts{named} are offered {r.name}@{r.version}, the others {before}"


def show_order(
    made: Rollout, done: list[Signature], *, json: bool, dry_run: bool, plan: Plan | None = None
) -> None:
    """Says what was (or would be) signed."""
    if json:
        emit({"rollout": made, "dry_run": dry_run, "signatures": [vars(g) for g in done]})
        return
    would = "Would sign: " if dry_run else ""
    say(f"{would}{made.name}@{made.version} {made.state}: {offer(made)}.")
    if plan is not None:
        say(stages_line(plan))
    show_signed(done)


def stages_line(plan: Plan) -> str:
    """The stages of a plan in a line."""
    from kiosk.rollout.plan import duration, percent

    return "Stages: " + ", ".join(
        f"{percent(g.share)} for {duration(plan.hold_of(g.share))}" for g in plan.stages
    )


def show_signed(done: list[Signature]) -> None:
    """Says what was signed."""
    if done:
        say("Signed " + ", ".join(f"{g.role} {g.version}" for g in done) + ".")


def known(s: Settings, name: str | None) -> list[tuple[Rollout, Record | None]]:
    """The signed roll-outs, with what is remembered of each."""
    from kiosk.model.names import parse_ref
    from kiosk.publish import signed
    from kiosk.rollout import orders, record, sign
    from kiosk.trust.signing.keys import Keys
    from kiosk.trust.signing.repository import Repository

    repository = Repository(s.repository, Keys(s.keys), lambda _: b"")
    if name is not None:
        ref = sign.unversioned(parse_ref(name))
        found = [orders.existing(signed.rollout(repository, ref), ref)]
    else:
        found = sorted((r for _, r in signed.rollouts(repository)), key=lambda r: r.name)
    made = []
    for r in found:
        there = record.read(record.path_of(s, parse_ref(r.name)))
        made.append((r, there if there is not None and there.version == r.version else None))
    return made


def as_json(r: Rollout, there: Record | None) -> dict[str, Any]:
    """A roll-out and its record for programs."""
    kept = None if there is None else there.model_dump(mode="json", exclude={"hosts"}, exclude_none=True)
    return {"rollout": r, "record": kept}


def row(r: Rollout, there: Record | None) -> list[object]:
    """A roll-out as a line of the table."""
    from kiosk.rollout.plan import percent

    look = there.looked if there is not None else None
    counts = [look.done, look.failed, look.working, look.silent] if look else ["-"] * 4
    said = r.reason or (look.said if look is not None and r.state == "running" else "")
    share = "-" if r.state == "aborted" else percent(r.share)
    return [f"{r.name}@{r.version}", r.before or "-", r.state, share, *counts, said]


def show(found: list[tuple[Rollout, Record | None]]) -> None:
    """A table of roll-outs."""
    columns = ["version", "before", "state", "share#", "have it#", "failed#", "fetching#", "silent#", ""]
    table(columns, [row(*one) for one in found])


def show_history(there: Record | None) -> None:
    """What was found in the course of one roll-out."""
    from kiosk.rollout.plan import percent

    if there is None:
        return
    say()
    say(stages_line(there.plan))
    rows = [
        (f"{e.at:%Y-%m-%d %H:%M:%S}", percent(e.share), e.done, e.failed, e.working, e.silent, e.said)
        for e in there.history[-20:]
    ]
    table(["UTC", "share#", "have it#", "failed#", "fetching#", "silent#", ""], rows)


def follow(s: Settings, name: str | None, *, json: bool) -> None:
    """Prints what changes until no roll-out is running."""
    seen: dict[str, object] = {}
    while True:
        found = known(s, name)
        for r, there in found:
            now = row(r, there)
            if seen.get(r.name) == now:
                continue
            seen[r.name] = now
            if json:
                emit(as_json(r, there))
            else:
                version, _, state, share, done, failed, working, silent, said = now
                counts = f"{done} have it, {failed} failed, {working} fetching, {silent} silent"
                say(f"{version} {state} {share}: {counts}" + (f"; {said}" if said else ""))
        if not any(r.state == "running" for r, _ in found):
            return
        time.sleep(WATCH)


def show_looks(looks: list[Look], *, json: bool) -> None:
    """What one look found, a line for each roll-out."""
    from kiosk.rollout.plan import percent

    if json:
        emit(
            [
                {"before": k.before, "health": vars(k.health), "move": k.step.move, "said": k.step.said}
                for k in looks
            ]
        )
        return
    for k in looks:
        say(f"{k.before.name}@{k.before.version} {percent(k.before.share)}: {k.step.said}")
