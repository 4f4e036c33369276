"""`kiosk layer lint`: one layer or several, by themselves, against the images known here, and against each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kiosk.build import layer, layer_base
from kiosk.config import Settings
from kiosk.files import sha256
from kiosk.model.manifest import LayerPolicy
from kiosk.run import run
from tests.build.test_layer import image
from tests.publish.test_commands import Terminal

SITE = """
kind = "site"
owner = "example"
name = "base"
images = ["debian-12-minimal", "debian-12-worker"]
allows = ["hooks"]
health = ["bin/check"]

[[groups]]
name = "grid"
gid = 801

[[users]]
name = "pilot"
uid = 990
groups = ["grid"]

[cvmfs]
repositories = ["grid.example.org"]
http_proxy = "http://squid.example.org:3128"
quota_mb = 20000

[farms.grid]
kind = "slurm"
settings = { controllers = "slurm.example.org" }
"""
DEMO = """
kind = "experiment"
owner = "demo"
name = "software"
images = ["debian-12-minimal"]

[cvmfs]
repositories = ["demo.example.org"]
"""


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    monkeypatch.delenv("KIOSK_RECIPES", raising=False)
    return Terminal(monkeypatch, capsys, tmp_path / "home")


def recipe(folder: Path, text: str) -> Path:
    """A layer's folder with a program in it."""
    (folder / "files/bin").mkdir(parents=True)
    (folder / "layer.toml").write_text(text)
    (folder / "files/bin/check").write_text("#!/bin/sh\n")
    (folder / "files/bin/check").chmod(0o755)
    return folder


def test_a_farm_that_no_driver_would_take(terminal: Terminal, tmp_path: Path) -> None:
    wrong = SITE.replace("controllers =", "controller =") + '[farms.other]\nkind = "pbs"\nsettings = {}\n'
    code, _, err = terminal.run("layer", "lint", recipe(tmp_path / "site", wrong))
    assert code == 10
    assert "farm grid (slurm): unknown setting controller; it has " in err
    assert "there is no driver 'pbs'" in err


def test_layers_that_go_together(terminal: Terminal, tmp_path: Path) -> None:
    site, demo = recipe(tmp_path / "site", SITE), recipe(tmp_path / "demo", DEMO)
    image(Settings(home=tmp_path / "home"), "debian-12-minimal", "1", ["/etc/passwd"])
    code, out, _ = terminal.run("layer", "lint", demo, site)
    assert code == 0
    assert out == (
        "not checked against debian-12-worker: neither built nor published here\n"
        "experiment/demo/software, site/example/base: nothing wrong\n"
    )


def test_conflicts_between_layers_end_with_10_and_are_told_as_the_guest_would(
    terminal: Terminal, tmp_path: Path
) -> None:
    site = recipe(tmp_path / "site", SITE)
    demo = recipe(tmp_path / "demo", DEMO + '[[users]]\nname = "demo"\nuid = 801\n')
    second = recipe(tmp_path / "second", DEMO.replace('"software"', '"more"'))
    code, out, err = terminal.run("layer", "lint", demo, site, second, "--json")
    assert code == 10
    found = json.loads(out)
    assert [one["faults"] for one in found["layers"]] == [[], [], []]
    assert found["conflicts"] == [
        "site/example/base and experiment/demo/software both declare uid 801",
        "experiment/demo/software and experiment/demo/more both declare prefix /opt/experiment/demo",
    ]
    assert all(conflict in err for conflict in found["conflicts"])


def test_layers_that_no_image_takes_together(tmp_path: Path) -> None:
    site = recipe(tmp_path / "site", SITE.replace('"debian-12-minimal", ', ""))
    demo = recipe(tmp_path / "demo", DEMO)
    assert layer.together([site, demo]) == [
        "site/example/base, experiment/demo/software: no image takes all of them"
    ]


def test_the_policy_of_a_known_image_decides_before_anything_is_built(
    terminal: Terminal, tmp_path: Path
) -> None:
    site = recipe(tmp_path / "site", SITE)
    closed = layer.Base("closed@1", frozenset(), LayerPolicy(cvmfs=False, users=False, allows=()))
    assert layer.lint(site, [closed]) == [
        "closed@1: declares users, and the image's policy has users = false",
        "closed@1: declares something for CVMFS, and the image's policy has cvmfs = false",
        "closed@1: allows hooks, and the image's policy has it not among what sites may allow",
    ]
    image(Settings(home=tmp_path / "home"), "debian-12-minimal", "1", ["/etc/cvmfs/default.local"])
    code, _, err = terminal.run("layer", "lint", site)
    assert code == 10
    assert "debian-12-minimal@1: cvmfs: the base has a /etc/cvmfs/default.local of its own" in err


def test_an_account_that_a_built_image_has(tmp_path: Path) -> None:
    """The accounts are those on the image's disk, as the guest will see them."""
    settings = Settings(home=tmp_path / "home")
    image(settings, "debian-12-minimal", "1", ["/etc/passwd"])
    tree = tmp_path / "tree/etc"
    tree.mkdir(parents=True)
    (tree / "passwd").write_text("root:x:0:0::/root:/bin/sh\npilot:x:400:400::/:/bin/sh\n")
    (tree / "group").write_text("root:x:0:\nmunge:x:801:\n")
    (tree / "os-release").write_text("ID=debian\n")
    folder = settings.images / "debian-12-minimal/1"
    disk = folder / "disk.raw"
    run(["mkfs.ext4", "-q", "-d", tmp_path / "tree", disk, "8M"], timeout=60)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["artifacts"]["disk"] = {"file": "disk.raw", "size": 8 << 20, "digest": sha256(disk)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    known = layer_base.known(settings, ["debian-12-minimal"])
    assert layer.lint(recipe(tmp_path / "site", SITE), known.found) == [
        "debian-12-minimal@1: user pilot (990): the base's /etc/passwd has that name or number",
        "debian-12-minimal@1: group grid (801): the base's /etc/group has that name or number",
    ]


def test_a_recipe_that_can_not_be_read_ends_with_2(terminal: Terminal, tmp_path: Path) -> None:
    bad = recipe(tmp_path / "bad", SITE.replace("hooks", "everything"))
    assert terminal.run("layer", "lint", bad)[0] == 2
