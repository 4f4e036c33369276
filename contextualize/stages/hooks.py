"""Stage `hooks`: what the context has done as root, where a site layer allows it.

The prolog runs before the attestation is written, and the user data after it; the epilog runs once the attestation is
there and before the farm is joined, so that no job is lost when it fails. Each has a time limit; what it prints goes to
the journal, line by line, and the last of it is the reason when it fails. What is not allowed, and what nothing here
understands, ends the machine before anything of it has run.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, List, Sequence

from contextualize.context import Context
from contextualize.errors import Refused
from contextualize.machine import PRIVATE, Machine
from contextualize.stages.context import Found
from contextualize.switches import HOOKS, USER_DATA, needed, require

PARTS = {HOOKS: "hooks", USER_DATA: "user_data"}
"""What this stage does, by what a site layer must allow for it."""
LIMIT = 300.0
"""Seconds for each script, and for each step of cloud-init."""
FOLDER = f"{PRIVATE}/hooks"
CLOUD_INIT = "/usr/bin/cloud-init"
SEED, ONLY_SEED = "/var/lib/cloud/seed/nocloud", "/etc/cloud/cloud.cfg.d/99-kiosk.cfg"
STEPS: Sequence[Sequence[str]] = (
    ("init", "--local"),
    ("init",),
    ("modules", "--mode=config"),
    ("modules", "--mode=final"),
)


def wanted(context: Context) -> bool:
    """Whether the context asks for anything of this stage."""
    return any(switch in PARTS for switch in needed(context))


def prolog(machine: Machine, found: Found, allowed: FrozenSet[str]) -> List[str]:
    """Runs the prolog and the user data; returns all that the hooks switch on, the epilog's as well."""
    context = found.context
    used = [switch for switch in needed(context) if switch in PARTS]
    for switch in used:
        require(allowed, switch, PARTS[switch])
    if context.user_data is not None:
        _understood(machine, context.user_data)
    if context.hooks.prolog is not None:
        _script(machine, found, "prolog", context.hooks.prolog)
    if context.user_data is not None:
        _user_data(machine, found, context.user_data)
    return used


def epilog(machine: Machine, found: Found) -> None:
    """Runs the epilog; `prolog` has seen that it is allowed."""
    if found.context.hooks.epilog is not None:
        _script(machine, found, "epilog", found.context.hooks.epilog)


def _understood(machine: Machine, text: str) -> None:
    if machine.exists(CLOUD_INIT) or text.startswith("#!"):
        return
    kind = text.split("\n", 1)[0].strip()
    raise Refused(
        f"user_data begins with {kind!r:.60}: without cloud-init in the image it can only be a script (#!...)"
    )


def _user_data(machine: Machine, found: Found, text: str) -> None:
    if not machine.exists(CLOUD_INIT):
        _script(machine, found, "user-data", text)
        return
    node = found.context
    machine.folder(SEED, 0o700)
    machine.replace(
        f"{SEED}/meta-data", f"instance-id: {node.node_id}\nlocal-hostname: {node.node_name}\n".encode()
    )
    machine.replace(f"{SEED}/user-data", text.encode(), 0o600)
    machine.replace(
        ONLY_SEED, b"datasource_list: [NoCloud]\nnetwork: {config: disabled}\npreserve_hostname: true\n"
    )
    for step in STEPS:
        machine.run_told([CLOUD_INIT, *step], "user-data", LIMIT)


def _script(machine: Machine, found: Found, name: str, text: str) -> None:
    """Runs a script by the interpreter that its first line names, else by the shell; in a folder of its own."""
    path = f"{FOLDER}/{name}"
    machine.folder(FOLDER, 0o700)
    machine.replace(path, text.encode(), 0o700)
    argv = [*_interpreter(text), str(machine.path(path))]
    machine.run_told(argv, name, LIMIT, {**found.variables, **_own(found)})
    machine.path(path).unlink()


def _interpreter(text: str) -> List[str]:
    if not text.startswith("#!"):
        return ["/bin/sh"]
    words = text[2:].split("\n", 1)[0].strip().split(None, 1)
    if not words or not words[0].startswith("/"):
        raise Refused("a script's first line begins with #! and names no program")
    return words


def _own(found: Found) -> Dict[str, str]:
    """What a script knows of its machine, whatever the source's own variables say."""
    node = found.context
    return {"KIOSK_NODE_ID": node.node_id, "KIOSK_NODE_NAME": node.node_name, "KIOSK_SOURCE": found.source}
