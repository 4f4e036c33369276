"""Slurm by its commands: `squeue`, `sinfo` (or `scontrol show nodes`), `scontrol show partitions` and `sshare`, once
each in a look. kiosk drains a node with its mark in the reason, and resumes only one whose reason bears this mark."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime

from kiosk import clock
from kiosk.batch.api import Host, Look
from kiosk.batch.ask import HOST, Answer, Commands, plain
from kiosk.batch.slurm import jobs, nodes, shares
from kiosk.batch.slurm.nodes import MARK
from kiosk.batch.slurm.values import unread
from kiosk.errors import BatchError

NO_NODE = re.compile(r"[Ii]nvalid node name|not found|[Nn]o such node", re.IGNORECASE)
NO_OPTION = re.compile(r"unrecognized option|invalid option|unknown option", re.IGNORECASE)
OPERATOR = "this needs a Slurm operator: run kiosk as SlurmUser or root, or make its user one with sacctmgr"


class Slurm:
    """The driver; see BatchSystem. `clock` is for tests."""

    def __init__(self, commands: Commands, now: Callable[[], datetime] = clock.now) -> None:
        self._run, self._now = commands, now
        self._name = ""
        self._nodes_by: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """`slurm 22.05`; `slurm` before it was asked."""
        return self._name or "slurm"

    @property
    def queries(self) -> int:
        """Commands that asked."""
        return self._run.queries

    def look(self) -> Look:
        """See BatchSystem."""
        self._identify()
        now = self._now()
        found = jobs.from_columns(
            self._run.ask("squeue", "--noheader", "--all", "-O", jobs.FORMAT), now.timestamp()
        )
        hosts = nodes.nodes(self._node_answer(), found.on)
        queues = nodes.partitions(self._run.ask("scontrol", "--all", "--oneliner", "show", "partitions"))
        shared = shares.shares(self._run.ask("sshare", "--all", "--parsable"))
        return Look(now, found.tally.pending(), found.tally.running(), hosts, queues, shared)

    def close(self, host: str, reason: str) -> None:
        """See BatchSystem. A node that drains already keeps its reason: it may be somebody else's."""
        self._identify()
        node = self._node(host)
        if node is None:
            raise BatchError(f"does not know the node {plain(host)}", where=self.name)
        if not (node.mine or node.others):
            text = plain(reason, 200).replace('"', "'")
            self._update(host, "state=drain", f"reason={MARK} {text}")

    def open(self, host: str) -> None:
        """See BatchSystem."""
        self._identify()
        node = self._node(host)
        if node is not None and node.mine:
            self._update(host, "state=resume")

    def remove(self, host: str) -> None:
        """See BatchSystem. Only a dynamic node can be deleted. It is said to be down before, which ends what slurmctld
        believes to run there; so this is refused for a node that answers and has jobs."""
        self._identify()
        node = self._node(host)
        if node is None:
            return
        if node.used and node.status != "unavailable":
            raise BatchError(
                f"{host} answers and has {node.used} CPUs busy: it is not removed", where=self.name
            )
        self._update(host, "state=down", f"reason={MARK} gone")
        answer = self._run.tell("scontrol", "delete", f"nodename={host}")
        if answer.status != 0 and self._node(host) is not None:
            raise answer.refused(f"did not delete {host}", OPERATOR)

    def _identify(self) -> None:
        if not self._name:
            answer = self._run.ask("sinfo", "--version")
            found = re.search(r"slurm\S* ([0-9]+\.[0-9]+)", answer.text)
            if answer.status != 0 or not found:
                raise unread(answer, "does not say which Slurm it is")
            self._name = f"slurm {found[1]}"

    def _node_answer(self) -> Answer:
        """All nodes as JSON: `scontrol show nodes` where it writes JSON, else `sinfo`, as 22.05 has it."""
        for form in [("scontrol", "--json", "show", "nodes"), ("sinfo", "--all", "--json")]:
            if self._nodes_by in (None, form):
                answer = self._run.ask(*form)
                if answer.status == 0 and answer.text.lstrip().startswith("{"):
                    self._nodes_by = form
                    return answer
                if not NO_OPTION.search(answer.error):
                    raise unread(answer, "printed no JSON")
        raise unread(answer, "is older than 22.05, whose JSON is needed")

    def _node(self, host: str) -> Host | None:
        """One node, asked by itself. None where slurmctld does not know it."""
        if not HOST.fullmatch(host) or host.upper() == "ALL":
            raise BatchError(f"{plain(host)!r} is no node's name", where=self.name)
        answer = self._run.ask("scontrol", "--oneliner", "show", "node", host)
        if NO_NODE.search(answer.text + answer.error):
            return None
        state = re.search(r" State=(\S+)", answer.text)
        used = re.search(r" CPUAlloc=([0-9]+)", answer.text)
        if answer.status != 0 or not state or not used:
            raise unread(answer, f"says nothing of the node {host}")
        states = frozenset(state[1].strip("*~#!%$@^-").replace("*", "").upper().split("+"))
        closed = bool(states & nodes.CLOSED)
        reason = re.search(r" Reason=(.*)", answer.text)
        mine = closed and reason is not None and reason[1].startswith(MARK)
        return Host(
            host, "closed" if closed else "open", 0, int(used[1]), 0, mine=mine, others=closed and not mine
        )

    def _update(self, host: str, *changes: str) -> None:
        answer = self._run.tell("scontrol", "update", f"nodename={host}", *changes)
        if answer.status != 0:
            raise answer.refused(f"did not change {host}", OPERATOR)
