"""Which packages a release's archive has, as apt knows it: private lists, verified with Debian's archive keys.

Nothing of the host's apt is changed or read but its mirrors and the options to reach them. Lists are kept for
a day in the cache.
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kiosk.build import mirrors
from kiosk.config import Settings
from kiosk.errors import NetworkError
from kiosk.files import locked, storage_errors, write
from kiosk.run import CommandError, run

DAY = 86400
State = Literal["real", "virtual", "unknown"]


@dataclass(frozen=True)
class Archive:
    """The archive of one release and one architecture (as Debian calls it: amd64, i386)."""

    folder: Path
    release: str
    architecture: str

    @classmethod
    def below(cls, home: Path, release: str, architecture: str) -> Archive:
        """The archive with its lists in a folder of its own below `home`."""
        return cls(home / f"{release}-{architecture}", release, architecture)

    def states(self, packages: Iterable[str]) -> dict[str, State]:
        """What each name is: a package, a name that packages provide, or neither. Needs `refresh` first."""
        names = sorted(set(packages))
        if not names:
            return {}
        found: dict[str, State] = dict.fromkeys(names, "unknown")
        name = ""
        for line in self._apt("apt-cache", "policy", *names).splitlines():
            if line and not line[0].isspace():
                name = line.strip().removesuffix(":").removesuffix(f":{self.architecture}")
            elif line.strip().startswith("Candidate:"):
                found[name] = "virtual" if line.split()[1] == "(none)" else "real"
        return {k: v for k, v in found.items() if k in names}

    def near(self, name: str) -> list[str]:
        """Names that the archive has and that are like this one."""
        known = self._apt("apt-cache", "pkgnames", name[:1]).split()
        longer = sorted((k for k in known if k.startswith(name)), key=len)
        return list(dict.fromkeys([*longer, *difflib.get_close_matches(name, known, n=3)]))[:3]

    def refresh(self) -> None:
        """Brings the lists up to date; NetworkError when there are none and none can be had."""
        with storage_errors(self.folder), locked(self.folder / "lock", what="a look at the archive"):
            stamp = self.folder / "refreshed"
            if self._lists() and stamp.exists() and time.time() - stamp.stat().st_mtime < DAY:
                return
            found = mirrors.host_mirrors(self.release)
            signed = f"deb [arch={self.architecture} signed-by={mirrors.keyring()}]"
            self.configure(
                f"{signed} {found.main} {self.release} main\n"
                f"{signed} {found.main} {self.release}-updates main\n"
                f"{signed} {found.security} {self.release}-security main\n",
                found.options,
            )
            try:
                said = self.update()
            except CommandError as e:
                said = e.output
            # Where one of the three suites can't be had, apt may call it a failure or not; the main one is enough.
            if not self._lists():
                raise NetworkError(
                    f"can't read the archive's list of packages for {self.release} ({self.architecture}):"
                    f" {_last_error(said)}",
                    hint=mirrors.OLD_KEYS
                    if mirrors.UNKNOWN_KEY.search(said)
                    else "Try again later, or leave the packages out: --offline",
                )
            write(stamp, b"")

    def update(self) -> str:
        """Has apt read the lists of the sources that it was configured with, and returns what it said."""
        return self._apt("apt-get", "update", "-o", "APT::Update::Error-Mode=any", timeout=300)

    def configure(self, sources: str, options: Sequence[tuple[str, str]]) -> None:
        """Writes what apt is told: the text of a sources.list, and options beyond this folder's own."""
        for name in ("lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        write(self.folder / "sources.list", sources.encode())
        lines = [
            'Dir::Etc::parts "/dev/null";',
            'Dir::Etc::main "/dev/null";',
            'Dir::Etc::sourceparts "/dev/null";',
            'Dir::Etc::trustedparts "/dev/null";',
            'Dir::State::status "/dev/null";',
            f'Dir::State "{self.folder}";',
            f'Dir::Cache "{self.folder}/cache";',
            f'Dir::Etc::sourcelist "{self.folder}/sources.list";',
            f'APT::Architecture "{self.architecture}";',
            f'APT::Architectures {{ "{self.architecture}"; }};',
            'APT::Sandbox::User "";',
            'Acquire::Languages "none";',
            'Acquire::GzipIndexes "true";',
            *(f'{key} "{value}";' for key, value in options),
        ]
        write(self.folder / "apt.conf", ("\n".join(lines) + "\n").encode())

    def _lists(self) -> bool:
        wanted = f"*_dists_{self.release}_main_binary-{self.architecture}_Packages*"
        return any((self.folder / "lists").glob(wanted))

    def _apt(self, program: str, *words: str, timeout: float = 60) -> str:
        return run([program, *words], env={"APT_CONFIG": str(self.folder / "apt.conf")}, timeout=timeout)


def _last_error(output: str) -> str:
    lines = [line for line in output.splitlines() if re.match(r"[EW]: Failed to fetch|E: ", line)]
    return lines[0][3:] if lines else "apt-get update failed"


def keep_folder(settings: Settings) -> Path:
    """Where lists are kept: with the builds' cache, or in the user's own where that can't be written."""
    home = settings.build_cache
    known = next(p for p in (home, *home.parents) if p.exists())
    if os.access(known, os.W_OK):
        return home / "archive"
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "kiosk" / "archive"
