"""What a driver of a batch farm has to know: a table of settings and secrets, files, daemons, and five questions.

A driver keeps nothing between two calls: all that it needs is in the `Seat`, so that a process other than the
one that joined can close, watch and leave. Each call is bounded in time.
"""

from __future__ import annotations

import os
import re
import stat
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple

from contextualize.errors import Refused
from contextualize.farm.settings import Secret, Setting
from contextualize.machine import Answer, Machine

if TYPE_CHECKING:
    from contextualize.farm.services import Service

MARK = "kiosk: "
"""Begins every reason that a farm is told, so that people and later nodes see whose it is."""


class Node(NamedTuple):
    """This machine, as the farm shall know it: its name, and the image that it runs."""

    name: str
    image: str
    version: str


class File(NamedTuple):
    """A file that a daemon reads. A secret that is read once names the service after whose start it is wiped;
    every file is taken away when the machine leaves."""

    path: str
    data: bytes
    mode: int = 0o644
    owner: str = "root"
    once: Optional[str] = None


class Look(NamedTuple):
    """What one look at the farm showed. `open`: it sends jobs here. `waiting`: not yet. `refused`: it won't,
    unless something is changed. `listed`: it knows this node, which must then be taken off again."""

    state: str
    saw: str
    listed: bool = False


class Seat(NamedTuple):
    """Where a driver works: the machine, the farm's name, the node, and the settings, which are checked. `ends`: the
    machine is shut down, and systemd stops the daemons' units only once we are done."""

    machine: Machine
    farm: str
    node: Node
    settings: Mapping[str, str]
    ends: bool = False

    def path(self, absolute: str) -> str:
        """Where a path of the machine is, as programs see it."""
        return str(self.machine.path(absolute))

    def name(self) -> str:
        """The node's name in the farm: its first label, or all of it where `node_name` is `full`."""
        full = self.settings.get("node_name") == "full"
        return self.node.name if full else self.node.name.split(".")[0]

    def folder(self, path: str, mode: int = 0o755, owner: str = "root") -> None:
        """Makes a folder that belongs to a user. One that is there already, on a disk that had jobs before, is
        taken only where nobody else can have put it or anything above it there; Refused otherwise."""
        uid, gid = (0, 0) if owner == "root" else self.machine.account(owner)
        at = ""
        for part in path.strip("/").split("/"):
            at = f"{at}/{part}"
            if not self.machine.exists(at):
                break
            found = self.machine.path(at).lstat()
            open_to_all = found.st_mode & stat.S_IWOTH and (at == path or not found.st_mode & stat.S_ISVTX)
            if found.st_uid not in ((0, uid) if at == path else (0,)) or open_to_all:
                raise Refused(
                    f"farm {self.farm}: {at} is of the user {found.st_uid} with the mode "
                    f"{stat.S_IMODE(found.st_mode):04o}: somebody else may have made it; "
                    "take it away, or use an empty disk"
                )
        self.machine.folder(path, mode)
        if owner != "root":
            self.machine.chown(path, uid, gid)
        self.machine.path(path).chmod(mode)

    def memory(self) -> int:
        """MiB for jobs: as set, or all but the reserve."""
        if self.settings["memory"]:
            return int(self.settings["memory"])
        found = re.search(rb"^MemTotal: +([0-9]+) kB$", self.machine.read("/proc/meminfo"), re.MULTILINE)
        if not found:
            raise Refused("/proc/meminfo has no MemTotal")
        left = int(found.group(1)) // 1024 - int(self.settings["reserve_memory"])
        if left < 1:
            raise Refused(f"farm {self.farm}: reserve_memory leaves no memory for jobs")
        return left


class Driver(ABC):
    """A kind of farm."""

    kind: ClassVar[str]
    settings: ClassVar[Dict[str, Setting]]
    secrets: ClassVar[Dict[str, Secret]]

    @abstractmethod
    def prepare(self, seat: Seat) -> None:
        """Makes the folders of the daemons; Refused when the machine lacks one of their programs."""

    @abstractmethod
    def files(self, seat: Seat, secrets: Mapping[str, bytes]) -> Sequence[File]:
        """The files that the daemons need. Without secrets: those that may be there now."""

    @abstractmethod
    def services(self, seat: Seat) -> Tuple[Service, ...]:
        """The daemons, in the order in which they are started; they are stopped in the opposite one."""

    @abstractmethod
    def environment(self, seat: Seat) -> Mapping[str, str]:
        """What the farm's programs need in their environment."""

    @abstractmethod
    def look(self, seat: Seat) -> Look:
        """Looks once whether the farm has taken this node."""

    @abstractmethod
    def close(self, seat: Seat, reason: str) -> None:
        """Has the farm send no more jobs; returns when the farm says so, Refused when it can't be had."""

    @abstractmethod
    def busy(self, seat: Seat) -> int:
        """How many jobs are here. Refused when nothing runs here and the farm can't be asked: it may have sent
        one that has not started."""

    @abstractmethod
    def leave(self, seat: Seat, reason: str) -> None:
        """Stops the daemons and has the farm forget this node; Refused when the farm still knows it."""

    def ask(
        self, seat: Seat, *argv: str, timeout: float = 20, environment: Optional[Mapping[str, str]] = None
    ) -> Answer:
        """Runs one of the farm's programs, in the farm's environment where no other is given."""
        return seat.machine.ask(argv, timeout, environment or self.environment(seat))


def template(name: str) -> str:
    """The text of a template."""
    return (Path(__file__).parent / "templates" / f"{name}.template").read_text(encoding="utf-8")


def told(reason: str) -> str:
    """A reason as farms are told it: marked, one line of plain characters that mean nothing to any program."""
    return MARK + " ".join(re.sub(r"[^A-Za-z0-9.,:@/_+-]+", " ", reason).split())[:200]


def program(seat: Seat, folder: str, name: str) -> str:
    """The path of a program that is there, and that no user but root may change or replace, wherever links lead;
    Refused otherwise."""
    path = f"{folder}/{name}"
    try:
        real = seat.machine.path(path).resolve(strict=True)
        mode = real.stat().st_mode
        ours = seat.machine.root.resolve()
        above = [at for at in (real, *real.parents) if at not in ours.parents or ours not in real.parents]
        foreign = [at for at in above if _foreign(at.stat())]
    except (OSError, RuntimeError) as e:  # links in a circle
        said = os.strerror(e.errno or 0) if isinstance(e, OSError) else str(e)
        raise Refused(f"farm {seat.farm}: {path}: {said}") from None
    if not stat.S_ISREG(mode) or not mode & 0o111:
        raise Refused(f"farm {seat.farm}: {path} is no program")
    if foreign:
        raise Refused(f"farm {seat.farm}: {path} is no program for root: others may change {foreign[-1]}")
    return seat.path(path)


def _foreign(found: os.stat_result) -> bool:
    """Whether others than root may change a file, or what is in a folder."""
    return bool(found.st_uid or found.st_mode & 0o002 or (found.st_gid and found.st_mode & 0o020))
