"""`kiosk context`: the document that tells a machine what it shall be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kiosk.cli.common import Json, app, emit, say
from kiosk.errors import UsageError

if TYPE_CHECKING:
    from contextualize.context import Context


def register(root: typer.Typer) -> None:
    """Adds the group `context`."""
    group = app("Context documents: what machines are told at boot.")
    root.add_typer(group, name="context")
    group.command("schema")(schema)
    group.command("check")(check)


def schema() -> None:
    """Prints the JSON schema of context documents.

    `kiosk context schema > context.schema.json`
    """
    from kiosk.cloud.context_schema import schema as made

    emit(made())


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A context document; `-` is standard input.")],
    json: Json = False,
) -> None:
    """Reads a context document as a guest does, and says what it asks for. Secrets are not shown.

    `allows` and `declares` are what a site's layer must have for it; `kiosk vm start` looks whether its layers do.

    `kiosk context check user-data.json`
    """
    from contextualize import context
    from contextualize.errors import Refused

    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as f:
            data = f.read(context.LIMIT + 1)
    except OSError as e:
        raise UsageError(f"can't read the context: {e.strerror}", where=str(file)) from None
    try:
        found = facts(context.parse(data, context.Instance("any", "instance")), data)
    except Refused as e:
        raise UsageError(
            f"a guest would refuse this: {e.reason}", where=str(file), hint="See `kiosk context schema`."
        ) from None
    if json:
        emit(found)
        return
    for key, value in found.items():
        if value not in (None, [], {}):
            say(f"{key:<11} {', '.join(value) if isinstance(value, list) else value}")


def facts(context: Context, data: bytes) -> dict[str, Any]:
    """What a document asks for, for people; Refused where its farm is none. `allows` is what a site layer must allow
    for it, `declares` what a site layer must say of its farm (or allow `farm` to the context)."""
    import hashlib
    import json

    from contextualize import switches
    from contextualize.farm import drivers

    farm, life = context.farm, context.life
    missing = drivers.check(farm) if farm else ()
    named = "node" in json.loads(data)
    drains = life.drains(context.node_id) if named else f"{life.age - life.jitter} to {life.age}"
    return {
        "node": f"{context.node_name} ({context.node_id})"
        if named
        else "as ec2, configdrive or opennebula know it",
        "image": f"{context.image}@{context.version}",
        "layers": [f"{use.name}@{use.version}" for use in context.layers],
        "repository": context.repository.url if context.repository else None,
        "network": context.network.address if context.network else "DHCP",
        "farm": f"{farm.name} ({farm.kind})" if farm else None,
        "secrets": sorted(farm.secrets) if farm else [],
        "drains": f"{drains if named or life.jitter else life.age} s after its start",
        "allows": list(switches.needed(context)),
        "declares": [f"farms.{farm.name}", *(f"farms.{farm.name}.settings.{name}" for name in missing)]
        if farm
        else [],
        "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
    }
