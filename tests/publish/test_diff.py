"""`kiosk diff`: what it says would move is what a sync then moves, and what changed inside is listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kiosk.files import sha256
from kiosk.model.census import FileEntry, write_files
from kiosk.model.manifest import ImageManifest
from kiosk.publish import publish
from tests.publish.test_commands import Terminal
from tests.publish.test_commands import terminal as terminal
from tests.simulators.published import Kiosk, ask, behind, build_image, ready


def listing(kiosk: Kiosk, version: str, *files: str) -> None:
    """Publishes a version whose lists say more than the simulator's."""
    folder = build_image(kiosk.settings, version=version)
    entries = [
        FileEntry(path=path, mode="100644", owner="0:0", size=1, digest=digest * 32)
        for path, _, digest in (f.partition("=") for f in files)
    ]
    (folder / "files.json").write_bytes(write_files(entries))
    manifest = ImageManifest.from_json((folder / "manifest.json").read_bytes(), where="here")
    made = folder / "files.json"
    entry = manifest.artifacts["files"].model_copy(
        update={"size": made.stat().st_size, "digest": sha256(made)}
    )
    manifest = manifest.model_copy(update={"artifacts": {**manifest.artifacts, "files": entry}})
    (folder / "manifest.json").write_bytes(manifest.to_json())
    publish(kiosk.settings, folder, ask)


def way(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(w for w in found["ways"] if w["way"] == name)


@pytest.mark.parametrize("where", ["a URL", "the repository here"])
def test_what_it_says_would_move_is_what_a_sync_moves(terminal: Terminal, tmp_path: Path, where: str) -> None:
    kiosk = behind(tmp_path)
    terminal.set("KIOSK_HOME", kiosk.settings.home)
    if where == "a URL":
        terminal.set("KIOSK_HOME", tmp_path / "reader")
        terminal.set("KIOSK_URL", kiosk.settings.repository)
        terminal.set("KIOSK_ROOT", kiosk.root)
    found = terminal.json("diff", "worker")
    assert (found["before"], found["after"]) == ("worker@1", "worker@2")
    assert [w["way"] for w in found["ways"]] == ["packs", "whole"]
    synced = kiosk.sync("worker").results[0]
    packs = way(found, "packs")
    assert (packs["bytes"], packs["requests"]) == (synced.moved, synced.requests)
    assert packs["reused"] <= synced.reused  # a last block counts only as far as the file goes
    assert way(found, "whole")["bytes"] > 5 * packs["bytes"]
    changed = found["packages"]["changed"]
    assert [(c["name"], c["before"], c["after"], c["direction"]) for c in changed] == [
        ("base", "1", "2", "upgraded")
    ]
    assert found["files"] is None
    assert (
        terminal.json("diff", "worker@2", "worker@1")["packages"]["changed"][0]["direction"] == "downgraded"
    )
    assert terminal.json("diff", "worker@1", "worker")["after"] == "worker@2"


def test_files_are_listed_and_lists_are_bounded(terminal: Terminal, tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    terminal.set("KIOSK_HOME", kiosk.settings.home)
    listing(kiosk, "2", "/etc/passwd=a", "/gone=a", "/same=a")
    listing(kiosk, "3", "/etc/passwd=b", "/same=a", *(f"/new/{i:03}\x1b[31m=a" for i in range(100)))
    files = terminal.json("diff", "worker", "--files")["files"]
    assert (len(files["added"]), files["removed"]) == (100, ["/gone"])
    assert files["changed"] == [{"path": "/etc/passwd", "what": ["content"]}]
    code, out, _ = terminal.run("diff", "worker", "--files")
    assert code == 0
    assert "Files: 100 added, 1 removed, 1 changed." in out
    assert "changed  /etc/passwd (content)" in out
    assert "and 60 more" in out
    assert "\x1b" not in out
    assert len(out.splitlines()) < 60
    out = terminal.run("diff", "worker@1", "worker@2", "--files")[1]
    assert "unknown how many changed" in out
    assert json.loads(terminal.run("diff", "worker@1", "worker@2", "--files", "--json")[1])["files"][
        "added"
    ] == ["/gone", "/same"]


def test_layers_have_no_lists_and_can_be_compared(terminal: Terminal, tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    kiosk.layer(version="2")
    terminal.set("KIOSK_HOME", kiosk.settings.home)
    found = terminal.json("diff", "site/a/base", "--files")
    assert (found["after"], found["packages"], found["files"]) == ("site/a/base@2", None, None)
    assert "there is no list" in terminal.run("diff", "site/a/base")[1]


def test_what_can_not_be_compared_is_said(terminal: Terminal, tmp_path: Path) -> None:
    terminal.set("KIOSK_HOME", ready(tmp_path).settings.home)
    for words, code, says in [
        (["worker"], 6, "no version before worker@1"),
        (["worker", "worker@1"], 2, "names no version"),
        (["worker@1", "site/a/base"], 2, "an image and a layer"),
        (["worker@9", "worker"], 6, "Versions: 1"),
    ]:
        found, _, err = terminal.run("diff", *words)
        assert (found, says in err) == (code, True), (words, err)
