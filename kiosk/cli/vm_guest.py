"""`kiosk vm drain`, `stop`, `console`, `exec`: what is done to a VM that runs."""

from __future__ import annotations

from typing import Annotated

import typer

from kiosk.cli.common import DryRun, Json, say
from kiosk.cli.vm_common import Which, cloud, seconds
from kiosk.errors import GuestError, UsageError


def drain(
    ctx: typer.Context,
    vm: Annotated[list[str] | None, typer.Argument(metavar="VM...", help="Ids or names.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All VMs on this host that are ready.")] = False,
    reason: Annotated[
        str, typer.Option(help="Why: one line that the guest and its farm report.")
    ] = "asked for on the hypervisor",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they have stopped.")] = False,
    timeout: Annotated[str, typer.Option(help="How long to wait for that: 24h, 90m.")] = "25h",
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Has VMs take no new jobs, wait for those that run, leave their farm and power off. No job is lost.

    `kiosk vm drain node-1 --reason "new kernel" --wait`
    """
    from kiosk.cli import vm_drain

    if bool(vm) == all_:
        raise UsageError("name the VMs to drain, or --all", hint="kiosk vm drain node-1")
    if not reason.strip() or not reason.isprintable() or len(reason) > 500:
        raise UsageError("the reason is not one line of at most 500 characters")
    order = vm_drain.Order(
        cloud(ctx), tuple(dict.fromkeys(vm or ())), reason, seconds(timeout) if wait else None
    )
    vm_drain.run(order, json=json, dry_run=dry_run)


def stop(
    ctx: typer.Context,
    vm: Annotated[list[str] | None, typer.Argument(metavar="VM...", help="Ids or names.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All VMs on this host.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the guest to shut down.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Ends VMs and removes what is left of them; asks each guest to shut down first.

    `kiosk vm stop node-1` or `kiosk vm stop --all --now`
    """
    from concurrent.futures import ThreadPoolExecutor

    driver = cloud(ctx)
    if bool(vm) == all_:
        raise UsageError("name the VMs to stop, or --all", hint="kiosk vm stop node-1")
    found = driver.list_vms() if all_ else [driver.find(one) for one in dict.fromkeys(vm or ())]
    if dry_run:
        for state in found:
            say(f"would stop {state.id} {state.name} ({state.phase})")
        return
    with ThreadPoolExecutor(max_workers=8) as pool:
        for state, done in [(s, pool.submit(driver.stop, s.id, now=now)) for s in found]:
            done.result()
            say(f"stopped {state.id} {state.name}")


def console(
    ctx: typer.Context,
    vm: Which,
    log: Annotated[bool, typer.Option("--log", help="Print what was written there so far.")] = False,
) -> None:
    """Attaches this terminal to the VM's serial console; Ctrl-] leaves it.

    `kiosk vm console node-1 --log`
    """
    from kiosk.cloud.qemu import argv, terminal

    driver = cloud(ctx)
    folder = driver.folder(driver.find(vm).id)
    if log:
        terminal.print_log(folder / argv.CONSOLE_LOG)
    else:
        terminal.attach(folder / argv.CONSOLE)


def execute(
    ctx: typer.Context,
    vm: Which,
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="The command and its arguments.")
    ],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for its end.")] = 300,
) -> None:
    """Runs a command in the VM, as root, through its guest agent; ends with the command's exit code.

    `kiosk vm exec node-1 -- cat /run/kiosk/attestation.json`
    """
    import sys

    from kiosk.cloud import untrusted
    from kiosk.cloud.qemu import agent, argv

    driver = cloud(ctx)
    state = driver.find(vm)
    if state.phase in ("failed", "stopped"):
        raise GuestError(f"the VM {state.name} is {state.phase}", hint=f"See `kiosk vm show {state.id}`.")
    result = agent.execute(driver.folder(state.id) / argv.AGENT, command, timeout=timeout)
    for stream, data in ((sys.stdout, result.stdout), (sys.stderr, result.stderr)):
        if stream.isatty():
            stream.write(untrusted.printable(data.decode(errors="replace"), limit=len(data)))
        else:
            stream.buffer.write(data)
        stream.flush()
    if result.truncated:
        print("kiosk: the output was longer and is cut", file=sys.stderr)
    sys.exit(result.status)
