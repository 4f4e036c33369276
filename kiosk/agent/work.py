"""The work's process: `python -m kiosk.agent.work`, started by the daemon when there is something to do.

It takes a low priority, reads its job (one line of JSON) and does one run. It ends with the daemon, and with
SIGTERM: nothing is left half-done, and the next run goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from types import FrameType

from kiosk.agent.orders import Orders
from kiosk.agent.run import Job, Run
from kiosk.agent.talk import Pipe
from kiosk.errors import KioskError
from kiosk.log import set_up
from kiosk.run import run


def main() -> int:
    """Does one run."""
    signal.signal(signal.SIGTERM, _stop)
    set_up(logging.WARNING)
    yield_to_others()
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write among our lines
    pipe = Pipe(source, target)
    line = source.readline()
    if not line:
        return 0
    job = read_job(line)
    pipe.listen()
    threading.Thread(target=_beat, args=(pipe, float(json.loads(line)["beat"])), daemon=True).start()
    try:
        report = Run(job, pipe).run()
        failure, results = report.failure, report.results
        stamp, expires = report.timestamp, report.expires
    except KioskError as e:
        failure, results, stamp, expires = e, [], 0, 0.0
        print(f"kiosk: {e}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    pipe.say(
        "result",
        results=[vars(r) for r in results],
        error=failure.what if failure else None,
        where=failure.where if failure else None,
        code=failure.exit_code if failure else 0,
        timestamp=stamp,
        expires=expires,
    )
    return failure.exit_code if failure else 0


def read_job(line: bytes) -> Job:
    """The job that the daemon wrote."""
    found = json.loads(line)
    return Job(
        Orders.from_json(json.dumps(found["orders"])),
        pushed=tuple(found["pushed"]),
        open=found["open"],
        swarm=found["swarm"],
        fanout=found["fanout"],
    )


def yield_to_others() -> None:
    """The VMs of this host come first: lowest priority for processor and disk, first choice of the OOM killer."""
    with contextlib.suppress(OSError):
        os.nice(15)
    with contextlib.suppress(KioskError):
        run(["ionice", "-c", "3", "-p", str(os.getpid())], timeout=10)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as f:  # noqa: PTH123
        f.write("500")


def _beat(pipe: Pipe, seconds: float) -> None:
    """Says that the process is there. That it gets on is told by what the run says."""
    while True:
        time.sleep(seconds)
        pipe.say("alive")


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
