"""Runs diskimage-builder: elements in, a tar of a root tree out, its output in a log, progress by hook."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiosk.build.mirrors import OLD_KEYS, UNKNOWN_KEY
from kiosk.build.sandbox import run_confined
from kiosk.errors import BuildError, StorageError
from kiosk.log import logger
from kiosk.progress import Bar, bar
from kiosk.run import CommandError, environment

log = logger(__name__)

HOUR = 3600.0
# diskimage-builder calls sudo for everything; this build is root already and sudo need not be installed.
AS_ROOT = """#!/bin/sh
[ "$1" = -E ] && shift
exec env -- "$@"
"""
PHASES = [
    "root",
    "extra-data",
    "pre-install",
    "install",
    "post-install",
    "post-root",
    "block-device",
    "pre-finalise",
    "finalise",
    "cleanup",
]
RUNNING = re.compile(r"dib-run-parts Running \S*?/([a-z-]+)\.d/(\S+)$")
WARNING = re.compile(r"^kiosk warning: (.*)$")
TELLING = re.compile(
    r"(^|\s|> )(E: |W: Failed|ERROR|Error[: ]|error:|dpkg: error|fatal|Traceback|[A-Za-z]+Error:)"
    r"|returncode [1-9]|[Nn]o space left|Couldn't|Unable to|cannot |command not found|Failed to|[Nn]o such file"
    r"|Invalid Release|unbound variable|NO_PUBKEY"
)
NOISE = re.compile(
    r"^\S+ \S+ \| \+|debconf: |dib-run-parts Sourcing|update-rc.d|invoke-rc.d|Can't set locale"
)


@dataclass(frozen=True)
class Job:
    """One run of disk-image-create. `folder` is private; all temporary files and mounts are below it."""

    what: str
    elements: Sequence[str]
    element_path: Sequence[Path]
    folder: Path
    cache: Path
    log: Path
    env: Mapping[str, str]
    hooks: int


def count_hooks(folders: Sequence[Path]) -> int:
    """How many hooks these elements have: the length of the progress bar."""
    return sum(
        1 for f in folders for p in PHASES for hook in (f / f"{p}.d").glob("*") if "." not in hook.name
    )


def make_tree(job: Job) -> Path:
    """Builds the tree and returns its tar, below `job.folder`; BuildError shows the lines that matter."""
    temporary, target, programs = job.folder / "dib", job.folder / "tree", job.folder / "bin"
    temporary.mkdir()
    programs.mkdir()
    (programs / "sudo").write_text(AS_ROOT, encoding="utf-8")
    (programs / "sudo").chmod(0o755)
    env = {
        **job.env,
        "PATH": f"{programs}:{environment()['PATH']}",
        "ARCH": "amd64",
        "ELEMENTS_PATH": ":".join(map(str, job.element_path[:-1])),
        "TMP_DIR": str(temporary),
        "HOME": str(job.folder),
        "USER": "root",
        "DIB_IMAGE_CACHE": str(job.cache),
        "DIB_LOCKFILES": str(job.folder / "locks"),
        "DIB_NO_TIMESTAMP": "1",
    }
    argv: list[str | Path] = [
        Path(sys.executable).parent / "disk-image-create",
        "-n",
        "-u",
        "-t",
        "tar",
        "-o",
        target,
        *job.elements,
    ]
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.log.write_bytes(b"")
    with bar(job.what, job.hooks, unit="hook") as progress:
        try:
            run_confined(
                argv,
                folder=job.folder,
                timeout=2 * HOUR,
                log_to=job.log,
                on_line=_watcher(job.what, progress),
                env=env,
            )
        except CommandError as e:
            raise explain_failure(job.log, e.status) from None
    return target.with_suffix(".tar")


def _watcher(what: str, progress: Bar) -> Callable[[str], None]:
    def on_line(line: str) -> None:
        if found := RUNNING.search(line):
            progress.set_description(f"{what}: {found[1]}/{found[2]}")
            progress.update(1)
        elif warning := WARNING.search(line):
            log.warning("%s: %s", what, warning[1])

    return on_line


def explain_failure(log: Path, status: int) -> BuildError | StorageError:
    """A failed build as one error: the hook that failed and the lines of the log that say why."""
    lines = log.read_bytes()[-2_000_000:].decode(errors="replace").splitlines()
    hook = next((f"{m[1]}.d/{m[2]}" for line in reversed(lines) if (m := RUNNING.search(line))), None)
    telling = [line.strip() for line in lines if TELLING.search(line) and not NOISE.search(line)]
    shown = list(dict.fromkeys(telling))[-8:] or [line for line in lines if line.strip()][-5:]
    hint = f"The whole log: {log}"
    if any("o space left on device" in line for line in shown):
        return StorageError("no space left on device while building", where=hook, hint=hint)
    if any(UNKNOWN_KEY.search(line) for line in lines):
        hint = f"{OLD_KEYS}\n  {hint}"
    text = "\n    ".join(["diskimage-builder failed" + (f" in {hook}" if hook else "") + ":", *shown])
    return BuildError(f"{text}\n  (status {status})", hint=hint)
