"""`kiosk layer`: recipes read strictly, images that come out the same every time, and what is published."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from kiosk.build import layer, layer_base, layer_image, layer_recipe
from kiosk.config import Settings
from kiosk.errors import CorruptError, NotFoundError, PolicyError, UsageError
from kiosk.files import sha256
from kiosk.model.manifest import LayerManifest, LayerPolicy
from kiosk.model.names import Version

TOML = """
kind = "experiment"
owner = "demo"
name = "software"
images = ["debian-12-minimal"]
[environment]
VO_DEMO_SW_DIR = "/opt/experiment/demo"
"""
BASE = layer.Base("debian-12-minimal@1", frozenset(("/etc/passwd",)), LayerPolicy(etc=("/etc/kiosk/*",)))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A small layer's folder."""
    folder = tmp_path / "recipe"
    (folder / "files/bin").mkdir(parents=True)
    (folder / "layer.toml").write_text(TOML)
    (folder / "files/bin/hello").write_text("#!/bin/sh\necho hello\n")
    (folder / "files/bin/hello").chmod(0o755)
    (folder / "files/latest").symlink_to("bin/hello")
    return folder


def test_a_layer_is_built_checked_and_described(recipe: Path, tmp_path: Path) -> None:
    built = layer.build(recipe, Version.parse("4.2"), tmp_path / "built")
    assert built.folder == tmp_path / "built/experiment/demo/software/4.2"
    manifest = layer.check(built.folder, [BASE])
    assert manifest.prefix == "/opt/experiment/demo"
    assert manifest.artifacts["layer"].digest == sha256(built.folder / layer.IMAGE)
    entries = layer_image.image_entries(built.folder / layer.IMAGE)
    assert {p: (oct(e.mode), e.target) for p, e in entries.items()} == {
        "bin": ("0o40755", ""),
        "bin/hello": ("0o100755", ""),
        "latest": ("0o120777", "bin/hello"),
    }


def test_the_same_files_give_the_same_bytes_whatever_the_umask_the_owner_and_the_time(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = layer.build(recipe, None, tmp_path / "one")
    copy = tmp_path / "copy"
    shutil.copytree(recipe, copy, symlinks=True)
    for path in copy.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() or "bin" in path.parts else 0o600)
            os.utime(path, (1, 1))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    second = layer.build(copy, None, tmp_path / "two")
    assert sha256(first.folder / layer.IMAGE) == sha256(second.folder / layer.IMAGE)


def test_versions_count_on_and_are_never_built_over(recipe: Path, tmp_path: Path) -> None:
    one, two = (layer.build(recipe, None, tmp_path / "built") for _ in range(2))
    assert one.ref.version is not None
    assert two.ref.version is not None
    assert [v.parts[1] for v in (one.ref.version, two.ref.version)] == [1, 2]
    with pytest.raises(UsageError, match="is built already"):
        layer.build(recipe, two.ref.version, tmp_path / "built")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TOML.replace("[environment]", 'colour = "blue"\n[environment]'), "unknown key 'colour'"),
        (TOML.replace('"demo"', '"Demo!"'), "owner: "),
        (TOML.replace('images = ["debian-12-minimal"]', ""), "images: missing"),
        (TOML.replace('images = ["debian-12-minimal"]', "images = []"), "images: "),
        (TOML + "A = 7\n", "environment.A: "),
        (TOML + 'DEMO_A = "`reboot`"\n', "environment.DEMO_A: "),
        (TOML + '[[users]]\nname = "x"\nuid = 0\n', "users.0.uid: "),
        (TOML + '[[users]]\nname = "x"\nuid = 990\nsudo = true\n', "unknown key 'users.0.sudo'"),
        (TOML + "[", "is not valid TOML"),
    ],
)
def test_a_recipe_that_does_not_fit_names_file_and_key(recipe: Path, text: str, expected: str) -> None:
    (recipe / "layer.toml").write_text(text)
    with pytest.raises(UsageError) as refused:
        layer_recipe.read(recipe)
    assert refused.value.where == str(recipe / "layer.toml")
    assert expected in refused.value.what


def test_lint_tells_all_faults_at_once(recipe: Path) -> None:
    os.mkfifo(recipe / "files/pipe")
    (recipe / "files/bin/hello").chmod(0o4755)
    (recipe / "files/out").symlink_to("/tmp/x")
    with (recipe / "layer.toml").open("a") as f:
        f.write('PATH = "/x"\n[[files]]\npath = "/etc/kiosk/x"\nsource = "gone"\n')
    faults = layer.lint(recipe)
    for part in ("is a pipe", "set-user-ID", "links to '/tmp/x'", "variable PATH", "'gone' is declared"):
        assert any(part in fault for fault in faults), part
    with pytest.raises(PolicyError) as refused:
        layer.build(recipe, None, recipe / "built")
    assert all(fault in str(refused.value) for fault in faults)
    assert not (recipe / "built").exists()


def test_the_hash_tree_follows_from_the_image_and_the_name_alone(recipe: Path, tmp_path: Path) -> None:
    one, two = (layer.build(recipe, None, tmp_path / "built") for _ in range(2))
    first, second = (layer.read_built(built.folder) for built in (one, two))
    assert first.verity is not None
    assert first.verity == second.verity
    assert first.artifacts["layer"] == second.artifacts["layer"]
    assert first.artifacts["layer"].size == (first.verity.hash_start + 1) * 4096


def test_a_manifest_with_another_hash_tree_is_refused(recipe: Path, tmp_path: Path) -> None:
    built = layer.build(recipe, None, tmp_path / "built")
    manifest = json.loads((built.folder / "manifest.json").read_bytes())
    for key, value in (("root_hash", "0" * 64), ("salt", "00"), ("data_blocks", 3), ("hash_start", 3)):
        changed = {**manifest, "verity": {**manifest["verity"], key: value}}
        (built.folder / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(CorruptError, match="hash tree"):
            layer.check(built.folder, [BASE])


def test_a_layer_that_was_built_without_a_hash_tree_is_as_good_as_before(
    recipe: Path, tmp_path: Path
) -> None:
    built = layer.build(recipe, None, tmp_path / "built")
    manifest = json.loads((built.folder / "manifest.json").read_bytes())
    del manifest["verity"]
    (built.folder / "manifest.json").write_text(json.dumps(manifest))
    assert layer.check(built.folder, [BASE]).verity is None


def test_a_layer_that_declares_nothing_new_says_nothing_that_an_older_guest_refuses(
    recipe: Path, tmp_path: Path
) -> None:
    built = layer.build(recipe, None, tmp_path / "built")
    declares = json.loads((built.folder / "manifest.json").read_bytes())["declares"]
    assert set(declares) == {"environment", "users", "services", "files"}


def test_an_image_that_was_changed_after_it_was_built(recipe: Path, tmp_path: Path) -> None:
    built = layer.build(recipe, None, tmp_path / "built")
    data = bytearray((built.folder / layer.IMAGE).read_bytes())
    data[120] ^= 1
    (built.folder / layer.IMAGE).write_bytes(data)
    with pytest.raises(CorruptError):
        layer.check(built.folder, [BASE])


def test_the_policy_of_the_base_decides(recipe: Path, tmp_path: Path) -> None:
    built = layer.build(recipe, None, tmp_path / "built")
    closed = layer.Base("closed@1", frozenset(), LayerPolicy(environment=False))
    with pytest.raises(PolicyError, match="closed@1: declares environment variables"):
        layer.check(built.folder, [BASE, closed])


def image(settings: Settings, name: str, version: str, paths: list[str]) -> None:
    """A built image, as far as a layer looks at it."""
    folder = settings.images / name / version
    folder.mkdir(parents=True)
    (folder / "files.json").write_text(json.dumps(paths))
    artifact = {"file": "files.json", "size": (folder / "files.json").stat().st_size}
    artifact["digest"] = sha256(folder / "files.json")
    digest = "sha256:" + "0" * 64
    manifest = {
        "schema": "kiosk.image/1",
        "name": name,
        "version": version,
        "architecture": "x86_64",
        "os": "debian",
        "release": "bookworm",
        "created": "2026-03-01T00:00:00Z",
        "source": {"kind": "recipe", "name": name, "digest": digest, "tree": digest, "date": 0},
        "partitions": [],
        "verity": {"root_hash": "0" * 64, "salt": "", "data": "root", "hash": "verity"},
        "cmdline": "",
        "policy": {"etc": ["/etc/kiosk/*"]},
        "artifacts": {"files": artifact},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_newest_built_image_is_the_one_that_counts(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    image(settings, "debian-12-minimal", "20260301.9", ["/etc/passwd"])
    image(settings, "debian-12-minimal", "20260301.10", ["/etc/passwd", "/etc/kiosk/new"])
    known = layer_base.bases(settings, ["debian-12-minimal", "debian-12-worker"])
    assert [base.name for base in known.found] == ["debian-12-minimal@20260301.10"]
    assert "/etc/kiosk/new" in known.found[0].paths
    assert known.unknown == ("debian-12-worker",)


def test_a_layer_for_images_that_nobody_knows_can_not_be_checked(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="none of the images"):
        layer_base.bases(Settings(home=tmp_path), ["debian-12-minimal"])


@pytest.mark.parametrize("name", ["example-site", "example-experiment"])
def test_the_examples_hold(name: str, tmp_path: Path) -> None:
    folder = layer_recipe.find(name, Settings(home=tmp_path))
    assert layer.lint(folder) == []
    built = layer.build(folder, None, tmp_path / "built")
    assert isinstance(layer.check(built.folder, [BASE]), LayerManifest)


def test_a_recipe_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="example-site"):
        layer_recipe.find("nothing", Settings(home=tmp_path))
