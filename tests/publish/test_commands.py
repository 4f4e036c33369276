"""The commands as a user types them: from nothing to a hypervisor with an image."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from kiosk.cli import common, main
from kiosk.config import Settings
from tests.simulators.published import build_image, build_layer, ready

UNREAD = ("--without-audit", "its disk is made up and holds no file system")


class Terminal:
    """Runs commands in this process and reads what they print."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
    ) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        monkeypatch.setenv("KIOSK_HOME", str(home))
        for name in ("KIOSK_URL", "KIOSK_ROOT", "KIOSK_PROXY", "KIOSK_CONFIG", "KIOSK_PASSPHRASE_FILE"):
            monkeypatch.delenv(name, raising=False)

    def set(self, name: str, value: object) -> None:
        """Sets an environment variable."""
        self._monkeypatch.setenv(name, str(value))

    def run(self, *words: object) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        self._monkeypatch.setattr(sys, "argv", ["kiosk", *map(str, words)])
        self._capsys.readouterr()
        code = common.guard(main.call)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    def json(self, *words: object) -> Any:
        """What a command that goes well prints with --json."""
        code, out, err = self.run(*words, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    return Terminal(monkeypatch, capsys, tmp_path / "home")


def test_from_nothing_to_a_hypervisor_with_an_image(terminal: Terminal, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    (tmp_path / "passphrase").write_text("correct horse battery staple\n")
    terminal.set("KIOSK_PASSPHRASE_FILE", tmp_path / "passphrase")
    made = terminal.json("init", "--root-keys", 2, "--threshold", 1)
    assert len(made["keys"]) == 7
    assert terminal.run("init")[0] == 2

    terminal.json("key", "create", "site-cern", "--out", tmp_path / "cern")
    assert terminal.json("delegate", "site/cern", "--key", tmp_path / "cern/site-cern.pub", "--dry-run")[
        "dry_run"
    ]
    terminal.json("delegate", "site/cern", "--key", tmp_path / "cern/site-cern.pub")
    assert [k["name"] for k in terminal.json("key", "list")][:1] == ["images"]
    assert terminal.json("key", "show", tmp_path / "cern/site-cern.pub")["roles"] == ["site-cern"]

    build_image(settings)
    assert terminal.json("publish", "worker", "--dry-run", *UNREAD)["signatures"] == []
    assert terminal.json("list") == []
    assert terminal.json("publish", "worker@1", *UNREAD)["new_objects"] > 4
    code, out, _ = terminal.run("publish", "worker")
    assert (code, out) == (0, "worker@1 is published already, the same to the byte.\n")

    assert [(i["name"], i["version"], i["role"]) for i in terminal.json("list")] == [
        ("worker", "1", "images")
    ]
    shown = terminal.json("show", "worker")
    assert (shown["audit"]["audited"], shown["audit"]["reason"]) == (False, UNREAD[1])
    assert (shown["version"], shown["packages"], shown["threshold"]) == ("1", 1, 1)
    assert set(shown["expires"]) == {"root", "targets", "snapshot", "timestamp", "images"}
    assert "worker@1 was not audited: its disk" in terminal.run("show", "worker@1")[1]
    assert [g["role"] for g in terminal.json("resign")["renewed"]] == ["timestamp"]

    terminal.set("KIOSK_HOME", tmp_path / "hypervisor")
    code, _, err = terminal.run("sync", "--url", settings.repository)
    assert (code, "--root" in err) == (2, True)
    synced = terminal.json("sync", "--url", settings.repository, "--root", made["root"])
    assert synced["results"][0]["state"] == "fetched"
    assert synced["moved"] == synced["results"][0]["moved"] > 2_000_000
    terminal.set("KIOSK_URL", settings.repository)
    assert [i["name"] for i in terminal.json("list")] == ["worker"]
    assert [(i["name"], i["current"]) for i in terminal.json("host", "list")] == [("worker", True)]
    assert terminal.json("host", "verify") == [{"name": "worker@1", "good": True}]
    assert "worker@1  good" in terminal.run("host", "verify")[1]


def test_what_goes_wrong_is_one_message_and_an_exit_code(terminal: Terminal, tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    terminal.set("KIOSK_HOME", kiosk.settings.home)
    build_layer(kiosk.settings, "site/b")
    (tmp_path / "wrong").write_text("not the passphrase")
    build_image(kiosk.settings, version="2")
    for words, code, says in [
        (["publish", "worker@2", *UNREAD, "--passphrase-file", tmp_path / "wrong"], 5, "passphrase is wrong"),
        (
            ["publish", "worker@2", *UNREAD, "--passphrase-file", tmp_path / "none"],
            2,
            "can't read the passphrase",
        ),
        (["publish", "worker@2"], 2, "no root file system was found"),
        (["publish", "worker@2", "--without-audit", "hm"], 2, "say why"),
        (["publish", "worker@2", *UNREAD], 2, "there is no terminal to ask on"),
        (["publish", "unheard-of"], 6, "has not been built here"),
        (["publish", "Not A Name"], 2, "is not an image name"),
        (["show", "unheard-of"], 6, "is not in the repository"),
        (["show", "worker@77"], 6, "Versions: 1"),
        (["delegate", "farm/x", "--key", tmp_path / "none.pub"], 2, "can't be delegated to"),
        (["delegate", "site/x", "--key", tmp_path / "none.pub"], 6, "no such public key"),
        (["key", "show", "unheard-of"], 6, "no such public key"),
        (["init", "--threshold", 9], 2, "root keys"),
        (["init", "--timestamp-hours", 0], 2, "out of range"),
        (["sync"], 2, "no kiosk to sync from"),
        (["sync", "--url", "ftp://kiosk"], 2, "is not a repository"),
        (
            ["sync", "--url", kiosk.settings.repository, "--root", tmp_path / "none.json"],
            2,
            "can't read the root",
        ),
    ]:
        found, _, err = terminal.run(*words)
        assert (found, says in err) == (code, True), (words, err)


def test_a_damaged_host_is_told(terminal: Terminal, tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    kiosk.sync()
    terminal.set("KIOSK_HOME", kiosk.hypervisor.home)
    with (kiosk.hypervisor.host / "images/worker/1/initrd").open("r+b") as f:
        f.write(b"x")
    code, out, err = terminal.run("host", "verify")
    assert code == 5
    assert "WRONG" in out
    assert "initrd" in err
