"""A site of a test's own: a kiosk host and a hypervisor as the farm's, a batch cluster, and `kiosk scheduler run` as a
process of its own, with what it says of itself."""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kiosk import files
from kiosk.cloud.api import VmState
from kiosk.scheduler.ledger import Ledger
from kiosk.scheduler.model import Node
from kiosk.scheduler.state import Folder
from tests.boot.farm import ROOT, Farm
from tests.simulators.slurm import SlurmCluster

ASKS = ("squeue", "sinfo", "sshare", "scontrol")


def copied(farm: Farm, home: Path) -> Farm:
    """A farm that begins as another one is now; what is published in it is not seen elsewhere."""
    for where in ("kiosk-host", "hypervisor"):
        here, there = farm.home / where, home / where
        shutil.copytree(
            here, there, symlinks=True, ignore=shutil.ignore_patterns("cache", "vms", "scheduler")
        )
    files.write(home / "passphrase", (farm.home / "passphrase").read_bytes(), mode=0o600)
    return Farm(home)


def commands(cluster: SlurmCluster, folder: Path) -> Path:
    """Programs that run Slurm's where the controller is."""
    folder.mkdir()
    for name in ASKS:
        words = f'exec {shlex.join(cluster.namespaces.inside([name]))} "$@"'
        files.write(
            folder / name,
            f"#!/bin/sh\nexport SLURM_CONF={cluster.home}/slurm.conf\n{words}\n".encode(),
            mode=0o755,
        )
    return folder


def context(cluster: SlurmCluster, file: Path) -> Path:
    """What every node is told besides: the farm to join, with its secret."""
    told = {
        "farm": {
            "kind": "slurm",
            "name": "ci",
            "timeout": 120,
            "settings": {"controllers": cluster.address, "partition": "virtual"},
            "secrets": {"munge_key": base64.b64encode(cluster.key).decode()},
        }
    }
    files.write(file, json.dumps(told).encode(), mode=0o600)
    return file


@dataclass
class Scheduling:
    """`kiosk scheduler run` on the hypervisor of a farm, by a configuration file."""

    farm: Farm
    config: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        """Starts it."""
        env = os.environ | {
            "KIOSK_HOME": str(self.farm.home / "hypervisor"),
            "KIOSK_URL": str(self.farm.home / "kiosk-host/repository"),
            "PYTHONPATH": str(ROOT),
        }
        words = [sys.executable, "-m", "kiosk", "scheduler", "run", "--scheduler-config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        """Ends it without a word to it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def end(self) -> int:
        """Has it end in order; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.farm.home / "scheduler.log"

    @property
    def folder(self) -> Folder:
        """Where it keeps its things."""
        return Folder(self.farm.settings.home / "scheduler")

    def said(self, *words: str) -> Any:
        """What `kiosk scheduler ... --json` says."""
        return json.loads(self.farm.kiosk("hypervisor", "scheduler", *words, "--json"))

    def last(self) -> dict[str, Any]:
        """The last tick; nothing before the first."""
        return self.folder.status() if (self.folder.root / "status.json").exists() else {}

    def nodes(self) -> dict[str, Node]:
        """The nodes that it knows, by id."""
        if not self.folder.ledger.exists():
            return {}
        with Ledger.reading(self.folder.ledger) as ledger:
            return dict(ledger.nodes())

    def phases(self) -> list[str]:
        """The nodes' phases, sorted."""
        return sorted(node.phase for node in self.nodes().values())

    def vms(self) -> dict[str, VmState]:
        """The VMs, by name."""
        return {vm.name: vm for vm in self.farm.cloud().list_vms()}
