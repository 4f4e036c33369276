"""What it costs an agent to stay in the swarms of big images: `python -m benchmarks.swarm_idle [--seconds 60]`.

A process with all that the daemon imports takes part, through the daemon's own `Joined`, in the torrents of several
versions of a 10 GB image, each sharing most objects with the version before, and all of them on disk (as sparse
files). Memory by smaps_rollup and processor time by /proc/PID/stat, while nothing happens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.agent_idle import busy, memory
from kiosk.model.manifest import Object
from kiosk.store.api import DirectoryStore
from kiosk.swarm.make import Nothing, torrent

SIZE = 4 << 20
OBJECTS = 2500
CHANGED = 50


def sparse(folder: Path, number: int) -> Object:
    """An object that differs from others in its first bytes, made below a folder."""
    head = number.to_bytes(8, "big")
    sha = hashlib.sha256(head)
    sha.update(bytes(SIZE - len(head)))
    path = folder / "objects" / sha.hexdigest()[:2] / sha.hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as f:
        f.write(head)
        f.truncate(SIZE)
    return Object(digest=f"sha256:{sha.hexdigest()}", size=SIZE)


def torrents(folder: Path, versions: int) -> Iterator[tuple[str, Path]]:
    """The torrents of some versions: (infohash, file)."""
    source = DirectoryStore(folder)
    objects = [sparse(folder, n) for n in range(OBJECTS)]
    for version in range(versions):
        if version:
            first = OBJECTS + (version - 1) * CHANGED
            objects = objects[CHANGED:] + [sparse(folder, n) for n in range(first, first + CHANGED)]
        infohash, data = torrent(source, objects, Nothing())
        file = folder / f"{infohash}.torrent"
        file.write_bytes(data)
        yield infohash, file


def measure(versions: int, seconds: float) -> dict[str, float]:
    """Makes the torrents, and looks at a member of their swarms."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        found = list(torrents(folder, versions))
        argv = [sys.executable, "-m", "benchmarks.swarm_member", name]
        argv += [f"{infohash}={file}" for infohash, file in found]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdin is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(10)
            before, begin = busy(process.pid), time.monotonic()
            time.sleep(seconds)
            spent = busy(process.pid) - before
            cost = {**memory(process.pid), "core_percent": 100 * spent / (time.monotonic() - begin)}
            process.stdin.close()
    return {"versions": versions, "objects": OBJECTS, "object_bytes": SIZE, **cost}


def main() -> None:
    """Measures and prints."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--versions", type=int, default=3)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    cost = measure(given.versions, given.seconds)
    print(
        f"in {given.versions} swarms of {OBJECTS * SIZE / 1e9:.1f} GB each, idle for {given.seconds:.0f} s: "
        f"{cost['rss']:.1f} MiB RSS, {cost['pss']:.1f} MiB PSS, {cost['core_percent']:.3f} % of a core"
    )
    if given.json:
        given.json.write_text(json.dumps(cost) + "\n")


if __name__ == "__main__":
    main()
