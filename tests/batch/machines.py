"""Machines with a systemd of their own, as far as a workload uses it: units that are started, asked for, forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kiosk.batch.workload.guests import RUN, Guest
from kiosk.errors import GuestError, NetworkError


@dataclass
class Machine:
    """One machine and the units in it: None runs, a number is how it ended."""

    guest: Guest
    units: dict[str, int | None] = field(default_factory=dict)
    commands: list[Sequence[str]] = field(default_factory=list)
    answers: bool = True
    loses: bool = False

    def end(self, status: int = 0) -> None:
        """All that runs ends."""
        self.units = {name: status if now is None else now for name, now in self.units.items()}

    def run(self, argv: Sequence[str]) -> tuple[int, bytes]:
        """What its systemd would do. With `loses` it does it, and the answer is lost."""
        if not self.answers:
            raise GuestError("the guest agent does not answer")
        self.commands.append(argv)
        done = self._do(argv)
        if self.loses:
            raise GuestError("the guest agent is gone")
        return done

    def _do(self, argv: Sequence[str]) -> tuple[int, bytes]:
        if argv[0] == RUN:
            name = next(w for w in argv if w.startswith("--unit=")).removeprefix("--unit=")
            if name in self.units:
                return 1, b"Unit was already loaded"
            self.units[name] = None
            return 0, b""
        names = argv[argv.index("--") + 1 :]
        if argv[1] == "show":
            return 0, "\n\n".join(map(self._shown, names)).encode()
        for name in names:
            self.units.pop(name, None)
        return 0, b""

    def _shown(self, name: str) -> str:
        if name not in self.units:
            return f"Id={name}\nLoadState=not-found\nActiveState=inactive\nSubState=dead"
        status = self.units[name]
        active, sub = ("active", "running") if status is None else ("active", "exited")
        if status:
            active = sub = "failed"
        code = 0 if status is None else 1
        return (
            f"Id={name}\nLoadState=loaded\nActiveState={active}\nSubState={sub}\nExecMainCode={code}\n"
            f"ExecMainStatus={status or 0}"
        )


@dataclass
class Machines:
    """All machines; the cloud that lists them can be unreachable."""

    all: dict[str, Machine] = field(default_factory=dict)
    reachable: bool = True

    def add(self, name: str, slots: int = 1, **more: object) -> Machine:
        """One more."""
        found = self.all[name] = Machine(Guest(name, slots=slots, **{"status": "open", **more}))  # type: ignore[arg-type]
        return found

    def list(self) -> Sequence[Guest]:
        """As a workload sees them."""
        if not self.reachable:
            raise NetworkError("the cloud can't be reached")
        return [machine.guest for machine in self.all.values()]

    def run(self, name: str, argv: Sequence[str], timeout: float) -> tuple[int, bytes]:
        """Runs a command in one."""
        assert timeout > 0
        return self.all[name].run(argv)
