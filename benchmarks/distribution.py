"""What it takes to bring a new version of an image to a host: kiosk and what a user would pick instead.

    sudo .venv/bin/python -m benchmarks.distribution [--home FOLDER] [--only TOOL ...] [--json]

All tools get the same images (benchmarks/images.py) in one run on one machine, one after the other, each step
as a process of its own (benchmarks/measure.py), its input in the page cache. Moved are the bodies that nginx
(or rsync's daemon) on loopback sent, to a host that holds v1. The seconds to make an image end when it is on
disk; its digest is then compared, and a tool that made something else has failed. A tool that is missing or
fails is a row that says so. A whole run writes benchmarks/results/distribution.json and docs/distribution.svg.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import archives, goals, images, tools
from benchmarks.measure import Step, warm
from benchmarks.server import Server, Traffic, nginx
from kiosk import files
from kiosk.build import sandbox
from kiosk.cli.common import emit, guard, say, table
from kiosk.errors import KioskError, MissingToolError, UsageError
from kiosk.run import CommandError, run, tool

TOOLS: tuple[type[tools.Tool], ...] = (
    tools.Kiosk,
    tools.KioskDifferences,
    tools.WholeZstd,
    tools.PatchFrom,
    tools.Casync,
    tools.Zsync,
    tools.Rsync,
    archives.Restic,
    archives.Borg,
    archives.BorgFixed,
    tools.Zchunk,  # last: it takes the longest
)
UPDATES = images.NAMES[1:]
RESULTS = Path(__file__).parent / "results" / "distribution.json"
PLOT = Path(__file__).parent.parent / "docs" / "distribution.svg"
VERSIONS = {
    "casync": "casync",
    "zck": "zchunk",
    "zsync": "zsync",
    "restic": "restic",
    "borg": "borgbackup",
    "rsync": "rsync",
    "zstd": "zstd",
    "nginx": "nginx-light",
    "curl": "curl",
    "mkfs.ext4": "e2fsprogs",
}


@dataclass
class Row:
    """What one tool took. `moved` is to a host that holds v1; `failed` says why there is less than all."""

    name: str
    note: str
    chunking: bool
    publish: dict[str, Step] = field(default_factory=dict)
    stored: int | None = None
    moved: dict[str, Traffic] = field(default_factory=dict)
    make: dict[str, Step] = field(default_factory=dict)
    cold: Step | None = None
    cold_moved: Traffic | None = None
    failed: str = ""


def measure(kind: type[tools.Tool], home: Path, folder: Path, server: Server) -> Row:
    """Measures one tool; whatever goes wrong with it is in its row."""
    row = Row(kind.name, kind.note, kind.chunking)
    try:
        for program in kind.programs:
            tool(program)
        _measure(kind(home, folder, server), row)
    except KioskError as e:
        row.failed = str(e)
    finally:
        files.remove_tree(folder)
    return row


def _measure(one: tools.Tool, row: Row) -> None:
    for name in images.NAMES:
        warm(*one.inputs(name))
        _say(f"{row.name}: publish {name}")
        try:
            row.publish[name] = one.publish(name)
        except tools.NotMeasured as e:
            if not isinstance(one, tools.Rsync):
                raise
            _say(str(e))
    row.stored = one.stored()
    one.server.sent()
    try:
        warm(*one.inputs("v1"))
        _say(f"{row.name}: make v1 from nothing")
        row.cold, row.cold_moved = one.cold()
        _compare(one, "v1")
    except tools.NotMeasured:
        pass
    for name in UPDATES:
        one.prepare(name)
        warm(*one.inputs(name))
        _say(f"{row.name}: make {name}")
        row.make[name], row.moved[name] = one.update(name)
        _compare(one, name)
        one.target(name).unlink()


def _compare(one: tools.Tool, name: str) -> None:
    found, wanted = files.sha256(one.target(name)), one.image(name).with_suffix(".sha256").read_text().strip()
    if found != wanted:
        raise KioskError(f"made an image that is not {name}", where=str(one.target(name)))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "cpu": names[0] if names else platform.machine(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "tools": {package: _version(package) for package in VERSIONS.values()},
    }


def _version(package: str) -> str:
    try:
        return run(["dpkg-query", "-W", "-f", "${Version}", package], timeout=30)
    except CommandError:
        return "not installed"


def show(rows: list[Row]) -> None:
    """Prints the table."""
    columns = ["", "publish v1 / heavy, s#", "CPU, s#", "peak, MB#", "stored, MB#"]
    columns += [
        "moved quiet / heavy / rebuilt, MB#",
        "requests#",
        "make q / h / r, s#",
        "peak, MB#",
        "cold, s#",
    ]
    lines = []
    for row in rows:
        published = [row.publish.get(name) for name in ("v1", "heavy")]
        lines.append(
            [
                row.name,
                _joined(published, lambda s: f"{s.seconds:.1f}"),
                _joined(published, lambda s: f"{s.cpu:.1f}"),
                _joined(published[1:], lambda s: f"{s.peak / 1e6:.0f}"),
                "–" if row.stored is None else f"{row.stored / 1e6:.0f}",
                _joined([row.moved.get(n) for n in UPDATES], lambda t: f"{t.bytes / 1e6:.1f}"),
                _joined(
                    [row.moved.get(n) for n in UPDATES], lambda t: f"{t.requests:,}" if t.requests else "–"
                ),
                _joined([row.make.get(n) for n in UPDATES], lambda s: f"{s.durable:.1f}"),
                _joined([row.make.get("heavy")], lambda s: f"{s.peak / 1e6:.0f}"),
                "–" if row.cold is None else f"{row.cold.durable:.1f}",
            ]
        )
    table(columns, lines)
    for row in rows:
        why = [text for text in (row.note, row.failed.partition("\n")[0]) if text]
        if why:
            say(f"{row.name}: {'; '.join(why)}")


def _joined(found: list[Any], form: Any) -> str:
    texts = ["–" if one is None else form(one) for one in found]
    return "–" if set(texts) == {"–"} else " / ".join(texts)


def document(
    rows: list[Row], facts: dict[str, Any], about: dict[str, Any], began: datetime
) -> dict[str, Any]:
    """What is written to results/distribution.json; bytes and seconds."""
    plain = [asdict(row) for row in rows]
    for row in plain:
        for step in [*row["publish"].values(), *row["make"].values(), row["cold"] or {}]:
            step.pop("output", None)
            step.update({k: round(step[k], 2) for k in ("seconds", "cpu", "sync") if k in step})
    return {
        "date": began.isoformat(timespec="seconds"),
        "machine": about,
        "images": facts["images"],
        "rows": plain,
        "goals": [asdict(goal) for goal in goals.judge(plain)],
        "seconds": round((datetime.now(timezone.utc) - began).total_seconds()),
    }


def main() -> int:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(description="Measure kiosk beside other tools, on the same images.")
    parser.add_argument("--home", type=Path, default=images.HOME, help=f"images and scratch ({images.HOME})")
    parser.add_argument("--only", action="append", metavar="TOOL", help="a row's name; may be given again")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--output", type=Path, help="where the results go (a whole run: results/)")
    given = parser.parse_args()
    return guard(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    sandbox.require_root("building the benchmark's images")
    chosen = [kind for kind in TOOLS if not given.only or kind.name in given.only]
    unknown = set(given.only or []) - {kind.name for kind in TOOLS}
    if unknown:
        names = ", ".join(f'"{kind.name}"' for kind in TOOLS)
        raise UsageError(f"there is no row {sorted(unknown)[0]!r}", hint=f"There are: {names}.")
    tool("time")
    output = given.output or (None if given.only else RESULTS)
    if output == RESULTS and importlib.util.find_spec("matplotlib") is None:
        raise MissingToolError("matplotlib is not installed", hint="pip install -e '.[bench]'")
    began = datetime.now(timezone.utc)
    facts, about = images.build(given.home), machine()
    rows: list[Row] = []
    with (
        files.scratch(given.home.resolve() / "measuring") as folder,
        nginx(folder, folder / "nginx") as server,
    ):
        for kind in chosen:
            rows.append(measure(kind, given.home.resolve(), folder / kind.__name__, server))
            _say(f"{kind.name}: {rows[-1].failed or 'done'}")
            found = document(rows, facts, about, began)
            files.write(given.home / "so-far.json", json.dumps(found, indent=2).encode())
    if output is not None:
        files.write(output, (json.dumps(found, indent=2) + "\n").encode())
    if output == RESULTS:
        from benchmarks import plot  # needs the extra `bench`

        plot.draw(found, PLOT)
    if given.json:
        emit(found)
    else:
        show(rows)
        say()
        goals.show(found["goals"])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
