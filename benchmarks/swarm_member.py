"""The process that `benchmarks.swarm_idle` looks at: what the daemon imports, and nothing else, in some swarms."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import kiosk.agent.daemon  # noqa: F401 (its memory is counted)
from kiosk.agent.swarm import Joined
from kiosk.swarm.options import Options
from kiosk.swarm.session import Session


def main() -> None:
    """Takes part in INFOHASH=FILE... with the objects of FOLDER, says so, and stays until its input ends."""
    folder = Path(sys.argv[1])
    pairs = [one.partition("=") for one in sys.argv[2:]]
    session = Session(folder, folder / "whole", Options(listen=("127.0.0.1:0",)))
    joined = Joined(session, [], 0)
    joined.seed([(infohash, Path(file)) for infohash, _, file in pairs])
    while len(session.torrents) < len(pairs):
        time.sleep(0.5)
    print("ready", flush=True)
    sys.stdin.read()
    joined.close()


if __name__ == "__main__":
    main()
