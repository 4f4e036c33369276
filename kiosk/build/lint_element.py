"""What is wrong with an element: hooks that would not run, would fail, or would tie the image to a mirror.

diskimage-builder leaves out, without a word, a hook that can't be executed or has a dot in its name, and a
folder that is no phase of a build.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from kiosk.build.book import Book, nearest
from kiosk.build.dib import PHASES
from kiosk.build.fault import Fault
from kiosk.build.guest import PYTHONS
from kiosk.build.mirrors import MAIN, SECURITY, host_mirrors
from kiosk.run import CommandError, run

LARGEST = 1 << 20
SOURCED = "environment.d"
HOOK = re.compile(r"[0-9A-Za-z_-]+")
SHELL = re.compile(rb"#!\s*(?:/usr)?/bin/(?:env\s+)?(bash|sh|dash)\b")
PYTHON = re.compile(rb"#!.*\bpython3?\b")
URL = re.compile(r"\b(?:https?|ftp)://[A-Za-z0-9.\[\]:_-]+")
MIRROR = re.compile(
    r"^(?:ftp\d*|mirrors?\d*|cache|apt-cacher|debian-mirror)[.-]|\.mirrors?\.|^ftp\..*debian\.org$"
)


def faults(folder: Path, book: Book) -> Iterator[Fault]:
    """All that is wrong with the element in a folder."""
    yield from _dependencies(folder, book)
    yield from _lists(folder)
    own_mirrors = _mirror_hosts()
    for part in sorted(folder.iterdir()):
        if part.name == "README.rst" or not part.is_dir() or not part.name.endswith(".d"):
            continue
        phase = part.name.removesuffix(".d")
        if phase not in PHASES and part.name != SOURCED:
            near = difflib.get_close_matches(phase, PHASES, n=1)
            hint = f"Did you mean {near[0]}.d?" if near else f"Phases: {', '.join(PHASES)}"
            yield Fault("warning", part, "", f"{part.name} is no phase of a build, so nothing runs it", hint)
        for hook in sorted(p for p in part.iterdir() if p.is_file()):
            yield from _hook(hook, sourced=part.name == SOURCED)
            yield from _hosts(hook, own_mirrors)


def _dependencies(folder: Path, book: Book) -> Iterator[Fault]:
    file = folder / "element-deps"
    for name in file.read_text(encoding="utf-8", errors="replace").split() if file.is_file() else []:
        if book.element(name) is None:
            hint = nearest("Elements", name, book.own_elements())
            yield Fault("error", file, "", f"there is no element {name!r}", hint)


def _lists(folder: Path) -> Iterator[Fault]:
    """Package lists that can't be read as one mapping of names."""
    for file in (folder / "package-installs.yaml", folder / "package-installs.json", folder / "pkg-map"):
        if not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        try:
            read = yaml.safe_load(text) if file.suffix == ".yaml" else json.loads(text)
        except yaml.MarkedYAMLError as e:
            line = str(e.problem_mark.line + 1) if e.problem_mark else ""
            yield Fault("error", file, line, f"is not YAML: {e.problem}")
            continue
        except json.JSONDecodeError as e:
            yield Fault("error", file, str(e.lineno), f"is not JSON: {e.msg}")
            continue
        except yaml.YAMLError as e:
            yield Fault("error", file, "", f"is not YAML: {e}")
            continue
        if read is None:
            said = "names nothing, and diskimage-builder fails on that"
            yield Fault("error", file, "", said, "Remove the file, or write `NAME:` on a line of its own.")
        elif not isinstance(read, dict):
            yield Fault(
                "error", file, "", "is no mapping: write each package as `NAME:` on a line of its own"
            )


def _hook(file: Path, *, sourced: bool) -> Iterator[Fault]:
    if not sourced and not HOOK.fullmatch(file.name):
        said = "would not run: a hook's name has letters, digits, - and _ alone"
        yield Fault("error", file, "", said, f"Call it {re.sub(r'[^0-9A-Za-z_-].*', '', file.name)}.")
    elif not sourced and not os.access(file, os.X_OK):
        yield Fault("error", file, "", "would not run: it is not executable", f"chmod +x {file}")
    if file.stat().st_size > LARGEST:
        return
    text = file.read_bytes()
    if sourced or SHELL.match(text):
        yield from _shell(file, text, sourced=sourced)
    elif PYTHON.match(text):
        try:
            compile(text, str(file), "exec")
        except SyntaxError as e:
            yield Fault("error", file, str(e.lineno or ""), f"is not Python: {e.msg}")
        except ValueError as e:
            yield Fault("error", file, "", f"is not Python: {e}")
    elif not text.startswith((b"#!", b"\x7fELF")):
        yield Fault("error", file, "1", "would not run: its first line names no interpreter (#!/bin/bash)")


def _shell(file: Path, text: bytes, *, sourced: bool) -> Iterator[Fault]:
    try:
        run(["bash", "-n", file.absolute()], timeout=20)
    except CommandError as e:
        last = [line for line in e.output.splitlines() if line.strip()] or [e.what]
        found = re.search(r": line (\d+): (.*)$", last[0])
        line, said = (found[1], found[2]) if found else ("", last[0])
        yield Fault("error", file, line, f"is not a shell script: {said}")
        return
    if not sourced and not re.search(rb"^\s*set\s+(?:-\w*e|-o\s+errexit)|#!.*\s-\w*e", text, re.MULTILINE):
        said = "goes on after a command that failed, and the build with it"
        yield Fault("warning", file, "", said, "Begin with: set -eu -o pipefail")


@functools.cache
def _mirror_hosts() -> frozenset[str]:
    """The hosts of the build host's own mirrors, which images must not know."""
    public = {urlsplit(u).hostname for u in (MAIN, SECURITY)}
    found = set()
    for release in PYTHONS:
        mirrors = host_mirrors(release)
        found |= {urlsplit(u).hostname for u in (mirrors.main, mirrors.security)}
    return frozenset(h for h in found - public if h)


def _hosts(file: Path, own: frozenset[str]) -> Iterator[Fault]:
    if file.stat().st_size > LARGEST:
        return
    text = file.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        for url in URL.findall(line):
            host = urlsplit(url).hostname or ""
            if host in own or MIRROR.search(host):
                said = (
                    f"names the mirror {host}: another build host has another one, and nodes can't reach it"
                )
                hint = "kiosk sets apt up with the build host's mirrors; the image names the public archive."
                yield Fault("error", file, str(number), said, hint)
