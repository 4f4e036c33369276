"""Stage `identity`: the host name from the context, and whether this is the image that the context means."""

from __future__ import annotations

from contextualize import document
from contextualize.context import Context
from contextualize.errors import Refused
from contextualize.machine import Machine

IMAGE = "/usr/lib/kiosk/image.json"


def run(machine: Machine, context: Context) -> None:
    """Refuses another image than the context's, then takes the host name."""
    own = document.identity(machine.read(IMAGE))
    if (own.name, own.version) != (context.image, context.version):
        raise Refused(
            f"the context is for {context.image}@{context.version}, but this image is {own.name}@{own.version}"
        )
    machine.set_hostname(context.node_name)
    machine.replace("/etc/hostname", f"{context.node_name}\n".encode())
    short = context.node_name.split(".")[0]
    names = context.node_name if short == context.node_name else f"{context.node_name} {short}"
    machine.replace(
        "/etc/hosts", f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {names}\n".encode()
    )
