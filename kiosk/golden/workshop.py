"""A private copy of a base tree, in which an image's initrd is made and the guest's Python compiled.

A golden node's own initrd opens the node's own disks, and its programs are not run on the build host: dracut and
Python are the base tree's, and of the node there is nothing in it but its kernel's modules. An initrd is kept as
long as base tree and modules are the same, so that a day without a new kernel moves no new initrd.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from kiosk.build import clean, guest
from kiosk.build.image import unpack
from kiosk.build.sandbox import in_tree
from kiosk.build.trees import Tree as BaseTree
from kiosk.build.version import KIOSK
from kiosk.errors import BuildError
from kiosk.files import scratch
from kiosk.run import CommandError, run
from kiosk.sanitise.tree import Tree

KEPT = 16
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}
PYTHON = "usr/lib/kiosk/python"


@dataclass(frozen=True)
class Workshop:
    """`base` is the base tree of the node's release, `cache` keeps initrds, `folder` is private."""

    base: BaseTree
    release: str
    cache: Path
    folder: Path

    def initrd(self, modules: Path, target: Path) -> None:
        """Writes the initrd for the kernel whose modules are in the folder `modules` (lib/modules/VERSION)."""
        check_plain(modules)
        kept = self.cache / "initrds" / self._key(modules)
        if not kept.is_file():
            tree = self._tree("initrd")
            place = tree / "usr/lib/modules"
            shutil.rmtree(place)
            place.mkdir()
            try:
                shutil.copytree(modules, place / modules.name, symlinks=True)
            except shutil.Error as e:
                raise BuildError(
                    f"the modules of the kernel {modules.name} can't be copied: {str(e)[:300]}"
                ) from None
            path = f"/boot/initrd.img-{modules.name}"
            dracut = ["dracut", "--force", "--no-hostonly", "--reproducible", "--kver", modules.name, path]
            try:
                in_tree(tree, dracut, timeout=900)
            except CommandError as e:
                raise BuildError(f"dracut made no initrd for the kernel {modules.name}: {e.what}") from None
            self._keep(tree / path.lstrip("/"), kept)
        os.utime(kept)  # in use: the oldest are removed
        shutil.copyfile(kept, target)

    def python(self, root: Path) -> None:
        """Puts kiosk's agent for the guest into the tree `root`, compiled."""
        tree = self._tree("python")
        guest.stage(tree / PYTHON, release=self.release, cache=self.cache)
        for path in clean.walk(tree / PYTHON):
            os.chown(path, 0, 0, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
        compile_all = ["python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
        in_tree(tree, [*compile_all, f"/{PYTHON}"], timeout=300)
        with Tree(root) as place:  # whatever a node has there is not kiosk's
            place.clear(KIOSK)
            place.create((*KIOSK, ".new"), b"", 0o644)
            place.clear((*KIOSK, ".new"))
        shutil.copytree(tree / PYTHON, root / PYTHON, symlinks=True)

    def _tree(self, name: str) -> Path:
        """The base tree, unpacked once for this workshop."""
        tree = self.folder / "workshop"
        if not tree.exists():
            self.folder.mkdir(exist_ok=True)
            unpack(self.base.tar, tree)
            (tree / "dev").mkdir(exist_ok=True)
            for device, number in DEVICES.items():
                os.mknod(tree / "dev" / device, stat.S_IFCHR | 0o666, os.makedev(*number))
            for mount in ("proc", "sys", "tmp", "run"):
                (tree / mount).mkdir(exist_ok=True)
            (tree / PYTHON).parent.mkdir(parents=True, exist_ok=True)
        return tree

    def _key(self, modules: Path) -> str:
        packages = run(["tar", "-xOf", self.base.tar, "./var/lib/dpkg/status"], timeout=300)
        sha = hashlib.sha256(f"{self.base.tar.name}\0{packages}\0".encode())
        for path in clean.walk(modules):
            sha.update(f"{path.relative_to(modules.parent)}\0".encode(errors="surrogateescape"))
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as f:
                    sha.update(hashlib.file_digest(f, "sha256").digest())
        return sha.hexdigest()[:40]

    def _keep(self, made: Path, kept: Path) -> None:
        with scratch(kept.parent, prefix="new-") as folder:
            shutil.copyfile(made, folder / "initrd")
            (folder / "initrd").rename(kept)
        for old in sorted(kept.parent.glob("*"), key=lambda p: p.stat().st_mtime)[:-KEPT]:
            if old.is_file():
                old.unlink()


def check_plain(modules: Path) -> None:
    """BuildError where a kernel's modules hold anything but files, folders and links: a device node there is one of
    this host's devices, and would be read."""
    for path in clean.walk(modules):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            raise BuildError(
                f"the modules of the kernel {modules.name} hold something that is neither file, folder nor link",
                where=str(path.relative_to(modules.parent)),
            )
