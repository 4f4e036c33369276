"""The context document of a VM: what kiosk says itself, and what a user's file adds to it.

A finished document has been read by the guest's own reader, so that a mistake in it is told before a VM is started.
A file may hold a farm's secrets: nothing of it is shown, logged or put on a command line, and one that holds secrets
must be readable by its owner alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from contextualize import context as guest
from contextualize.errors import Refused
from contextualize.manifest import Declared
from kiosk.errors import PolicyError, UsageError
from kiosk.model.names import ImageRef, LayerRef

Source = Literal["nocloud", "configdrive", "opennebula", "ec2"]
SOURCES: tuple[Source, ...] = ("nocloud", "configdrive", "opennebula", "ec2")
MOUNT = "/scratch"
GIVEN = (
    "farm", "hooks", "life", "network", "repository", "root_keys", "scratch", "time_servers", "user_data",
)  # fmt: skip
"""What a user's file may add."""


def document(
    *,
    uuid: str,
    name: str,
    image: ImageRef,
    layers: Sequence[LayerRef],
    lifetime: int | None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The context document (schema kiosk.context/1). UsageError where the guest would not take it."""
    more = more or {}
    scratch, life = _part(more, "scratch", {"swap"}), _part(more, "life", None)
    if lifetime is not None and life.setdefault("age", lifetime) != lifetime:
        raise UsageError("the context file has an age in `life`, and another lifetime is asked for")
    context: dict[str, Any] = {
        "schema": "kiosk.context/1",
        "node": {"id": uuid, "name": name},
        "image": {"name": image.name, "version": str(image.version)},
        "layers": [
            {"name": ref.base, "version": str(ref.version), "device": f"layer-{i}"}
            for i, ref in enumerate(layers)
        ],
        "scratch": {"device": "scratch", "mount": MOUNT, **scratch},
        **{key: value for key, value in more.items() if key not in ("scratch", "life")},
    }
    if life:
        context["life"] = life
    try:
        found = guest.parse(data(context))
        if found.farm:
            from contextualize.farm import drivers

            drivers.check(found.farm)
    except Refused as e:
        raise UsageError(
            f"the guest would refuse this context: {e.reason}", hint="See `kiosk context schema`."
        ) from None
    return context


def agree(context: Mapping[str, Any], layers: Sequence[Declared]) -> None:
    """PolicyError where a guest with these layers would not come up by this document: two of them in conflict, a farm
    that can't be joined by what both say of it, something that no site layer allows."""
    from contextualize import farms, rules, switches
    from contextualize.farm import drivers

    found = guest.parse(data(context))
    faults = list(rules.conflict_faults(layers))
    try:
        for switch in switches.needed(found):
            switches.require(switches.allowed(layers), switch, f"something that needs {switch}")
        if found.farm:
            drivers.complete(farms.settled(found.farm, layers, switches.allowed(layers))[0])
    except Refused as e:
        faults.append(e.reason)
    if faults:
        raise PolicyError(
            f"the guest would refuse this: {faults[0]}", hint="A site's layer has `allows` and `farms`."
        )


def data(context: Mapping[str, Any]) -> bytes:
    """A document's bytes, the same for every source."""
    return (json.dumps(context, indent=1) + "\n").encode()


def given(file: Path) -> dict[str, Any]:
    """What a user's file adds to the document. UsageError; PolicyError where others could read its secrets."""
    try:
        with file.open("rb") as f:
            mode = Path(f"/proc/self/fd/{f.fileno()}").stat().st_mode
            text = f.read(guest.LIMIT + 1)
    except OSError as e:
        raise UsageError(f"can't read the context file: {e.strerror}", where=str(file)) from None
    if len(text) > guest.LIMIT:
        raise UsageError(f"is larger than a context may be ({guest.LIMIT} bytes)", where=str(file))
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError("is not valid JSON", where=str(file)) from None
    if not isinstance(found, dict):
        raise UsageError("is not a JSON object", where=str(file))
    for key in found:
        if key not in GIVEN:
            raise UsageError(
                f"{key[:60]!r} is not for this file", where=str(file), hint=f"It can have {', '.join(GIVEN)}."
            )
    farm = found.get("farm")
    if isinstance(farm, dict) and farm.get("secrets") and mode & 0o077:
        raise PolicyError(
            "holds secrets, and others than its owner may read it",
            where=str(file),
            hint=f"chmod 600 {file}",
        )
    return found


def _part(more: Mapping[str, Any], key: str, keys: set[str] | None) -> dict[str, Any]:
    """An object of the user's file, of which only `keys` are the user's to say (None: all)."""
    found = more.get(key, {})
    if not isinstance(found, dict) or (keys is not None and not set(found) <= keys):
        raise UsageError(f"{key!r} of the context file must be an object of {', '.join(sorted(keys or ()))}")
    return dict(found)
