"""`kiosk vm`: VMs on this host, from the host cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiosk.cli.common import DryRun, Json, app, emit, say, settings, table
from kiosk.errors import GuestError, UsageError
from kiosk.model.base import plain

if TYPE_CHECKING:
    from kiosk.cloud.api import VmState
    from kiosk.cloud.qemu.driver import QemuCloud
    from kiosk.cloud.qemu.record import Boot

Which = Annotated[str, typer.Argument(metavar="VM", help="The VM's id or name.")]
UNKNOWN = "no report of its guest is expected"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def register(root: typer.Typer) -> None:
    """Adds the group `vm`."""
    group = app("VMs on this host: start, list, drain, stop, console, exec, report.")
    root.add_typer(group, name="vm")
    group.command("flavours")(flavours)
    group.command("start")(start)
    group.command("list")(list_)
    group.command("show")(show)
    group.command("report")(report)
    group.command("drain")(drain)
    group.command("stop")(stop)
    group.command("console")(console)
    group.command("exec", context_settings={"ignore_unknown_options": True})(execute)


def cloud(ctx: typer.Context, accel: str = "auto", boot: Boot | None = None) -> QemuCloud:
    """The local driver with the folders of this call's settings."""
    from kiosk.cloud.hostcache import HostCache
    from kiosk.cloud.qemu.driver import QemuCloud

    if accel not in ("auto", "kvm", "tcg"):
        raise UsageError(f"{accel!r} is not a kind of acceleration", hint="Write auto, kvm or tcg.")
    s = settings(ctx)
    return QemuCloud(s.vms, HostCache(s.host), accel, boot)  # type: ignore[arg-type]


def seconds(text: str) -> int:
    """A length of time such as 24h, 90m or 3600."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd]?)", text)
    if match is None:
        raise UsageError(f"{text!r} is not a length of time", hint="Write 24h, 90m, 2d, or seconds.")
    return int(match[1]) * UNITS[match[2] or "s"]


def flavours(ctx: typer.Context, json: Json = False) -> None:
    """Lists the flavours: how large a VM can be, by name. Any image starts in any of them.

    Your own are names in the settings' table [flavours]: `batch = "8/24/200"`.

    Example: `kiosk vm flavours`
    """
    from kiosk.model.flavour import FLAVOURS, Flavour

    own = settings(ctx).flavours
    named = {**FLAVOURS, **{name: Flavour.parse(name, own) for name in own}}
    if json:
        emit({name: {**plain(f), "own": name in own} for name, f in named.items()})
        return
    table(
        ["flavour", "cores#", "memory#", "scratch#", "from"],
        [
            [name, f.cores, f"{f.memory} GiB", f"{f.scratch} GiB", "settings" if name in own else "kiosk"]
            for name, f in named.items()
        ],
    )
    say("Any image starts in any flavour: no image knows of cores, memory or scratch space.")


def start(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE[@VERSION]", help="An image in the host cache.")],
    layer: Annotated[
        list[str] | None,
        typer.Option(help="A layer to put on it, KIND/OWNER/NAME[@VERSION]; repeat for more."),
    ] = None,
    flavour: Annotated[
        str, typer.Option(help="A name (see `kiosk vm flavours`) or CORES/MEMORY/SCRATCH in GiB: 2/4/20.")
    ] = "tiny",
    name: Annotated[str | None, typer.Option(help="Host name (default: from the image's name).")] = None,
    lifetime: Annotated[
        str | None, typer.Option(help="The guest shuts itself down after this time: 24h, 90m.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the guest says that it is ready.")] = True,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds to wait for that.")] = 300,
    accel: Annotated[
        str, typer.Option(help="kvm, tcg (emulation), or auto: KVM where a test guest runs.")
    ] = "auto",
    direct_kernel: Annotated[
        bool | None,
        typer.Option(
            "--direct-kernel/--uefi",
            help="Start the kernel and initrd of the host cache (quicker; the default), or the disk by UEFI firmware "
            "(an imported image: by the firmware that its disk is for).",
        ),
    ] = None,
    network: Annotated[bool, typer.Option(help="Outgoing network for the guest.")] = True,
    context: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON that is added to the context document: farm, network, hooks, life, repository and more.",
        ),
    ] = None,
    context_source: Annotated[
        str, typer.Option(help="How the guest is told: nocloud, configdrive, opennebula or ec2.")
    ] = "nocloud",
    tap: Annotated[
        str | None,
        typer.Option(help="A tap interface of this host: the guest is in its network, and can be reached."),
    ] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Starts a VM and waits until it is ready. (An imported image's guest reports nothing: its VM is `running`.)

    `kiosk vm start debian-12-minimal --layer site/example/base --layer experiment/demo/software --flavour c1`
    """
    from kiosk.cli.vm_start import Order, launch, plan, rehearse

    driver = cloud(
        ctx, accel, None if direct_kernel is None else "direct-kernel" if direct_kernel else "uefi"
    )
    order = Order(
        image=image,
        layers=tuple(layer or ()),
        flavour=flavour,
        name=name,
        lifetime=None if lifetime is None else seconds(lifetime),
        network=network,
        tap=tap,
        own_flavours=settings(ctx).flavours,
        source=context_source,
        context=context,
    )
    planned, metadata = plan(driver.cache, order), settings(ctx).host / "metadata"
    if dry_run:
        rehearse(driver, metadata, planned)
        if json:
            emit(
                {
                    "image": planned.image,
                    "layers": planned.layers,
                    "flavour": planned.flavour,
                    "name": planned.name,
                }
            )
        else:
            say(f"would start {planned.name}: {' + '.join(map(str, (planned.image, *planned.layers)))}, "
                f"flavour {planned.flavour}")  # fmt: skip
        return
    state, took = launch(driver, metadata, planned, timeout if wait else None)
    if json:
        emit(
            {**facts(state), "seconds_to_ready": round(took, 2) if took and state.phase == "ready" else None}
        )
    elif state.phase == "running":
        say(f"{state.id} {state.name} is running: {state.image}, an imported image: {UNKNOWN}")
    elif took is None:
        say(f"{state.id} {state.name} is booting; `kiosk vm list` shows when it is ready")
    else:
        say(
            f"{state.id} {state.name} is ready after {took:.1f} s: {' + '.join((state.image, *state.layers))}"
        )


def facts(state: VmState) -> dict[str, object]:
    """A state as JSON."""
    from kiosk import clock

    return {
        "id": state.id, "name": state.name, "image": state.image, "layers": state.layers,
        "flavour": state.flavour, "state": state.phase, "stage": state.stage, "reason": state.reason,
        "jobs": state.jobs, "created": state.created,
        "age": int((clock.now() - state.created).total_seconds()), "uuid": state.uuid,
    }  # fmt: skip


def age(seconds: float) -> str:
    """A time span for people: 42s, 12m, 3h, 2d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size * 2:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def list_(ctx: typer.Context, json: Json = False) -> None:
    """Lists the VMs on this host.

    `kiosk vm list --json`
    """
    found = cloud(ctx).list_vms()
    if json:
        emit([facts(state) for state in found])
        return
    rows = []
    for state in found:
        f = facts(state)
        note = ": ".join(x for x in (state.stage if state.phase != "ready" else None, state.reason) if x)
        if state.jobs is not None:
            note += f" ({state.jobs} jobs left)"
        note = f"imported: {UNKNOWN}" if state.phase == "running" else note
        layers = " + ".join(state.layers)
        rows.append([state.id, state.name, state.image, layers, state.phase, age(float(str(f["age"]))), note])
    table(["id", "name", "image", "layers", "state", "age#", "what"], rows)


def show(ctx: typer.Context, vm: Which, json: Json = False) -> None:
    """Shows one VM: its state, and where its files are.

    `kiosk vm show node-1`
    """
    driver = cloud(ctx)
    state = driver.find(vm)
    found = {**facts(state), "folder": driver.folder(state.id)}
    if json:
        emit(found)
        return
    for key, value in found.items():
        if value is not None:
            say(f"{key:<10} {', '.join(value) if isinstance(value, tuple) else value}")


def report(ctx: typer.Context, vm: Which, json: Json = False) -> None:
    """Prints what the guest attests: image, root hash, layers, and who signed them.

    `kiosk vm report node-1`
    """
    driver = cloud(ctx)
    state = driver.find(vm)
    found = driver.report(state.id)
    if json:
        emit(
            {
                "state": state.phase,
                "stage": state.stage,
                "reason": state.reason,
                "attestation": found.attestation,
            }
        )
        return
    say(f"{state.name}: {state.phase}" + (f": {state.reason}" if state.reason else ""))
    if found.attestation is not None:
        emit(found.attestation)


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
