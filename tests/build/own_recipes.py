"""A user's own folder of recipes, and an archive of packages that apt reads from a folder."""

from __future__ import annotations

from pathlib import Path

import yaml

from kiosk import data
from kiosk.build.archive import Archive
from kiosk.files import write

RECIPE = """\
name = "mine"
os = "debian"
release = "bookworm"
architecture = "x86_64"
base = "debian-12"
elements = ["kiosk-contextualize", "my-element"]
packages = ["curl"]

[policy]
etc = ["/etc/mine/*"]
"""
HOOK = "#!/bin/bash\nset -eu -o pipefail\ntouch /etc/mine\n"
STANZA = """\
Package: {name}
Version: 1
Architecture: amd64
Filename: {name}.deb
Size: 1
SHA256: {digest}
Provides: mail-{name}
"""
PACKAGES = "curl", "git", "libmine3t64", "qemu-guest-agent"


def own_folder(home: Path) -> Path:
    """A folder with a recipe and an element in which nothing is wrong."""
    (home / "images").mkdir(parents=True)
    hook = home / "elements/my-element/install.d/50-mine"
    hook.parent.mkdir(parents=True)
    hook.write_text(HOOK)
    hook.chmod(0o755)
    (home / "elements/my-element/package-installs.yaml").write_text("git:\n")
    (home / "images/mine.toml").write_text(RECIPE)
    return home


def archive(home: Path, repository: Path, release: str = "bookworm") -> Archive:
    """An archive of a few packages below `home`, whose lists are of today, so that nothing is asked over a network."""
    lists = repository / "dists" / release / "main/binary-amd64/Packages"
    lists.parent.mkdir(parents=True)
    bases = (data.folder("recipes") / "elements").glob("kiosk-*/package-installs.yaml")
    names = {*PACKAGES, *(name for file in bases for name in yaml.safe_load(file.read_text()))}
    lists.write_text("\n".join(STANZA.format(name=n, digest="0" * 64) for n in sorted(names) if ":" not in n))
    made = Archive.below(home, release, "amd64")
    made.folder.mkdir(parents=True)
    made.configure(f"deb [trusted=yes] copy:{repository} {release} main\n", ())
    made.update()
    write(made.folder / "refreshed", b"")
    return made
