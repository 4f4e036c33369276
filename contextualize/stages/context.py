"""Stage `context`: finds the one source of context and reads what this machine shall be.

A context disk is mounted read-only in a place that only root can look into. It stays there until `verify` has
read the signed metadata, and is gone before anything of a layer can run.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import MappingProxyType
from typing import Mapping, NamedTuple, Optional

from contextualize import context
from contextualize.context import Hooks
from contextualize.errors import Refused
from contextualize.machine import PRIVATE, Machine
from contextualize.sources import Told, disks
from contextualize.sources.find import find

MOUNT = disks.MOUNT


class Found(NamedTuple):
    """The context, the digest of its document, which source it came from, the folder of signed metadata that came
    with it (None: it is fetched), the variables that the source has for hooks, and the digests of the files beside
    the document from which hooks and their variables are."""

    context: context.Context
    digest: str
    source: str
    bundle: Optional[Path] = None
    variables: Mapping[str, str] = MappingProxyType({})
    beside: Mapping[str, str] = MappingProxyType({})

    def __repr__(self) -> str:  # it holds secrets
        return f"{type(self).__name__}({self.source!r}, {self.digest!r})"


def run(machine: Machine) -> Found:
    """Finds the source and reads its document."""
    machine.folder("/run/kiosk")
    machine.folder(PRIVATE, 0o700)
    told = find(machine)
    read = context.parse(told.document, told.instance)
    if told.source == "cmdline" and read.farm and read.farm.secrets:
        raise Refused("the context has secrets, and every user can read the kernel's command line")
    if told.source == "cmdline" and (read.hooks != Hooks() or read.user_data is not None):
        raise Refused(
            "the context has scripts, which can hold secrets, and every user can read the kernel's command line"
        )
    digest = f"sha256:{hashlib.sha256(told.document).hexdigest()}"
    return Found(
        _with_scripts(read, told),
        digest,
        told.source,
        told.bundle,
        told.variables,
        dict(sorted(told.beside.items())),
    )


def _with_scripts(read: context.Context, told: Told) -> context.Context:
    """The context with the scripts that stand beside its document. A hook that is in both places is refused."""
    hooks = read.hooks
    for name, own, beside in (("prolog", hooks.prolog, told.prolog), ("epilog", hooks.epilog, told.epilog)):
        if own is not None and beside is not None:
            raise Refused(f"the {name} is in the context document and beside it")
    return read._replace(
        hooks=Hooks(
            told.prolog if hooks.prolog is None else hooks.prolog,
            told.epilog if hooks.epilog is None else hooks.epilog,
        ),
    )


def release(machine: Machine) -> None:
    """Takes the context disk away, where there is one."""
    disks.release(machine)
