"""`python3 -m contextualize` boots; `python3 -m contextualize stop REASON` says that the machine stops."""

from __future__ import annotations

import sys
from typing import List

from contextualize.boot import boot
from contextualize.machine import Machine
from contextualize.stages.report import Reporter


def main(words: List[str]) -> int:
    """Does what the words say; its status is the program's."""
    machine = Machine()
    reporter = Reporter(machine)
    if words[:1] == ["stop"]:
        reporter.stopping(" ".join(words[1:]) or "asked to")
        return 0
    return boot(machine, reporter)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
