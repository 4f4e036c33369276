"""`kiosk-jobfeatures`: makes a job's features, in the job's name, and tells the job where they are.

    kiosk-jobfeatures              prints `export JOBFEATURES=…` lines: for Slurm's TaskProlog, or a shell's eval
    kiosk-jobfeatures COMMAND...   starts the job with these variables: for LSF's JOB_STARTER, HTCondor's wrapper

What the batch system says of the job in its environment becomes a file of one value; what it does not say is left
out. When the machine stops is a link to the machine's own file, and so always what is true now. Never keeps a job
from starting: what goes wrong is said on standard error, and the job goes without.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, NoReturn, Optional

JOBS, MACHINE = "run/kiosk/jobfeatures", "run/kiosk/machinefeatures"
OWNER = ".process"
LIMIT = 1 << 20


class Job(NamedTuple):
    """What the batch system says of a job; None where it does not say."""

    id: str
    cpus: Optional[int] = None
    start: Optional[int] = None
    wall: Optional[int] = None
    memory: Optional[int] = None


def job(environment: Mapping[str, str], node: str) -> Job:
    """The job that this environment is of: Slurm's, LSF's, HTCondor's, or one that says nothing."""
    if "SLURM_JOB_ID" in environment:
        return _slurm(environment)
    if "LSB_JOBID" in environment:
        return _lsf(environment, node)
    if "_CONDOR_JOB_AD" in environment:
        return _condor(environment)
    return Job(str(os.getpid()))


def _slurm(environment: Mapping[str, str]) -> Job:
    def number(name: str) -> Optional[int]:
        return _number(environment.get(name))

    cpus, begin, end = (
        number("SLURM_CPUS_ON_NODE"),
        number("SLURM_JOB_START_TIME"),
        number("SLURM_JOB_END_TIME"),
    )
    mib, each = number("SLURM_MEM_PER_NODE"), number("SLURM_MEM_PER_CPU")
    if not mib and each and cpus:
        mib = each * cpus
    wall = end - begin if begin and end and begin < end < 1 << 32 else None
    return Job(environment["SLURM_JOB_ID"], cpus, begin, wall, mib << 20 if mib else None)


def _lsf(environment: Mapping[str, str], node: str) -> Job:
    index = environment.get("LSB_JOBINDEX", "0")
    id = environment["LSB_JOBID"] if index == "0" else f"{environment['LSB_JOBID']}[{index}]"
    hosts = re.findall(r"(\S+) ([0-9]{1,6})(?: |$)", environment.get("LSB_MCPU_HOSTS", ""))
    here = [int(slots) for host, slots in hosts if host.split(".")[0] == node.split(".")[0]]
    return Job(id, sum(here) or _number(environment.get("LSB_DJOB_NUMPROC")))


def _condor(environment: Mapping[str, str]) -> Job:
    mine, slot = _ad(environment["_CONDOR_JOB_AD"]), _ad(environment.get("_CONDOR_MACHINE_AD", ""))
    memory = _number(slot.get("Memory"))
    return Job(
        f"{mine.get('ClusterId', '0')}.{mine.get('ProcId', '0')}",
        _number(slot.get("Cpus")) or _number(mine.get("RequestCpus")),
        _number(mine.get("JobCurrentStartDate")) or _number(mine.get("JobStartDate")),
        _number(mine.get("AllowedJobDuration")),
        memory << 20 if memory else None,
    )


def _ad(path: str) -> Dict[str, str]:
    """The plain values of a ClassAd that HTCondor left for the job."""
    try:
        with Path(path).open("rb") as f:
            text = f.read(LIMIT).decode(errors="replace")
    except OSError:
        return {}
    return dict(re.findall(r'^(\w+) = "?([\w.:@-]{1,200})"?$', text, re.MULTILINE))


def _number(text: Optional[str]) -> Optional[int]:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,15}", text) else None


def values(job: Job, machine: Mapping[str, str], now: int) -> Dict[str, str]:
    """The job's features; `machine` are those of the machine."""
    start = job.start or now
    found: Dict[str, object] = {"job_id": job.id, "jobstart_secs": start}
    if job.cpus:
        found["allocated_cpu"] = job.cpus
        hs06, total = _float(machine.get("hs06")), _number(machine.get("total_cpu"))
        if hs06 and total:
            found["hs06_job"] = round(hs06 * job.cpus / total, 3)
    if job.wall:
        found["wall_limit_secs"] = job.wall
        found["cpu_limit_secs"] = job.wall * (job.cpus or 1)
    if job.memory:
        found["max_rss_bytes"] = job.memory
    return {name: str(value) for name, value in found.items()}


def _float(text: Optional[str]) -> Optional[float]:
    return float(text) if text is not None and re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,6})?", text) else None


def make(root: Path, job: Job, owner: int, now: int) -> Path:
    """Makes a job's folder, which lives as long as the process `owner`, and takes away what this user's ended jobs
    left. OSError where that is not possible."""
    sweep(root)
    home = root / JOBS
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", job.id)[:60]
    folder = Path(tempfile.mkdtemp(prefix=f"{safe}.", dir=home))
    folder.chmod(0o755)
    known = [root / MACHINE / name for name in ("total_cpu", "hs06")]
    machine = {path.name: path.read_text().strip() for path in known if path.exists()}
    files = {**values(job, machine, now), OWNER: f"{owner} {_began(owner)}"}
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
        (folder / name).chmod(0o644)
    for name, source in (("shutdowntime_job", "shutdowntime"), ("grace_secs_job", "grace_secs")):
        (folder / name).symlink_to(f"/{MACHINE}/{source}")
    return folder


def sweep(root: Path) -> None:
    """Takes away the folders of this user's jobs that have ended: they are in memory."""
    for folder in (root / JOBS).iterdir():
        with contextlib.suppress(OSError, ValueError):
            if folder.lstat().st_uid != os.getuid():
                continue
            pid, began = (folder / OWNER).read_text().split()
            if _began(int(pid)) != began:
                shutil.rmtree(folder)


def _began(pid: int) -> str:
    """When a process began, as the kernel counts; `gone` where there is none. With its number it is unique."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "gone"
    return text.rpartition(")")[2].split()[19]


def run(root: Path = Path("/")) -> NoReturn:
    """The program. As a prolog it works for the process that called it, as a wrapper it becomes the job."""
    command = sys.argv[1:]
    if command[:1] in (["-h"], ["--help"]):
        print(__doc__)
        sys.exit(0)
    variables = {"MACHINEFEATURES": f"/{MACHINE}"}
    try:
        mine = job(os.environ, os.uname().nodename)
        owner = os.getpid() if command else os.getppid()
        variables["JOBFEATURES"] = str(make(root, mine, owner, int(time.time())))
    except (OSError, ValueError) as e:
        print(f"kiosk-jobfeatures: the job goes without: {e}", file=sys.stderr, flush=True)
    if not command:
        for name, value in sorted(variables.items()):
            print(f"export {name}={value}")
        sys.exit(0)
    _become(command, {**os.environ, **variables})


def _become(command: List[str], environment: Dict[str, str]) -> NoReturn:
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606
    except OSError as e:
        print(f"kiosk-jobfeatures: {command[0]}: {e.strerror}", file=sys.stderr)
        sys.exit(127 if isinstance(e, FileNotFoundError) else 126)
