"""A machine in a folder whose farm's programs really run, its units too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from contextualize.errors import Refused
from contextualize.machine import Answer, Machine
from tests.simulators.units import Units


class FarmMachine(Machine):
    """Runs programs through `inside` (a namespace, or the machine of the tests)."""

    def __init__(self, root: Path, inside: Callable[[Sequence[str]], list[str]] = list) -> None:
        super().__init__(root)
        self.inside = inside
        self.units = Units(root, inside)
        self.asked: list[list[str]] = []
        (root / "proc").mkdir(parents=True, exist_ok=True)
        (root / "proc/meminfo").write_text("MemTotal:        3072000 kB\nMemFree:          100 kB\n")
        (root / "usr").mkdir(exist_ok=True)
        for folder in ("bin", "sbin"):
            if not (root / "usr" / folder).exists():
                (root / "usr" / folder).symlink_to(f"/usr/{folder}")

    def systemctl(self, *words: str) -> None:
        if words[0] == "start":
            try:
                self.units.start(words[1])
            except AssertionError as e:
                raise Refused(str(e)) from None
        elif words[0] == "stop":
            self.units.stop(words[1])

    def ask(
        self, argv: Sequence[str], timeout: float = 20, environment: Mapping[str, str] | None = None
    ) -> Answer:
        self.asked.append(list(argv))
        if argv[:2] == ["systemctl", "kill"]:
            self.units.tell(argv[-1])
            return Answer(0, "", "")
        if argv[0] == "systemctl":
            state = self.units.active(argv[2]) if argv[1] == "is-active" else ""
            return Answer(0 if state == "active" else 3, state, "")
        if argv[0] == "journalctl":
            lines = self.units.said(argv[-1].rpartition("=")[2]).splitlines()
            return Answer(0, "\n".join(lines[-int(argv[argv.index("-n") + 1]) :]), "")
        return super().ask(self.inside(argv), timeout, environment)
