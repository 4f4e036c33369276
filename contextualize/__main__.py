"""`python3 -IS /usr/lib/kiosk/python/contextualize` boots; nothing but the image's own files says what runs then.
With a word it does what belongs to the life of a machine that is ready:

drain [REASON]   drains and powers off (kiosk-drain.service)
ask REASON       asks for a drain; `-` reads the reason from standard input
watch, health    look once whether there is a reason to drain
leave            the machine is being shut down: says so, and takes it off its farm
stop REASON      says that the machine stops
"""

from __future__ import annotations

import posixpath
import sys
from functools import partial
from typing import List

if __package__ in ("", None):  # started by its path, which Python takes for where modules are
    sys.path[0] = posixpath.dirname(sys.path[0])
    sys.dont_write_bytecode = True

from contextualize.errors import Refused
from contextualize.machine import Machine
from contextualize.stages.report import Reporter


def main(words: List[str]) -> int:
    """Does what the words say; its status is the program's."""
    for stream in (sys.stdout, sys.stderr):  # a reason can hold what no encoding has
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    machine = Machine()
    reporter = Reporter(machine)
    if not words:
        from contextualize.boot import boot

        return boot(machine, reporter)
    try:
        return _life(machine, reporter, words[0], " ".join(words[1:]))
    except Refused as e:
        print(f"kiosk: {e.reason}", file=sys.stderr, flush=True)
        return 1


def _life(machine: Machine, reporter: Reporter, verb: str, rest: str) -> int:
    if verb == "stop":
        reporter.stopping(rest or "asked to")
        return 0
    if verb in ("drain", "leave"):
        from contextualize.farm import member
        from contextualize.life import drain

        if verb == "leave":
            return drain.leave(machine, reporter, partial(member.load, ends=True))
        return drain.Drain(machine, reporter, member.load).run(rest or None)
    if verb == "ask":
        from contextualize.life import requests

        requests.ask(machine, sys.stdin.read(4096) if rest == "-" else rest)
        return 0
    if verb == "watch":
        from contextualize.life import watch

        return watch.run(machine)
    if verb == "health":
        from contextualize.life import health

        return health.run(machine)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
