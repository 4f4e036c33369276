"""A real Slurm controller with a munged of its own, in namespaces of its own. Its nodes register themselves."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.simulators.namespaces import Namespaces, signal_child

CONF = """
ClusterName=ci
SlurmctldHost=localhost({address})
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation={home}/state
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={spool}/slurmd.pid
SlurmdSpoolDir={spool}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmctldParameters=enable_configless
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000
MaxNodeCount={most}
TreeWidth=65533
KillWait=1
MessageTimeout=2
{nodes}
NodeSet=kiosk Feature=kiosk
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=virtual Nodes=kiosk MaxTime=INFINITE State=UP
PartitionName=other Nodes=static1 MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class SlurmCluster:
    """The controller. `spool` is the nodes' SlurmdSpoolDir, `other` what slurm.conf says otherwise than above, and
    `accounts` lines of /etc/passwd that only the controller's host has. Without `cgroups` there is no cgroup.conf."""

    def __init__(
        self,
        home: Path,
        spool: Path,
        most: int = 64,
        address: str = "127.0.0.1",
        other: Mapping[str, str] | None = None,
        accounts: Sequence[str] = (),
        cgroups: bool = True,
    ) -> None:
        self.home, self.key, self.port = home, secrets.token_bytes(1024), free_port()
        self._other, self._cgroups = other or {}, cgroups
        self._conf = {
            "address": address,
            "controller": self.port,
            "node": free_port(),
            "home": home,
            "spool": spool,
        }
        self._conf["nodes"] = f"NodeName=static1 NodeAddr=127.0.0.1 Port={free_port()} State=UNKNOWN"
        for folder in ("state", "munge", "sockets", "slurm"):
            (home / folder).mkdir(parents=True)
        (home / "munge/key").write_bytes(self.key)
        (home / "munge/key").chmod(0o400)
        (home / "munge").chmod(0o700)
        for path in (home / "munge", home / "munge/key", home / "sockets"):
            subprocess.run(["chown", "munge:munge", path], check=True)
        self.namespaces = Namespaces({"/run/munge": home / "sockets", "/run/slurm": home / "slurm"})
        try:
            self._begin(accounts, most)
        except BaseException:
            self.close()
            raise

    def _begin(self, accounts: Sequence[str], most: int) -> None:
        home = self.home
        (home / "passwd").write_text(Path("/etc/passwd").read_text() + "".join(f"{a}\n" for a in accounts))
        mount = self.namespaces.inside(["mount", "--bind", f"{home}/passwd", "/etc/passwd"])
        subprocess.run(mount, check=True)
        files = [f"--{file}-file={home}/munge/{file}" for file in ("key", "pid", "seed", "log")]
        self._start("munged", ["runuser", "-u", "munge", "--", "munged", "--foreground", *files])
        wait_for(lambda: (home / "sockets/munge.socket.2").exists(), "munged")
        self.configure(most)

    @property
    def address(self) -> str:
        """Where nodes reach it."""
        return f"{self._conf['address']}:{self.port}"

    def configure(self, most: int) -> None:
        """Writes slurm.conf and starts the controller."""
        self._configured(most)
        if self.controller.poll() is not None:  # somebody was quicker to take the port
            self.port = self._conf["controller"] = free_port()
            self._configured(most)
        assert self.controller.poll() is None, "slurmctld ended"

    def _configured(self, most: int) -> None:
        conf = CONF.format(**self._conf, most=most)
        for key, value in self._other.items():
            conf = re.sub(rf"^{key}=.*\n", "", conf, flags=re.MULTILINE) + f"{key}={value}\n"
        (self.home / "slurm.conf").write_text(conf)
        if self._cgroups:
            (self.home / "cgroup.conf").write_text("ConstrainCores=yes\nConstrainRAMSpace=yes\n")
        self.controller = self._start("slurmctld", ["slurmctld", "-D", "-f", f"{self.home}/slurm.conf"])

        def settled() -> bool:
            return self.controller.poll() is not None or self.ask("scontrol", "ping").returncode == 0

        wait_for(settled, "slurmctld", 60)

    def stop_controller(self) -> None:
        """The controller ends; its state stays."""
        signal_child(self.controller, signal.SIGTERM)
        self.controller.wait(20)

    def ask(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Runs one of Slurm's programs where the controller is."""
        return subprocess.run(
            self.namespaces.inside(argv),
            env={**os.environ, "SLURM_CONF": f"{self.home}/slurm.conf"},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def said(self, *argv: str) -> str:
        """What such a program prints."""
        done = self.ask(*argv)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout.strip()

    def nodes(self) -> list[str]:
        """The dynamic nodes, with their states."""
        lines = self.said("scontrol", "-o", "show", "nodes").splitlines()
        return [f"{ln.split()[0][9:]} {ln.split('State=')[1].split()[0]}" for ln in lines if "DYNAMIC" in ln]

    def submit(self, script: str, *options: str) -> int:
        """Submits a job and returns its number."""
        return int(self.said("sbatch", "--parsable", "-o", f"{self.home}/%j.out", *options, "--wrap", script))

    def job(self, number: int) -> str:
        """A job's state."""
        return self.said("scontrol", "-o", "show", "job", str(number)).split("JobState=")[1].split()[0]

    def output(self, number: int) -> str:
        """What a job printed."""
        return (self.home / f"{number}.out").read_text()

    def close(self) -> None:
        """Ends everything."""
        self.namespaces.close()

    def _start(self, name: str, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                self.namespaces.inside(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )


@contextmanager
def reachable() -> Iterator[Path]:
    """A folder that munge's user can reach."""
    path = Path(tempfile.mkdtemp(prefix="kiosk-slurm-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def node_namespaces(root: Path) -> Namespaces:
    """Namespaces of a node whose files are below `root`, which is made."""
    for folder in ("run/munge", "run/slurm", "spool"):
        (root / folder).mkdir(parents=True)
    return Namespaces({"/run/munge": root / "run/munge", "/run/slurm": root / "run/slurm"})


def needs_control_groups() -> None:
    """Skips a test that starts slurmd where it can't: in a chroot they are not mounted."""
    if not os.path.ismount("/sys/fs/cgroup"):
        pytest.skip("slurmd needs control groups, and none are mounted here")


def wait_for(what: object, name: str, seconds: float = 20) -> None:
    """Waits until something holds."""
    assert callable(what)
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"{name}: not after {seconds} s"
        time.sleep(0.05)
