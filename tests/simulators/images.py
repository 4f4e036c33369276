"""A real debian-12-minimal, built once and used again by every test that needs one."""

from __future__ import annotations

import os
import time
from pathlib import Path

from kiosk.build import image
from kiosk.build.book import Book
from kiosk.build.trees import recipe_digest
from kiosk.config import Settings
from kiosk.errors import BusyError
from kiosk.model.manifest import ImageManifest

NAME = "debian-12-minimal"
DEFAULT_HOME = Path("/var/tmp/kiosk-test")
PATIENCE = 1800.0


def kept_home() -> Path:
    """Where test runs keep what is worth keeping: KIOSK_TEST_HOME, else /var/tmp/kiosk-test."""
    return Path(os.environ.get("KIOSK_TEST_HOME", DEFAULT_HOME))


def built_image(home: Path, name: str = NAME) -> Path:
    """The folder of a version built below `home` from the recipe as it is now; builds it when there is none."""
    settings = Settings(home=home)
    book = Book.of(settings)
    digest = recipe_digest(book, book.entry(name))
    until = time.monotonic() + PATIENCE
    while True:
        for manifest in sorted((settings.images / name).glob("*/manifest.json"), reverse=True):
            if ImageManifest.from_json(manifest.read_bytes(), where=str(manifest)).source.digest == digest:
                return manifest.parent
        try:
            return image.build(settings, image.Request(name, None, None, fresh=False)).folder
        except BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(2)
