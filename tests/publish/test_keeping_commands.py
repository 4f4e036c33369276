"""`kiosk store prune` and `repair` as they are typed."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from kiosk import files
from kiosk.store.api import DirectoryStore
from kiosk.store.objects import path_of
from tests.publish.test_commands import Terminal, terminal
from tests.simulators.published import PASSPHRASE, build_image, ready

__all__ = ["terminal"]


def test_prune(terminal: Terminal, tmp_path: Path) -> None:
    kiosk = ready(tmp_path / "kiosk")
    for version in ("2", "3"):
        kiosk.image(version=version)
    terminal.set("KIOSK_HOME", kiosk.settings.home)
    dry = terminal.json("store", "prune", "--keep", 1, "--dry-run")
    assert (dry["withdrawn"], dry["dry_run"], dry["signatures"]) == (["worker@1", "worker@2"], True, [])
    code, _, err = terminal.run("store", "prune", "--keep", 1)
    assert (code, "no terminal to ask on" in err) == (2, True)
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    terminal.set("KIOSK_PASSPHRASE_FILE", tmp_path / "passphrase")
    code, out, _ = terminal.run("store", "prune", "worker", "--keep", 1)
    assert code == 0
    assert "Withdrew worker@1, worker@2." in out
    assert "Removed 0 files" in out
    assert "wait for the end of their grace" in out
    assert [i["version"] for i in terminal.json("list") if i["name"] == "worker"] == ["3"]
    stats = terminal.json("store", "stats")
    assert stats["versions"] == 2
    assert stats["unnamed"] > 0
    assert "used by no version" in terminal.run("store", "stats")[1]
    assert terminal.json("store", "prune", "--grace", 0)["removed"] > 8
    assert terminal.json("store", "stats")["unnamed"] == 0
    assert terminal.run("store", "verify")[0] == 0


@pytest.mark.parametrize("command", [["publish", "worker@2"], ["store", "prune"], ["resign"]], ids=" ".join)
def test_commands_wait_for_another_kiosk_as_long_as_they_are_told(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    kiosk = ready(tmp_path / "kiosk")
    build_image(kiosk.settings, version="2")
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    terminal.set("KIOSK_PASSPHRASE_FILE", tmp_path / "passphrase")
    terminal.set("KIOSK_HOME", kiosk.settings.home)
    audit = ["--without-audit", "no root file system in it"] if command[0] == "publish" else []
    with contextlib.ExitStack() as other:
        other.enter_context(files.locked(kiosk.settings.repository.with_name(".repository.lock"), what="x"))
        code, _, err = terminal.run(*command, *audit)
        assert (code, "another kiosk is already working on" in err) == (4, True)
        monkeypatch.setattr(
            files.time, "sleep", lambda _: other.close()
        )  # it has finished when it is asked again
        assert terminal.run(*command, *audit, "--wait", 60)[0] == 0


def test_the_rule_may_stand_in_the_settings(terminal: Terminal, tmp_path: Path) -> None:
    kiosk = ready(tmp_path / "kiosk")
    kiosk.image(version="2")
    config = tmp_path / "kiosk.toml"
    config.write_text(f'home = "{kiosk.settings.home}"\nkeep = 1\ngrace_hours = 1.5\n')
    terminal.set("KIOSK_CONFIG", config)
    terminal.set("KIOSK_HOME", kiosk.settings.home)
    assert terminal.json("store", "prune", "--dry-run")["withdrawn"] == ["worker@1"]
    assert terminal.json("store", "prune", "--dry-run", "--keep-days", 36500)["withdrawn"] == []
    config.write_text("keep = 0\n")
    code, _, err = terminal.run("store", "prune")
    assert (code, "keep: " in err) == (2, True)


def test_wrong_arguments_are_said(terminal: Terminal, tmp_path: Path) -> None:
    kiosk = ready(tmp_path / "kiosk")
    terminal.set("KIOSK_HOME", kiosk.settings.home)
    for words, code, says in [
        (["prune", "worker@1"], 2, "Name the image or layer: worker"),
        (["prune", "unheard-of"], 6, "has no version"),
        (["prune", "--keep", 0], 2, "--keep"),
        (["repair", "--from", "ftp://x"], 2, "is not a repository"),
    ]:
        found, _, err = terminal.run("store", *words)
        assert (found, says in err) == (code, True), (words, err)


def test_repair(terminal: Terminal, tmp_path: Path) -> None:
    kiosk = ready(tmp_path / "kiosk")
    repository = kiosk.settings.repository
    shutil.copytree(repository, tmp_path / "mirror")
    shutil.rmtree(kiosk.settings.images)
    terminal.set("KIOSK_HOME", kiosk.settings.home)
    lost = next(DirectoryStore(repository).objects())
    (repository / path_of(lost.digest)).unlink()
    code, _, err = terminal.run("store", "verify")
    assert (code, "kiosk store repair" in err) == (5, True)
    code, out, err = terminal.run("store", "repair")
    assert (code, "not mended" in out, "could not be mended" in err) == (5, True, True)
    code, out, _ = terminal.run("store", "repair", "--from", tmp_path / "mirror", "--dry-run")
    assert (code, "would be mended from" in out) == (0, True)
    done = terminal.json("store", "repair", "--from", tmp_path / "mirror")
    assert [m["path"] for m in done["mends"]] == [path_of(lost.digest)]
    assert "0 files were wrong" in terminal.run("store", "repair")[1]
    assert terminal.run("store", "verify")[0] == 0
