"""A build's own mount and process namespaces: whatever ends it, no mount and no process stays behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kiosk.errors import UsageError
from kiosk.run import run, stream


def require_root(what: str) -> None:
    """UsageError where this process is not root."""
    if os.geteuid() != 0:
        raise UsageError(f"{what} needs root: it installs packages in a chroot", hint="Run it with sudo.")


def run_confined(
    argv: Sequence[str | Path],
    *,
    folder: Path,
    timeout: float,
    log_to: Path,
    on_line: Callable[[str], None],
    env: Mapping[str, str],
) -> None:
    """Runs a program that mounts things, all of them below `folder`, as `kiosk.run.stream` does."""
    try:
        stream(
            [*namespaces(), "--mount-proc", sys.executable, "-m", "kiosk.build.jail", *argv],
            timeout=timeout,
            log_to=log_to,
            on_line=on_line,
            env=env,
        )
    finally:
        unmount_below(folder)


def in_tree(tree: Path, argv: Sequence[str], *, timeout: float) -> str:
    """Runs a program of a root tree in that tree, as root and in its own mount and process namespaces, and
    returns what it printed. Raises CommandError as `kiosk.run.run` does."""
    words: list[str | Path] = [*namespaces(), f"--root={tree}", "--wd=/", "--mount-proc"]
    (tree / "proc").mkdir(exist_ok=True)
    clean = ["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root"]
    try:
        return run([*words, *clean, *argv], timeout=timeout)
    finally:
        unmount_below(tree)


def namespaces() -> list[str | Path]:
    """The command that gives a program namespaces which end with it."""
    words: list[str | Path] = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    return words if root_is_mount() else [*words, "--propagation", "unchanged"]


def root_is_mount() -> bool:
    """Whether this process's root is a mount point: in a chroot it often is not, and can't be made private."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return any(line.split(" ")[4] == "/" for line in text.splitlines())


def mounts_below(folder: Path) -> list[Path]:
    """What is mounted at or below a folder, the deepest first."""
    text = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    points = [Path(line.split(" ")[1].replace("\\040", " ")) for line in text.splitlines()]
    return [p for p in reversed(points) if p.is_relative_to(folder.resolve())]


def unmount_below(folder: Path) -> None:
    """Unmounts what a build in a chroot (where mounts can't be kept private) may have left."""
    for point in mounts_below(folder):
        run(["umount", "--lazy", point], timeout=60)
