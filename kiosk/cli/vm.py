"""`kiosk vm`: VMs on this host, from the host cache: started, listed, shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kiosk.cli import vm_guest
from kiosk.cli.common import DryRun, Json, app, emit, say, settings, table
from kiosk.cli.vm_common import UNKNOWN, Which, age, cloud, facts, seconds
from kiosk.model.base import plain


def register(root: typer.Typer) -> None:
    """Adds the group `vm`."""
    group = app("VMs on this host: start, list, drain, stop, console, exec, report.")
    root.add_typer(group, name="vm")
    group.command("flavours")(flavours)
    group.command("start")(start)
    group.command("list")(list_)
    group.command("show")(show)
    group.command("report")(report)
    group.command("drain")(vm_guest.drain)
    group.command("stop")(vm_guest.stop)
    group.command("console")(vm_guest.console)
    group.command("exec", context_settings={"ignore_unknown_options": True})(vm_guest.execute)


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
    from kiosk.cli.vm_start import launch
    from kiosk.order import Order, plan, rehearse

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
