"""A hypervisor's cache with some versions in it, put there without a kiosk: the files and manifests are real."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from kiosk.config import Settings
from kiosk.files import copy_sparse
from kiosk.model.names import ImageRef
from kiosk.run import run
from kiosk.sync import HostCache
from kiosk.sync.host import Installed
from tests.simulators.published import build_image

FILES = ("manifest.json", "disk.raw", "vmlinuz", "initrd")


@functools.cache
def built(name: str, version: str) -> Path:
    """A version as it was built, its holes as holes, made once a test run."""
    home = Path(tempfile.mkdtemp(prefix="kiosk-built-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    folder = build_image(Settings(home=home), name, version)
    run(["fallocate", "--dig-holes", folder / "disk.raw"], timeout=20)
    return folder


class Hypervisor:
    """A host. The last version put there is current."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)
        self.cache = HostCache(self.settings.host)
        self.cache.folder.mkdir(parents=True)

    def put(self, *versions: str, name: str = "worker") -> Installed:
        """Puts versions of an image into the cache."""
        for version in versions:
            target = self.cache.folder / "images" / name / version
            target.mkdir(parents=True)
            for file in FILES:
                copy_sparse(built(name, version) / file, target / file)
            self.cache.make_current(ImageRef.parse(f"{name}@{version}"))
        return self.version(f"{name}@{versions[-1]}")

    def version(self, text: str) -> Installed:
        """One version."""
        return next(i for i in self.cache.installed() if str(i.ref) == text)

    def disk(self, text: str) -> Path:
        """The disk of a version."""
        return self.cache.version_folder(ImageRef.parse(text)) / "disk.raw"

    def versions(self, name: str = "worker") -> list[str]:
        """The versions that are there."""
        return [str(v) for v in self.cache.versions(ImageRef.parse(name))]

    def go_back(self, text: str) -> Installed:
        """Makes an older version current."""
        self.cache.make_current(ImageRef.parse(text))
        return self.version(text)
