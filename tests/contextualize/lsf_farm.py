"""A simulated LSF cluster and a machine that may join it, with the cluster's time as the machine's."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from contextualize.machine import Answer
from tests.contextualize.farm_machine import FarmMachine
from tests.simulators.lsf.cluster import State
from tests.simulators.lsf.programs import install, main

BIN, SERVER = "/usr/lsf/bin", "/usr/lsf/etc"


class LsfMachine(FarmMachine):
    """Its clock is the cluster's, which each look at it lets go on by a little."""

    def __init__(self, root: Path, state: State) -> None:
        super().__init__(root)
        self.state = state
        self.at: dict[float, Callable[[], None]] = {}
        """What happens to the cluster at a time of its."""

    def clock(self) -> float:
        return float(json.loads(self.state.path.read_text())["now"])

    def sleep(self, seconds: float) -> None:
        with self.state() as now:
            now["now"] += seconds
            time = now["now"]
        for when in [when for when in self.at if when <= time]:
            self.at.pop(when)()

    def ask(
        self, argv: Sequence[str], timeout: float = 20, environment: Mapping[str, str] | None = None
    ) -> Answer:
        """The cluster's programs are called in this process, which is the same and much quicker; as others the
        tests of the simulated cluster run them."""
        program = Path(argv[0])
        if program.parent != self.path(BIN):
            return super().ask(argv, timeout, environment)
        self.asked.append(list(argv))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(program.name, str(self.state.path), argv[1:])
        return Answer(status, out.getvalue().strip(), err.getvalue().strip())

    def processes(self, name: str, parent: int | None = None) -> int:
        return len(self.units.left(f"kiosk-farm-{name}.service"))

    def address(self, host: str) -> str | None:
        return "192.0.2.7"


class LsfFarm:
    """The cluster, seen from its master."""

    def __init__(self, home: Path, dialect: str, node: str = "lava1") -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.node = node
        self.state = State.create(home / "cluster.json", dialect)
        self.machine = LsfMachine(home / "root", self.state)
        install(self.machine.path(BIN), self.machine.path(SERVER), self.state)
        self.change(here=node)

    def change(self, **changes: Any) -> None:
        """Changes the cluster's state."""
        with self.state() as state:
            state.update(changes)

    def master(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Runs a program on the master."""
        self.change(here="lavam")
        done = subprocess.run([self.machine.path(BIN) / argv[0], *argv[1:]], capture_output=True, text=True)
        self.change(here=self.node)
        return done

    def said(self, *argv: str) -> str:
        """What a program prints on the master."""
        return self.master(*argv).stdout

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.machine.sleep(seconds)

    def add_job(self, job: int, user: str, name: str, *hosts: str, status: str = "RUN") -> None:
        """A job is there."""
        with self.state() as state:
            state["jobs"].append(
                {"id": job, "user": user, "name": name, "hosts": list(hosts), "status": status}
            )

    def end_jobs(self) -> None:
        """All jobs end."""
        self.change(jobs=[])

    def crash(self, *daemons: str) -> None:
        """The node's daemons (all, when none is named) are gone at once."""
        with self.state() as state:
            for name, pid in state["hosts"][self.node]["pids"].items():
                if name in daemons or not daemons:
                    with contextlib.suppress(ProcessLookupError):
                        process = os.pidfd_open(pid)
                        os.kill(pid, signal.SIGKILL)
                        select.select([process], [], [], 10)
                        os.close(process)

    def hosts(self, *options: str) -> dict[str, str]:
        """bhosts' word for each host."""
        lines: Sequence[str] = self.said("bhosts", "-w", *options).splitlines()[1:]
        return {line.split()[0]: line.split()[1] for line in lines}
