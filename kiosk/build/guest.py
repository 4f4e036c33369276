"""kiosk's agent for the guest: contextualize and the wheels that it needs, for the guest's own Python.

The wheels have the versions that kiosk itself runs with here, so that both ends of the chain of trust are the
same code; a release whose Python is too old for one of these has the last version that runs on it (OLDER). They
are kept between builds.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from packaging.specifiers import SpecifierSet

from kiosk.build.book import digest_of
from kiosk.errors import BuildError, UsageError
from kiosk.files import scratch
from kiosk.run import CommandError, run

NEEDS = ("cryptography", "securesystemslib", "tuf")
PYTHONS = {"bullseye": "3.9.2", "bookworm": "3.11", "trixie": "3.13"}
OLDER = {
    "bullseye": {
        "cffi": "2.0.0",
        "pycparser": "2.23",
        "securesystemslib": "1.3.1",
        "tuf": "6.0.0",
        "urllib3": "2.6.3",
    },
}
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
USELESS = ("bin", "*.dist-info/RECORD", "*.dist-info/REQUESTED", "*.dist-info/INSTALLER", "*/tests", "*/test")


def contextualize_folder() -> Path:
    """Where the package that runs in the guest is installed here."""
    spec = find_spec("contextualize")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("the package contextualize is not installed", hint="Install kiosk again.")
    return Path(next(iter(spec.submodule_search_locations)))


def constraints(release: str) -> dict[str, str]:
    """The versions of all distributions installed here, by normalised name, without kiosk itself, and with the
    older ones that the release's Python needs."""
    found = {d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
    found |= OLDER.get(release, {})
    return {name: found[name] for name in sorted(found) if name != "kiosk"}


def digest(release: str) -> str:
    """The digest of what `stage` would make, for the key of a tree."""
    wheels = hashlib.sha256(repr((NEEDS, constraints(release), PLATFORMS)).encode()).hexdigest()
    return hashlib.sha256((digest_of([contextualize_folder()]) + wheels).encode()).hexdigest()


def stage(target: Path, *, release: str, cache: Path) -> None:
    """Fills `target` with contextualize and its wheels."""
    shutil.copytree(wheels(release, cache), target, symlinks=True)
    shutil.copytree(
        contextualize_folder(),
        target / "contextualize",
        ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
    )


def wheels(release: str, cache: Path) -> Path:
    """The folder with the wheels unpacked, made once for each set of versions."""
    if release not in PYTHONS:
        raise UsageError(
            f"kiosk doesn't know the Python of {release}", hint=f"Releases: {', '.join(PYTHONS)}"
        )
    pinned = constraints(release)
    key = hashlib.sha256(repr((release, NEEDS, pinned, PLATFORMS, USELESS)).encode()).hexdigest()[:32]
    target = cache / "python" / key
    if target.is_dir():
        return target
    with scratch(cache / "python", prefix="new-") as folder:
        pins = folder / "constraints.txt"
        pins.write_text("".join(f"{n}=={v}\n" for n, v in pinned.items()), encoding="utf-8")
        argv: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--target",
            folder / "python",
        ]
        argv += ["--constraint", pins, "--only-binary=:all:", "--implementation=cp"]
        argv += [f"--python-version={PYTHONS[release]}", *(f"--platform={p}" for p in PLATFORMS), *NEEDS]
        try:
            run(argv, timeout=900)
        except CommandError as e:
            raise BuildError(
                f"pip can't get the guest's Python packages: {e.what}",
                hint="Check how pip reaches its index on this host (pip config list).",
            ) from None
        check_python(folder / "python", PYTHONS[release])
        for pattern in USELESS:
            for path in (folder / "python").glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (folder / "python").rename(target)
    return target


def check_python(folder: Path, python: str) -> None:
    """BuildError when an unpacked distribution is not made for that Python: pip doesn't always look."""
    for found in importlib.metadata.distributions(path=[str(folder)]):
        for needs in found.metadata.get_all("Requires-Python") or []:
            if not SpecifierSet(needs).contains(python):
                raise BuildError(
                    f"{found.name} {found.version} needs Python {needs}, and the guest has {python}",
                    hint="Name an older version in kiosk/build/guest.py (OLDER).",
                )
