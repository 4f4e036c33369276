"""`kiosk agent`: the hypervisor's daemon, one run of it, and what it is doing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kiosk.cli import common
from kiosk.cli.common import DryRun, Json, emit, say, settings, size, table
from kiosk.errors import NotFoundError


def register(app: typer.Typer) -> None:
    """Adds the command and its group."""
    group = common.app("The hypervisor's daemon.")
    group.info.no_args_is_help = False
    group.callback(invoke_without_command=True, help=agent.__doc__)(agent)
    group.command("status")(status)
    app.add_typer(group, name="agent")


def agent(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option(
            "--agent-config",
            help="The agent's file (default: /etc/kiosk/agent.toml, or [agent] of kiosk.toml).",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Do one run in the foreground, and end.")] = False,
    json: Json = False,
    dry_run: DryRun = False,
    print_orders: Annotated[bool, typer.Option("--print-orders", hidden=True)] = False,
) -> None:
    """Keeps the images that this hypervisor should hold, until SIGTERM. A service runs this.

    Example: `kiosk agent --dry-run`, then `systemctl start kiosk-agent`, then `kiosk agent status`

    Woken by the kiosk's events and by polls, it verifies, fetches (over HTTP, and from other hypervisors), switches,
    hands over and reports; docs/agent.md has its configuration. `--once` does one run and ends, with the exit
    codes of `kiosk sync`; `--dry-run` says what a run would do. SIGHUP reads the configuration anew.
    """
    if ctx.invoked_subcommand is not None:
        return
    from kiosk.agent import config, daemon

    orders = config.read(settings(ctx), file)
    if print_orders:
        print(orders.to_json())
    elif once or dry_run:
        run_once(orders, json=json, dry_run=dry_run)
    else:
        daemon.begin(orders)


def run_once(orders: Any, *, json: bool, dry_run: bool) -> None:
    """One run in the foreground."""
    from kiosk.agent.run import Job, Run
    from kiosk.agent.talk import Alone

    report = Run(Job(orders, pushed=("*",), dry_run=dry_run), Alone()).run()
    if json:
        emit({"results": [vars(r) for r in report.results], "dry_run": dry_run})
    else:
        table(
            ["name", "version", "state", "moved#", "seconds#"],
            [(r.name, r.version, r.state, size(r.moved), f"{r.seconds:.1f}") for r in report.results],
        )
        if not report.results and report.failure is None:
            say(f"The kiosk offers nothing that matches {', '.join(orders.images)}.")
    if report.failure is not None:
        raise report.failure


def status(ctx: typer.Context, json: Json = False) -> None:
    """Shows what this host's agent last said of itself: what it holds and fetches, whether it hears the kiosk, its last
    error. `kiosk agent status`"""
    from kiosk.agent.state import FILE, read

    folder = settings(ctx).host
    found = read(folder)
    if not found:
        raise NotFoundError(
            "the daemon has not run here", where=str(folder / FILE), hint="systemctl start kiosk-agent"
        )
    found["running"] = Path(f"/proc/{found.get('pid', 0)}").exists()
    if json:
        emit(found)
        return
    say(f"{found['host']}: {found['state'] if found['running'] else 'not running'}")
    if found["running"]:
        events = "hears the kiosk's events" if found["connected"] else "hears no events, and polls"
        say(f"  {events}; {'its reports are taken' if found['reported'] else 'reports nothing'}")
    if found["error"]:
        say(f"  {found['error']}")
    if fetching := found["fetching"]:
        say(
            f"  fetching {fetching['name']}@{fetching['version']}: "
            f"{size(fetching['done'])} of {size(fetching['size'])} ({fetching['transport']})"
        )
    table(
        ["name", "version", "current"],
        [(h["name"], h["version"], "yes" if h["current"] else "") for h in found["held"]],
    )
    say(
        f"{size(found['http'])} from the kiosk, {size(found['swarm'])} from other hosts, "
        f"{size(found['uploaded'])} to other hosts; {size(found['free'])} free."
    )
