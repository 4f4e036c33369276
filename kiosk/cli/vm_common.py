"""What the commands of `kiosk vm` share: the driver of a call, how a VM is named, and what is said of one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from kiosk.cli.common import settings
from kiosk.errors import UsageError

if TYPE_CHECKING:
    from kiosk.cloud.api import VmState
    from kiosk.cloud.qemu.driver import QemuCloud
    from kiosk.cloud.qemu.record import Boot

Which = Annotated[str, typer.Argument(metavar="VM", help="The VM's id or name.")]
UNKNOWN = "no report of its guest is expected"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


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
