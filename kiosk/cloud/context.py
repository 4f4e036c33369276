"""The context document of a VM: what kiosk says itself, and what a user's file adds to it.

A finished document has been read by the guest's own reader, so that a mistake in it is told before a VM is started.
A file may hold a farm's secrets, and scripts that do: nothing of them is shown, logged or put on a command line, and a
file that holds one must be readable by its owner alone.
"""

from __future__ import annotations

import json
import os
import re
import stat
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
    _check_scripts(more)
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
        with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as f:
            mode = os.fstat(f.fileno()).st_mode
            if not stat.S_ISREG(mode):  # a pipe might never say anything, and has no owner's mode
                raise UsageError("is not a file", where=str(file), hint="Write the context to a file first.")
            text = f.read(guest.LIMIT + 1)
    except OSError as e:
        raise UsageError(f"can't read the context file: {e.strerror}", where=str(file)) from None
    if len(text) > guest.LIMIT:
        raise UsageError(f"is larger than a context may be ({guest.LIMIT} bytes)", where=str(file))
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except _Twice as e:
        raise UsageError(f"has {str(e)[:60]!r} twice in one object", where=str(file)) from None
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
    private = [key for key in ("hooks", "user_data") if found.get(key)]
    private += ["secrets"] if isinstance(farm, dict) and farm.get("secrets") else []
    if private and mode & 0o077:
        raise PolicyError(
            f"holds {' and '.join(private)}, and others than its owner may read it",
            where=str(file),
            hint=f"chmod 600 {file}",
        )
    return found


class _Twice(Exception):
    """A key that stands twice in one object: which of the two counts, each reader would say for itself."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key)
        found[key] = value
    return found


def _check_scripts(more: Mapping[str, Any]) -> None:
    """Refuses what is no script without showing it, which the guest's reader would."""
    hooks = more.get("hooks")
    scripts = {f"hooks.{name}": text for name, text in hooks.items()} if isinstance(hooks, dict) else {}
    if "user_data" in more:
        scripts["user_data"] = more["user_data"]
    for name, text in scripts.items():
        if not isinstance(text, str) or not re.fullmatch(guest.TEXT, text):
            raise UsageError(f"{name[:60]!r} of the context file is not a text that the guest would take")


def _part(more: Mapping[str, Any], key: str, keys: set[str] | None) -> dict[str, Any]:
    """An object of the user's file, of which only `keys` are the user's to say (None: all)."""
    found = more.get(key, {})
    if not isinstance(found, dict) or (keys is not None and not set(found) <= keys):
        raise UsageError(f"{key!r} of the context file must be an object of {', '.join(sorted(keys or ()))}")
    return dict(found)
