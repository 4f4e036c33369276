"""A folder machine whose clock is a file, and the farm's side of a member in a test's hands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from contextualize.errors import Refused
from contextualize.machine import Answer
from tests.contextualize.guest import FolderMachine


class Clocked(FolderMachine):
    """Sleeping moves its clock, and `later` are calls that happen as soon as it shows a time."""

    def __init__(self, root: Path, context: Path) -> None:
        super().__init__(root, context)
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.units: dict[str, str] = {}
        self.blocks: dict[str, str] = {}

    def set_uptime(self, seconds: float) -> None:
        path = self.path("/proc/uptime")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{seconds:.2f} 0.00\n")

    def sleep(self, seconds: float) -> None:
        self.set_uptime(self.uptime() + max(seconds, 0.01))
        for item in [x for x in self.later if x[0] <= self.uptime()]:
            self.later.remove(item)
            item[1]()

    def ask(
        self, argv: Sequence[str], timeout: float = 20, environment: Mapping[str, str] | None = None
    ) -> Answer:
        if argv[:2] == ["systemctl", "is-active"]:
            state = self.units.get(argv[2], "active")
            return Answer(0 if state == "active" else 3, state, "")
        return super().ask(argv, timeout, environment)

    def run(self, argv: Sequence[str], timeout: float = 60) -> str:
        if argv[:2] == ["dmsetup", "status"]:
            return f"0 4096 verity {self.blocks.get(argv[2], 'V')}"
        return super().run(argv, timeout)


class Seat:
    """A farm's member. `jobs` run on it; what is in `deaf` can't be asked of the farm."""

    def __init__(self, jobs: int = 0) -> None:
        self.jobs = jobs
        self.deaf: set[str] = set()
        self.said: list[str] = []
        self.last: list[bool] = []

    def _say(self, verb: str, word: str) -> None:
        if verb in self.deaf:
            raise Refused(f"the master does not answer ({verb})")
        self.said.append(word)

    def close(self, reason: str) -> None:
        self._say("close", f"close: {reason}")

    def busy(self) -> int:
        self._say("busy", "busy")
        return self.jobs

    def leave(self, reason: str, *, last: bool = True) -> None:
        self.last.append(last)
        self._say("leave", f"leave: {reason}")
