"""Programs that read hostile bytes: confined to one folder, without rights, network, or much of anything.

Run by root, a program becomes the user nobody, without capabilities and without a network of its own; run by anybody
else it keeps their rights. Either way its memory, its files' sizes, its processor time and its time are bounded, and
it is told names relative to its folder: it needs no right to any folder above.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kiosk.run import run

NOBODY = 65534
MEMORY = 4 << 30
NAMES = ("unshare", "setpriv", "prlimit")


def prepare(folder: Path) -> None:
    """Makes a folder that confined programs may write in."""
    folder.mkdir(mode=0o700)
    _give(folder)


def hand_over(path: Path) -> None:
    """Lets confined programs read and write a file in their folder."""
    path.chmod(0o600)
    _give(path)


def take_back(path: Path) -> None:
    """Makes what a confined program wrote ours."""
    if os.geteuid() == 0:
        os.chown(path, 0, 0)


def _give(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)


def confined(argv: Sequence[str], folder: Path, *, timeout: float, largest: int = 64 << 20) -> str:
    """Runs a program in `folder` and returns what it printed. No file that it writes may be larger than `largest`
    bytes. Raises CommandError as `kiosk.run.run` does."""
    words: list[str] = []
    if os.geteuid() == 0:
        words += ["unshare", "--net", "--"]
        words += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
        words += ["--inh-caps=-all", "--bounding-set=-all", "--"]
    words += ["prlimit", f"--fsize={largest}", f"--as={MEMORY}", "--core=0", "--nofile=64"]
    words += [f"--cpu={int(timeout) + 1}", "--", *argv]
    return run(words, timeout=timeout, cwd=folder)
