"""A new recipe in a folder of the user's own: a copy of another one's, and an element of its own to fill.

Nothing that is there is changed; the recipe's file is written last, so that a recipe which can be seen is whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kiosk import files
from kiosk.build.book import Book, Entry
from kiosk.errors import UsageError
from kiosk.model.manifest import LayerPolicy
from kiosk.model.names import NAME

README = """\
{line}
{name}
{line}
What the image {name} has beyond {parent}.
"""
PACKAGES = """\
# Debian packages that the image has, one a line, with a colon after each. A condition goes below its package:
#   libssl3:
#     when: DIB_RELEASE = bookworm
#   libssl3t64:
#     when: DIB_RELEASE = trixie
# This one is in every image anyway; put yours in its place.
ca-certificates:
"""
HOOK = """\
#!/bin/bash
# Runs inside the image's tree, as root, once all packages are installed. Other folders of an element, by when
# they run: root.d and extra-data.d (outside, before), pre-install.d, install.d, post-install.d, finalise.d.
# Hooks run in the order of their numbers, must be executable, and have no dot in their name.
set -eu -o pipefail

# mkdir -p /etc/{name}
# echo 'made for {name}' >/etc/{name}/about
# systemctl enable my.service
"""
RECIPE = """\
# The recipe of the image {name}. `kiosk recipe lint {name}` says what is wrong with it.
name = {name_text}
description = {description}
os = {os}
release = {release}
architecture = {architecture}
base = {base}
# Run in this order; {name} is yours, in elements/{name}. diskimage-builder's own can be named as well.
elements = [{elements}]
# Debian packages beyond those of the elements.
packages = [{packages}]
{size}
# What layers of sites and experiments may add files under.
[policy]
etc = [{etc}]
{switches}
# A finding of the audit that is accepted, with its reason: both are published with the image.
# [[exceptions]]
# check = "setuid-file"
# path = "/usr/bin/example"
# reason = "Needed by ..., and audited on ..."
{exceptions}"""


@dataclass(frozen=True)
class File:
    """A file to be written."""

    path: Path
    text: str
    mode: int = 0o644


def plan(book: Book, name: str, parent: str, into: Path) -> list[File]:
    """What a new recipe is made of; UsageError when the name can't be used, NotFoundError without the parent."""
    if not re.fullmatch(NAME, name):
        raise UsageError(f"{name!r} is not a name", hint="Small letters, digits and dashes: cern-worker")
    entry = book.entry(parent)
    file = into / "images" / f"{name}.toml"
    for there in (file, book.recipe_file(name)):
        if there is not None and there.exists():
            said = f"there is a recipe {name!r} already"
            raise UsageError(said, where=str(there), hint="Choose another name, or edit that one.")
    home = into / "elements" / name
    known = book.element(name)
    if known is not None and known != home:
        raise UsageError(
            f"there is an element {name!r} already", where=str(known), hint="Choose another name."
        )
    made = [
        File(home / "README.rst", README.format(line="=" * len(name), name=name, parent=parent)),
        File(home / "package-installs.yaml", PACKAGES),
        File(home / "install.d" / f"50-{name}", HOOK.format(name=name), 0o755),
        File(file, _recipe(name, entry)),
    ]
    changed = [f.path for f in made if f.path.exists() and f.path.read_text(errors="replace") != f.text]
    if changed or (home.is_dir() and {p for p in home.rglob("*") if p.is_file()} - {f.path for f in made}):
        raise UsageError("is there already", where=str((changed or [home])[0]), hint="Choose another name.")
    return made


def write(made: Iterable[File]) -> None:
    """Writes the files, the recipe's last."""
    for file in made:
        files.write(file.path, file.text.encode(), mode=file.mode)


def _recipe(name: str, entry: Entry) -> str:
    recipe = entry.recipe
    policy = recipe.policy
    kinds = ("users", "services", "environment", "cvmfs")
    switches = [f"{k} = false" for k in kinds if not getattr(policy, k)]
    if policy.allows != LayerPolicy().allows:
        switches.append(f"allows = [{', '.join(map(_text, policy.allows))}]")
    if policy.experiment_ids != LayerPolicy().experiment_ids:
        switches.append(f"experiment_ids = {list(policy.experiment_ids)}")
    if policy.sites:
        switches.append(f"sites = [{', '.join(map(_text, policy.sites))}]")
    exceptions = [
        f"\n[[exceptions]]\ncheck = {_text(e.check)}\npath = {_text(e.path)}\nreason = {_text(e.reason)}\n"
        for e in recipe.exceptions
    ]
    return RECIPE.format(
        name=name,
        name_text=_text(name),
        description=_text(f"{recipe.name}, and what {name} adds"),
        os=_text(recipe.os),
        release=_text(recipe.release),
        architecture=_text(recipe.architecture),
        base=_text(recipe.base),
        elements=", ".join(map(_text, (*recipe.elements, name))),
        packages=", ".join(map(_text, recipe.packages)),
        size=f"# MiB of the root partition.\nsize = {recipe.size}\n" if recipe.size else "",
        etc="".join(f"\n  {_text(e)}," for e in policy.etc) + ("\n" if policy.etc else ""),
        switches="".join(f"{s}\n" for s in switches),
        exceptions="".join(exceptions),
    )


def _text(text: str) -> str:
    """A TOML string: JSON's, which TOML reads in the same way."""
    return json.dumps(text, ensure_ascii=False)
