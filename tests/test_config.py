"""Configuration is read strictly: an unknown key or a wrong value names the file and the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk import config
from kiosk.errors import UsageError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hom = '/x'", "unknown key 'hom'"),
        ("home = ", "is not valid TOML"),
        ("home = 3", "home:"),
    ],
)
def test_a_fault_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "kiosk.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        config.load(file)
    assert str(file) in str(caught.value)


def test_the_environment_comes_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kiosk.toml"
    file.write_text("home = '/from-file'\nurl = 'http://file'")
    monkeypatch.setenv("KIOSK_HOME", "/from-environment")
    settings = config.load(file)
    assert settings.home == Path("/from-environment")
    assert settings.url == "http://file"


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        config.load(tmp_path / "none.toml")
