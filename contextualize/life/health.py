"""Whether the machine still works: checks of its own, and programs that verified layers bring.

    root, scratch   a file can be written and read again      layers   the kernel has found no corrupted block
    farm            the daemons of the farm live              each program of a layer ends with status 0

A check that fails LIMIT times in a row asks for a drain, a corrupted layer at once; a check that succeeds is
forgotten. A site's program runs as root, an experiment's as a user that its layer declares, or as one that nothing
else on the machine has. Every program has a minute, whatever it starts, and what it prints at its end is the reason. A
program that can't be started has failed: it is part of a layer that was verified.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import select
import signal
import subprocess
import time
from functools import partial
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

from contextualize import verity
from contextualize.document import GUEST_PATH, LAYER_NAME, LayerName, read
from contextualize.errors import Refused
from contextualize.farm import member
from contextualize.life import plan as plans
from contextualize.life import requests
from contextualize.life.plan import YEARS, Plan
from contextualize.machine import PRIVATE, Machine
from contextualize.rules import MOST_CHECKS
from contextualize.stages.report import plain

PROGRAMS, COUNTS = f"{PRIVATE}/health.json", f"{PRIVATE}/health-counts.json"
LIMIT = 3
AT_ONCE = "layers"
"""The check whose first failure is enough: what was corrupted once is not what was signed."""
SECONDS = 60.0
OUTPUT = 2000
STUCK = 900
"""Seconds after which checks that have not ended count as a fault of the machine: a disk that hangs, hangs them."""
FREE = 1 << 20
OWN = 65100
"""The user number, and the group's, of the first layer's checks where the layer declares no user, and so on: numbers
that Debian reserves and nobody gets, so that no job can end a check, nor one layer's check that of another."""


class Program(NamedTuple):
    """A layer's check: its absolute path, and the account that it runs as, by name or by number."""

    name: str
    path: str
    user: Union[str, int]


def run(machine: Machine) -> int:
    """Looks once; 0 whatever was found."""
    plan = plans.load(machine)
    counts = _counts(machine)
    _keep(machine, counts, started=int(machine.uptime()))
    found: Dict[str, int] = {}
    for name, check in _checks(machine, plan):
        fault = _fault(check)
        if fault is None:
            continue
        found[name] = counts.get(name, 0) + 1
        print(f"health check {name} failed ({found[name]} in a row): {fault}", flush=True)
        if name == AT_ONCE:
            requests.ask(machine, f"health check {name} failed: {fault}")
        elif found[name] % LIMIT == 0:
            requests.ask(machine, f"health check {name} failed {found[name]} times in a row: {fault}")
    _keep(machine, found, started=None)
    return 0


def stuck(machine: Machine) -> Optional[str]:
    """Why a drain should begin because checks never end, or None."""
    started = _kept(machine)[1]
    if started is None or machine.uptime() - started < STUCK:
        return None
    return f"health checks have not ended for {STUCK // 60} minutes"


def _checks(machine: Machine, plan: Plan) -> Iterator[Tuple[str, Callable[[], None]]]:
    yield "root", partial(_writable, machine, "/var/tmp")  # noqa: S108
    yield AT_ONCE, partial(_layers, machine)
    if plan.scratch is not None:
        yield "scratch", partial(_mounted, machine, plan.scratch)
    yield "farm", partial(_farm, machine)
    try:
        for program in programs(machine, plan):
            yield program.name, partial(_program, machine, program)
    except Refused as e:
        yield "programs", partial(_refuse, e)


def _refuse(error: Refused) -> None:
    raise error


def _fault(check: Callable[[], None]) -> Optional[str]:
    try:
        check()
    except Refused as e:
        return plain(e.reason, 300)
    except OSError as e:
        return f"{e.filename or ''} {e.strerror}".strip()
    return None


def _mounted(machine: Machine, scratch: str) -> None:
    if not any(line.split()[1] == scratch for line in _mounts(machine)):
        raise Refused(f"{scratch} is not mounted")
    _writable(machine, scratch)


def _mounts(machine: Machine) -> List[str]:
    lines = machine.read("/proc/self/mounts", 4 << 20).decode(errors="replace").splitlines()
    return [line for line in lines if line.count(" ") >= 3]


def _writable(machine: Machine, folder: str) -> None:
    """A file can be written to the disk there, and read again. A full disk is no fault: jobs fill disks."""
    path = machine.path(f"{folder}/.kiosk-health-{os.urandom(16).hex()}")  # that no job can have made before
    data = os.urandom(4096)
    at = os.statvfs(path.parent)
    if at.f_flag & os.ST_RDONLY:
        raise Refused(f"{folder} is read-only")
    if at.f_bavail * at.f_frsize < FREE or (at.f_files and not at.f_favail):
        return
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        path.unlink()
        os.write(fd, data)
        os.fsync(fd)
        if os.pread(fd, len(data), 0) != data:
            raise Refused(f"{folder}: what was written is not what is read")
    finally:
        os.close(fd)


def _layers(machine: Machine) -> None:
    """The kernel, which checks each block of a layer as it is read, has found all as it was signed."""
    found = verity.corrupted(machine)
    if found:
        raise Refused(f"what was read of the layer on the disk {' and '.join(found)} is not what was signed")


def _farm(machine: Machine) -> None:
    """The daemons of the farm that was joined run. The farm itself need not answer."""
    joined = member.load(machine)
    if joined is not None:
        joined.check()


def programs(machine: Machine, plan: Plan) -> Iterator[Program]:
    """The layers' programs; those of a layer that does not run here are none."""
    if not machine.exists(PROGRAMS):
        return
    here = [str(name) for name, _ in plan.layers]
    for item in read(b'{"checks":' + machine.read(PROGRAMS) + b"}", PROGRAMS).items("checks", MOST_CHECKS):
        f = read(json.dumps(item).encode(), PROGRAMS)
        layer, path = LayerName.parse(f.text("layer", LAYER_NAME)), f.text("program", GUEST_PATH)
        if str(layer) not in here or not path.startswith(f"{layer.prefix}/") or ".." in path.split("/"):
            raise Refused(f"{PROGRAMS}: {path:.120} is not a program of a layer that runs here")
        user: Union[str, int] = "root"
        if layer.kind == "experiment":
            user = (plan.users or {}).get(str(layer), OWN + here.index(str(layer)))
        yield Program(f"{layer} {path.rpartition('/')[2]}", path, user)


def _program(machine: Machine, program: Program) -> None:
    """Runs a layer's program; Refused with the end of what it printed unless its status is 0."""
    uid, gid = (program.user,) * 2 if isinstance(program.user, int) else _account(program.user)
    root = os.getuid() == 0
    with subprocess.Popen(
        [machine.path(program.path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        start_new_session=True,
        user=uid if root else None,
        group=gid if root else None,
        extra_groups=[] if root else None,
    ) as process:
        try:
            said = _tail(process, time.monotonic() + SECONDS)
        finally:
            _kill(process.pid)
        status = process.wait()
    if said is None:
        raise Refused(f"was not done after {SECONDS:.0f} s")
    if status:
        raise Refused(f"status {status}: {said.decode(errors='replace').strip()[-200:] or 'no word'}")


def _account(name: str) -> Tuple[int, int]:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise Refused(f"there is no user {name}") from None
    return found.pw_uid, found.pw_gid


def _tail(process: subprocess.Popen[bytes], end: float) -> Optional[bytes]:
    """The end of what a program has printed when it ends, however much that is, and whoever else still holds its
    pipe; None when it has not ended in time. The program is not waited for yet: its number stays its own."""
    assert process.stdout is not None
    pipe, ended = process.stdout.fileno(), os.pidfd_open(process.pid)
    os.set_blocking(pipe, False)
    waiting, kept, over = [pipe, ended], b"", False
    try:
        while not over and time.monotonic() < end:
            over = ended in select.select(waiting, [], [], max(0.0, end - time.monotonic()))[0]
            with contextlib.suppress(BlockingIOError):
                data = os.read(
                    pipe, 1 << 20
                )  # a pipe holds less: the last read has all that was said before the end
                if not data and pipe in waiting:
                    waiting.remove(pipe)
                kept = (kept + data)[-OUTPUT:]
    finally:
        os.close(ended)
    return kept if over else None


def _kill(group: int) -> None:
    """Ends all that a program left running."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _counts(machine: Machine) -> Dict[str, int]:
    return _kept(machine)[0]


def _kept(machine: Machine) -> Tuple[Dict[str, int], Optional[int]]:
    """How often each check failed in a row, and since when one look is under way."""
    if not machine.exists(COUNTS):
        return {}, None
    f = read(machine.read(COUNTS), COUNTS)
    started = f.integer("started", 0, YEARS) if f.has("started") else None
    return {k: int(v) for k, v in f.pairs("counts", r".{1,300}", r"[0-9]{1,6}", 300).items()}, started


def _keep(machine: Machine, counts: Dict[str, int], *, started: Optional[int]) -> None:
    kept: Dict[str, object] = {"counts": {name: str(count) for name, count in counts.items()}}
    if started is not None:
        kept["started"] = started
    machine.replace(COUNTS, json.dumps(kept).encode(), 0o600)
