"""The images that are measured: one worker node's disk in four states, each an ext4 of 4 GiB, raw and sparse.

    v1       a golden worker node: Debian 12 with the packages of recipes/images/debian-12-worker.toml (but
             its 32-bit libraries, and without manuals), compilers and scientific Python (packages.txt),
             installed on a mounted disk from the release's main archive alone, so that the updates of the
             security archive since the last point release are pending
    quiet    v1 one day later in place: logs, journal, accounts, generated configuration (benchmarks/node.py)
    heavy    v1 in place after all pending updates (apt-get dist-upgrade with the security and updates
             archives); the kernel that was replaced is purged
    rebuilt  the content of heavy built anew: all packages installed from scratch in an empty tree, then
             `mkfs.ext4 -d` of it into a file system of its own

The packages come from the build host's own mirrors, so the images of two days differ: compare figures of one
run. Downloaded packages stay outside the images, and unused blocks are given back (fstrim), as on a node
whose disk is mounted with discard. An image stands under its name only when it is complete; those that are
there are used again. READY says that all are there, and how they differ.

    sudo .venv/bin/python -m benchmarks.images [--home FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.node import write_day
from kiosk import files
from kiosk.build import mirrors, sandbox
from kiosk.cli.common import emit, guard
from kiosk.run import run, stream
from kiosk.store.regions import digests

HOME = Path("/var/tmp/kiosk-bench")  # noqa: S108
NAMES = ("v1", "quiet", "heavy", "rebuilt")
SIZE = 4 << 30
RELEASE = "bookworm"
ELEMENTS = Path(__file__).parent.parent / "recipes" / "elements"
HOUR = 3600.0
LEFT_OUT = """\
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
"""
COMPUTING = Path(__file__).with_name("packages.txt")


def build(home: Path = HOME) -> dict[str, object]:
    """Makes what is missing and returns READY's content. Leaves no mount, whatever happens."""
    sandbox.require_root("building the benchmark's images")
    home.mkdir(parents=True, exist_ok=True)
    ready = home / "READY"
    steps: dict[str, Callable[[Path, Path], None]] = {
        "v1": _golden,
        "quiet": _quiet_day,
        "heavy": _updates,
        "rebuilt": _rebuilt,
    }
    with files.locked(home / "lock", what="the benchmark's images"):
        sandbox.unmount_below(home)  # what a killed run left
        try:
            if not (home / "v1.raw").exists():  # the others are of one v1
                for old in home.glob("*.raw"):
                    old.unlink()
            for name in NAMES:
                image = home / f"{name}.raw"
                if not image.exists():
                    ready.unlink(missing_ok=True)
                    _say(f"building {image}")
                    _build(home, image, steps[name])
            if not ready.exists():
                files.write(ready, (json.dumps(_facts(home), indent=2) + "\n").encode())
        finally:
            sandbox.unmount_below(home)
    found: dict[str, object] = json.loads(ready.read_bytes())
    return found


def _build(home: Path, image: Path, make: Callable[[Path, Path], None]) -> None:
    new = home / f".{image.name}.new"
    new.unlink(missing_ok=True)
    try:
        make(home, new)
        run(["e2fsck", "-f", "-n", new], timeout=HOUR)
        for suffix, digest in zip((".sha256", ".regions"), digests(new), strict=True):
            files.write(image.with_suffix(suffix), f"{digest}\n".encode())
        new.rename(image)
    finally:
        new.unlink(missing_ok=True)


def _golden(home: Path, image: Path) -> None:
    _empty(image)
    with _mounted(home, image) as root:
        _install(home, root, updates=False)
        write_day(root, 0)
        run(["fstrim", root], timeout=HOUR)


def _quiet_day(home: Path, image: Path) -> None:
    files.copy_sparse(home / "v1.raw", image)
    with _mounted(home, image) as root:
        write_day(root, 1)
        run(["fstrim", root], timeout=HOUR)


def _updates(home: Path, image: Path) -> None:
    files.copy_sparse(home / "v1.raw", image)
    with _mounted(home, image) as root:
        with _chroot(home, root, updates=True):
            _upgrade(home, root)
        run(["fstrim", root], timeout=HOUR)


def _rebuilt(home: Path, image: Path) -> None:
    root = home / "work" / "tree"
    files.remove_tree(root)
    root.mkdir(parents=True)
    try:
        _install(home, root, updates=True)
        write_day(root, 0)
        _empty(image, root)
    finally:
        sandbox.unmount_below(home)
        files.remove_tree(root)


def _empty(image: Path, tree: Path | None = None) -> None:
    with image.open("xb") as f:
        f.truncate(SIZE)
    content: list[str | Path] = [] if tree is None else ["-d", tree]
    run(["mkfs.ext4", "-q", "-F", "-L", "root", "-N", "131072", *content, image], timeout=HOUR)


def _install(home: Path, root: Path, *, updates: bool) -> None:
    """Debian and all packages into an empty folder."""
    mirror = mirrors.host_mirrors(RELEASE)
    cache = home / "packages"
    cache.mkdir(exist_ok=True)
    argv: list[str | Path] = ["debootstrap", "--variant=minbase", f"--keyring={mirrors.keyring()}"]
    argv += [f"--cache-dir={cache}", RELEASE, root, mirror.main]
    proxy = {"http_proxy": mirror.http_proxy} if mirror.http_proxy else {}
    stream(argv, timeout=HOUR, log_to=home / "build.log", on_line=_ignore, env=proxy)
    (root / "etc/dracut.conf.d").mkdir(parents=True, exist_ok=True)
    (root / "etc/dpkg/dpkg.cfg.d/node").write_text(LEFT_OUT)
    (root / "etc/dracut.conf.d/node.conf").write_text('hostonly="no"\ncompress="zstd"\n')
    with _chroot(home, root, updates=updates):
        if updates:
            _upgrade(home, root)
        _in(home, root, ["apt-get", "update"])
        _in(home, root, ["apt-get", "-y", "install", *packages()])


def packages() -> list[str]:
    """All packages of the worker's recipe, as its elements list them, and those of packages.txt."""
    found: list[str] = []
    for element in ("kiosk-base", "kiosk-initrd", "kiosk-contextualize", "kiosk-worker"):
        text = (ELEMENTS / element / "package-installs.yaml").read_text(encoding="utf-8")
        names = (line.partition("#")[0].strip() for line in text.splitlines())
        found += [name.removesuffix(":") for name in names if name.endswith(":")]
    for line in COMPUTING.read_text(encoding="utf-8").splitlines():
        found += line.partition("#")[0].split()
    return [*dict.fromkeys([*found, "qemu-guest-agent"])]


def _upgrade(home: Path, root: Path) -> None:
    old = _kernels(root)
    _in(home, root, ["apt-get", "update"])
    _in(home, root, ["apt-get", "-y", "dist-upgrade"])
    if replaced := sorted(old) if _kernels(root) - old else []:
        _in(home, root, ["apt-get", "-y", "purge", *replaced])


def _kernels(root: Path) -> set[str]:
    return {p.name.replace("vmlinuz", "linux-image") for p in (root / "boot").glob("vmlinuz-*")}


@contextmanager
def _mounted(home: Path, image: Path, options: str = "loop") -> Iterator[Path]:
    """The image's file system, mounted below `home` until the block ends, and then surely not."""
    root = home / "work" / image.name.strip(".")
    root.mkdir(parents=True, exist_ok=True)
    run(["mount", "-o", options, image, root], timeout=60)
    try:
        yield root
    finally:
        run(["sync", "-f", root], timeout=HOUR)
        run(["umount", root], timeout=HOUR)
        root.rmdir()


@contextmanager
def _chroot(home: Path, root: Path, *, updates: bool) -> Iterator[None]:
    """Makes `root` fit to install packages in; what that needs is gone when the block ends."""
    with ExitStack() as stack:
        for kind, at in {"proc": "proc", "sysfs": "sys", "tmpfs": "tmp"}.items():
            stack.enter_context(_mount(["-t", kind, kind], root / at))
        stack.enter_context(_mount(["--bind", "/dev"], root / "dev"))
        (root / "var/cache/apt/archives/partial").mkdir(parents=True, exist_ok=True)
        (home / "packages" / "partial").mkdir(parents=True, exist_ok=True)
        stack.enter_context(_mount(["--bind", str(home / "packages")], root / "var/cache/apt/archives"))
        (root / "var/lib/apt/lists").mkdir(parents=True, exist_ok=True)
        stack.enter_context(_mount(["-t", "tmpfs", "tmpfs"], root / "var/lib/apt/lists"))
        inside = root / mirrors.INSIDE.lstrip("/")
        mirrors.write_apt_folder(inside, mirrors.host_mirrors(RELEASE), RELEASE)
        if not updates:
            lines = (inside / "sources.list").read_text().splitlines()
            (inside / "sources.list").write_text(lines[0] + "\n")
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        stack.callback(policy.unlink)
        for name in ("etc/resolv.conf", "etc/hosts"):
            stack.enter_context(_ours(root, name))
        yield


@contextmanager
def _mount(options: list[str], at: Path) -> Iterator[None]:
    run(["mount", *options, at], timeout=60)
    try:
        yield
    finally:
        run(["umount", at], timeout=60)


@contextmanager
def _ours(root: Path, name: str) -> Iterator[None]:
    """The build host's file in the place of the image's own, until the block ends."""
    path, aside = root / name, root / f"{name}.aside"
    if os.path.lexists(path):
        path.rename(aside)
    shutil.copyfile(f"/{name}", path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        if os.path.lexists(aside):
            aside.rename(path)


def _in(home: Path, root: Path, argv: list[str]) -> None:
    stream(
        ["chroot", root, *argv], timeout=HOUR, log_to=home / "build.log", on_line=_ignore, env=_environment()
    )


def _environment() -> dict[str, str]:
    return {
        "APT_CONFIG": f"{mirrors.INSIDE}/apt.conf",
        "DEBIAN_FRONTEND": "noninteractive",
        "DEBCONF_NONINTERACTIVE_SEEN": "true",
        "HOME": "/root",
        "TMPDIR": "/tmp",  # noqa: S108
    }


def _facts(home: Path) -> dict[str, object]:
    """How many files and bytes each image has, and how many of them v1 does not have at that path."""
    found: dict[str, dict[str, int]] = {}
    first: dict[str, bytes] = {}
    for name in NAMES:
        image = home / f"{name}.raw"
        with _mounted(home, image, "loop,ro,noload") as root:
            content = {path: (size, digest) for path, size, digest in _content(root)}
        if name == "v1":
            first = {path: digest for path, (_, digest) in content.items()}
        changed = {p: size for p, (size, digest) in content.items() if first.get(p) != digest}
        found[name] = {
            "files": len(content),
            "bytes": sum(size for size, _ in content.values()),
            "allocated": image.stat().st_blocks * 512,
            "changed_files": len(changed),
            "changed_bytes": sum(changed.values()),
            "removed_files": len(first.keys() - content.keys()),
        }
        _say(f"{name}: {found[name]}")
    return {"images": found}


def _content(root: Path) -> Iterator[tuple[str, int, bytes]]:
    seen: set[int] = set()
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            info = path.lstat()
            if stat.S_ISREG(info.st_mode) and info.st_ino not in seen:
                seen.add(info.st_ino)
                with path.open("rb") as f:
                    yield (
                        str(path.relative_to(root)),
                        info.st_size,
                        hashlib.file_digest(f, "sha256").digest(),
                    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _ignore(_line: str) -> None:
    pass


def main() -> int:
    """Builds the images from the command line."""
    parser = argparse.ArgumentParser(description="Build the images that the benchmarks measure.")
    parser.add_argument("--home", type=Path, default=HOME, help=f"where they stand (default {HOME})")
    home = parser.parse_args().home
    return guard(lambda: emit(build(home)))


if __name__ == "__main__":
    sys.exit(main())
