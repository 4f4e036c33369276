"""The parts of a snapshot: what is left out, which versions stay, what initrd an image gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiosk.build import clean
from kiosk.build.book import Book
from kiosk.build.image import unpack
from kiosk.build.trees import Forest
from kiosk.config import Settings
from kiosk.errors import UsageError
from kiosk.golden.definition import golden
from kiosk.golden.snapshot import drop_left_out, drop_old, left_out, parameters
from kiosk.golden.source import Capture
from kiosk.golden.workshop import Workshop
from kiosk.model.names import Version
from tests.simulators.images import built_image, kept_home

GOOD = """
name = "batch"
os = "debian"
release = "bookworm"
architecture = "x86_64"
base = "debian-12"
[source]
kind = "disk"
path = "/dev/golden"
format = "raw"
"""


@pytest.mark.parametrize(
    "path", ["/tmp/x", "/scratch/job/1", "/var/cache/cvmfs2/a", "/data/big", "/swapfile"]
)
def test_scratch_and_what_the_definition_names_are_left_out(path: str) -> None:
    assert left_out(["/data/*"])(path.encode())


@pytest.mark.parametrize("path", ["/tmp", "/etc/passwd", "/data", "/scratchy", "/usr/tmp.conf"])
def test_all_else_is_read(path: str) -> None:
    assert not left_out(["/data/*"])(path.encode())


def test_what_is_left_out_is_taken_out_of_a_tree_that_was_read_file_by_file(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    root = tmp_path / "root"
    for name in ("data/big/1", "data/2", "etc/kept"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "data/link").symlink_to(outside)
    drop_left_out(root, left_out(["/data/*"]))
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*")) == ["data", "etc", "etc/kept"]
    assert (outside / "precious").exists()


def test_old_versions_go_but_never_the_one_that_was_made_now(tmp_path: Path) -> None:
    for name in ("20260101.1", "20260102.1", "20260102.2", "20260103.1", "notes", ".gone-20251231.1"):
        (tmp_path / name).mkdir()
    assert drop_old(tmp_path, 2, Version((20260101, 1))) == (Version((20260102, 1)),)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["20260101.1", "20260102.2", "20260103.1", "notes"]


@pytest.mark.parametrize(
    "change, words",
    [
        (('name = "batch"', 'name = "other"'), "must be 'batch'"),
        (
            ('release = "bookworm"', 'release = "trixie"'),
            "is 'trixie', but the base debian-12 has 'bookworm'",
        ),
        (('base = "debian-12"', 'base = "debian-21"'), "there is no base 'debian-21'"),
        (('format = "raw"', 'format = "raw"\nfrozen = true'), "unknown key"),
        (('kind = "disk"', 'kind = "tape"'), "source"),
        (("[source]", 'network = "none"\n[source]'), "network"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1],
)
def test_a_definition_that_does_not_hold_together(
    tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    folder = tmp_path / "golden"
    folder.mkdir()
    (folder / "batch.toml").write_text(GOOD)
    settings = Settings(home=tmp_path, recipes=tmp_path)
    assert golden(settings, "batch").definition.keep == 7
    (folder / "batch.toml").write_text(GOOD.replace(*change))
    with pytest.raises(UsageError, match=words):
        golden(settings, "batch")


def test_a_golden_node_is_not_called_like_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden/debian-12-minimal.toml").write_text(GOOD.replace("batch", "debian-12-minimal"))
    with pytest.raises(UsageError, match="a recipe is called"):
        golden(Settings(home=tmp_path, recipes=tmp_path), "debian-12-minimal")


def test_where_a_node_is_and_what_it_answered_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    ready = '[ready]\nwhere = "builder"\nrun = ["ask", "golden.example.org"]\n'
    (tmp_path / "golden/batch.toml").write_text(GOOD + ready)
    found = golden(Settings(home=tmp_path, recipes=tmp_path), "batch")
    said = parameters(found.definition, Capture(method="copy of a file (raw)"))
    assert said["golden"]["name"] == "batch" and said["capture"]["source"] == "disk"
    assert "example.org" not in repr(said) and "/dev/golden" not in repr(said)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_an_initrd_for_a_nodes_modules_is_the_one_that_a_build_makes(tmp_path: Path) -> None:
    built_image(kept_home())
    settings = Settings(home=kept_home())
    book = Book.of(settings)
    base, _ = book.base("debian-12", named_in=tmp_path)
    forest = Forest(book, settings.build_cache, tmp_path / "forest", settings.home / "logs")
    (tmp_path / "forest").mkdir()
    tree = forest.base("debian-12", base, fresh=False)
    unpack(tree.tar, tmp_path / "node")
    modules = next((tmp_path / "node/usr/lib/modules").iterdir())
    workshop = Workshop(tree, "bookworm", tmp_path / "cache", tmp_path / "workshop")
    workshop.initrd(modules, tmp_path / "initrd")
    own = next((tmp_path / "node/boot").glob("initrd.img-*"))
    assert (tmp_path / "initrd").read_bytes() == own.read_bytes()
    assert [p.is_file() for p in (tmp_path / "cache/initrds").iterdir()] == [True]


def test_attributes_that_nobody_looks_into_are_taken_away(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    os.setxattr(tmp_path / "a", "user.secret", b"s3cret")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(tmp_path / "b", "security.capability", capability)
    clean.drop_attributes(tmp_path)
    assert os.listxattr(tmp_path / "a") == []
    assert os.getxattr(tmp_path / "b", "security.capability") == capability
