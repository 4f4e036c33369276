"""Stage `join`: makes the machine a member of its farm, after the attestation is there for the farm's jobs to read.

It is the last one: when it returns, jobs may already run. A boot that ends all the same leaves the farm again.
"""

from __future__ import annotations

import contextlib

from contextualize.context import Context, Farm
from contextualize.errors import Refused
from contextualize.farm import member
from contextualize.farm.driver import Node
from contextualize.machine import Machine


def run(machine: Machine, context: Context, farm: Farm) -> None:
    """Joins, or refuses with nothing of the farm left on the machine."""
    member.join(machine, farm, Node(context.node_name, context.image, context.version))


def undo(machine: Machine, reason: str) -> None:
    """Leaves the farm, if one was joined. What the farm can't be told is passed over: the machine is about to
    be powered off, and its farm will miss it."""
    with contextlib.suppress(Refused):
        joined = member.load(machine)
        if joined:
            try:
                with contextlib.suppress(Refused):
                    joined.close(reason)
            finally:
                joined.leave(reason)
