"""A recipe that is returned holds together; one that does not is refused by file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk import data
from kiosk.build.book import Book
from kiosk.build.trees import base_digest, recipe_digest
from kiosk.config import Settings
from kiosk.errors import NotFoundError, UsageError

GOOD = """
name = "mine"
os = "debian"
release = "bookworm"
architecture = "x86_64"
base = "debian-12"
elements = ["kiosk-contextualize", "my-element"]
packages = ["curl", "libc6:i386"]

[policy]
etc = ["/etc/mine/*"]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's own recipe folder."""
    (tmp_path / "images").mkdir()
    hook = tmp_path / "elements/my-element/install.d/50-mine"
    hook.parent.mkdir(parents=True)
    hook.write_text("#!/bin/sh\ntrue\n")
    hook.chmod(0o755)
    (tmp_path / "images/mine.toml").write_text(GOOD)
    return tmp_path


def book(own: Path) -> Book:
    return Book.of(Settings(recipes=own))


def test_kiosks_own_recipes_hold_together() -> None:
    kiosks = Book.of(Settings())
    assert {"debian-12-minimal", "debian-12-worker"} <= set(kiosks.names())
    for name in kiosks.names():
        entry = kiosks.entry(name)
        assert {"kiosk-debian", "kiosk-base", "kiosk-initrd"} <= set(entry.base.elements)
        assert kiosks.expand(entry.recipe.elements)


def test_a_users_folder_adds_recipes_and_elements(own: Path) -> None:
    entry = book(own).entry("mine")
    assert entry.file == own / "images/mine.toml"
    assert entry.base_file == data.folder("recipes") / "bases/debian-12.toml"
    assert own / "elements/my-element" in book(own).expand(entry.recipe.elements)


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ("[policy]", "colour = 'red'\n[policy]", "unknown key 'colour'"),
        ("[policy]", "[policy]\ncolour = 'red'", "unknown key 'policy.colour'"),
        ('base = "debian-12"\n', "", "base: missing"),
        ('"my-element"', '"my-elemant"', "no element 'my-elemant'"),
        ('"my-element"', '"../../etc"', "elements.1"),
        ('base = "debian-12"', 'base = "debian-14"', "no base 'debian-14'"),
        ('release = "bookworm"', 'release = "trixie"', "release: is 'trixie'"),
        ('name = "mine"', 'name = "other"', "name: must be 'mine'"),
        ('"curl"', '"--allow-unauthenticated"', "packages.0"),
        ('"curl"', '"curl; rm -rf /"', "packages.0"),
        ('name = "mine"', 'name = "mine"\nsize = 3', "size"),
        ("[policy]", "[policy", "not valid TOML"),
    ],
)
def test_a_faulty_recipe_is_refused_by_file_and_key(own: Path, was: str, now: str, told: str) -> None:
    file = own / "images/mine.toml"
    assert was in GOOD
    file.write_text(GOOD.replace(was, now, 1))
    with pytest.raises(UsageError) as caught:
        book(own).entry("mine")
    assert caught.value.where == str(file)
    assert told in str(caught.value)


def test_an_unknown_name_brings_the_nearest(own: Path) -> None:
    with pytest.raises(NotFoundError, match="Did you mean debian-12-minimal"):
        book(own).entry("debian-12-minimum")


def test_a_tree_is_made_again_when_an_element_or_a_package_changes(own: Path) -> None:
    def digests() -> tuple[str, str]:
        found = book(own)
        return base_digest(found, found.entry("mine").base), recipe_digest(found, found.entry("mine"))

    base, first = digests()
    (own / "images/mine.toml").write_text(GOOD.replace("[policy]", "description = 'words'\n[policy]"))
    assert digests() == (base, first)
    (own / "images/mine.toml").write_text(GOOD.replace('"curl"', '"wget"'))
    same, second = digests()
    (own / "elements/my-element/install.d/50-mine").write_text("#!/bin/sh\nfalse\n")
    again, third = digests()
    assert base == same == again
    assert len({first, second, third}) == 3
