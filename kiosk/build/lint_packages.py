"""Whether the packages that a recipe, a base and their elements install are in the release's archive.

What an element installs in a release is worked out by diskimage-builder's own programs, so that conditions and
maps of names mean here what they mean in a build.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kiosk.build.archive import Archive
from kiosk.build.book import Book, dib_elements
from kiosk.build.fault import Fault
from kiosk.errors import KioskError
from kiosk.files import scratch
from kiosk.run import CommandError, run

OTHER_SOURCES = re.compile(r"sources\.list(?!\.orig)|extrepo|add-apt-repository")
NATIVE = "amd64"


@dataclass(frozen=True)
class Wanted:
    """A package, and the file and key that name it."""

    name: str
    file: Path
    key: str


@dataclass
class Checker:
    """Looks packages up, with lists below `home`, and work in progress below `home` too."""

    book: Book
    home: Path
    _seen: set[tuple[str, str, Path]] = field(default_factory=set)

    def faults(
        self, file: Path, own: Sequence[str], elements: Sequence[str], release: str
    ) -> Iterator[Fault]:
        """The faults of a TOML file's own packages and of its elements' ones."""
        wanted = [Wanted(name, file, f"packages.{i}") for i, name in enumerate(own)]
        try:
            wanted += self._of_elements(elements, release)
        except CommandError as e:
            last = (e.output.strip().splitlines() or [e.what])[-1]
            yield Fault(
                "warning", file, "elements", f"what they install can't be told without a build: {last}"
            )
        foreign_sources = self._other_sources(elements)
        by_architecture: dict[str, list[Wanted]] = {}
        for want in wanted:
            architecture = want.name.partition(":")[2] or NATIVE
            by_architecture.setdefault(architecture, []).append(want)
        for architecture, wants in sorted(by_architecture.items()):
            archive = Archive.below(self.home, release, architecture)
            try:
                archive.refresh()
                yield from self._missing(archive, wants, release, foreign_sources)
            except KioskError as e:
                hint = e.hint or ""
                yield Fault("warning", file, "packages", f"{architecture} not checked: {e.what}", hint)

    def _missing(
        self, archive: Archive, wants: Sequence[Wanted], release: str, foreign: Path | None
    ) -> Iterator[Fault]:
        states = archive.states(w.name.partition(":")[0] for w in wants)
        for want in wants:
            plain = want.name.partition(":")[0]
            told = (release, want.name, want.file)
            if states[plain] == "real" or told in self._seen:
                continue
            self._seen.add(told)
            near = ", ".join(archive.near(plain))
            hint = f"The archive has {near}." if near else ""
            if states[plain] == "virtual":
                said = f"{want.name} is in {release} only as a name that other packages provide"
                yield Fault("warning", want.file, want.key, said, hint)
            elif foreign is not None:
                said = f"{want.name} is not in Debian's {release}; {foreign} may bring its source"
                yield Fault("warning", want.file, want.key, said)
            else:
                said = f"there is no package {want.name} in {release}"
                yield Fault("error", want.file, want.key, said, hint)

    def _of_elements(self, elements: Sequence[str], release: str) -> list[Wanted]:
        """What elements and all that they depend on install, as diskimage-builder works it out."""
        folders = self.book.expand(elements)
        names = " ".join(f.name for f in folders)
        path = ":".join(dict.fromkeys(str(f.parent) for f in folders))
        env = {"ARCH": NATIVE, "DIB_RELEASE": release, "DISTRO_NAME": "debian", "DIB_PYTHON_VERSION": "3"}
        program = dib_elements() / "package-installs/bin/package-installs-squash"
        with scratch(self.home / "scratch", prefix="lint-") as folder:
            out = folder / "packages.json"
            argv: list[str | Path] = [sys.executable, program, f"--elements={names}", f"--path={path}", out]
            run(argv, env=env, timeout=60)
            phases = json.loads(out.read_bytes())
        by_element: dict[str, list[str]] = {}
        for actions in phases.values():
            for package, element in actions.get("install", []):
                by_element.setdefault(element, []).append(package)
        found = []
        for home in folders:
            file = home / "package-installs.yaml"
            packages = self._mapped(home / "pkg-map", by_element.get(home.name, []), release)
            found += [Wanted(name, file if file.is_file() else home, name) for name in packages]
        return found

    def _mapped(self, file: Path, packages: Sequence[str], release: str) -> list[str]:
        if not packages or not file.is_file():
            return list(packages)
        program = dib_elements() / "pkg-map/bin/pkg-map"
        argv: list[str | Path] = [sys.executable, program, "--pkg-map", file, "--distro", "debian"]
        return run([*argv, "--release", release, "--missing-ok", *packages], timeout=60).split()

    def _other_sources(self, elements: Sequence[str]) -> Path | None:
        """A hook of a user's element that seems to give apt another source than Debian's."""
        for folder in self.book.expand(elements):
            if not self.book.is_ours(folder) or folder.name.startswith("kiosk-"):
                continue
            for hook in sorted(p for p in folder.glob("*.d/*") if p.is_file() and os.access(p, os.R_OK)):
                with hook.open(encoding="utf-8", errors="replace") as f:
                    if OTHER_SOURCES.search(f.read(1 << 20)):
                        return hook
        return None
