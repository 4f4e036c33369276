"""A guest in a folder, and layers' images made from files by kiosk itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kiosk.build import layer_image
from tests.contextualize.guest import Guest

Files = Mapping[str, str]


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    """A good image with no layers, about to boot."""
    return Guest(tmp_path / "guest")


@pytest.fixture
def squashfs(tmp_path: Path) -> Callable[[Files], bytes]:
    """Makes a layer's image; a value that begins with `->` is a link, with `#!` a program; a key that ends
    with `/` is a folder."""

    def make(files: Files) -> bytes:
        number = len(list(tmp_path.glob("layer-*")))
        home = tmp_path / f"layer-{number}"
        home.mkdir()
        for name, content in files.items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir(exist_ok=True)
            elif content.startswith("->"):
                path.symlink_to(content[2:])
            else:
                path.write_text(content)
                path.chmod(0o755 if content.startswith("#!") else 0o644)
        image = tmp_path / f"{number}.squashfs"
        layer_image.make(home, image)
        return image.read_bytes()

    return make
