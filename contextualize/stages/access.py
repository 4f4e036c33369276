"""Stage `access`: lets the holders of the context's keys in as root, where a site layer allows it.

The keys take the place of those that the image has for root where sshd looks by default. The machine's own host keys
are made by kiosk-ssh-keys.service, anew for each machine.
"""

from __future__ import annotations

from typing import FrozenSet, List

from contextualize.context import Context
from contextualize.errors import Refused
from contextualize.machine import Machine
from contextualize.switches import ROOT_LOGIN, require

KEYS, SECOND = "/root/.ssh/authorized_keys", "/root/.ssh/authorized_keys2"
SSHD = ("/usr/sbin/sshd", "/usr/bin/sshd")


def run(machine: Machine, context: Context, allowed: FrozenSet[str]) -> List[str]:
    """Writes the keys; returns what was switched on by that."""
    require(allowed, ROOT_LOGIN, "root_keys")
    if not any(machine.exists(path) for path in SSHD):
        raise Refused("the context has root_keys, and this image has no ssh server")
    machine.folder("/root/.ssh", 0o700)
    machine.path("/root/.ssh").chmod(0o700)
    machine.path(SECOND).unlink(missing_ok=True)
    machine.replace(KEYS, "".join(f"{key}\n" for key in context.root_keys).encode(), 0o600)
    return [ROOT_LOGIN]
