"""Flavours by name and by numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk import config
from kiosk.errors import UsageError
from kiosk.model.flavour import FLAVOURS, Flavour
from kiosk.model.manifest import ImageManifest, Partition
from kiosk.model.recipe import Base, Recipe


def test_names_and_numbers_mean_the_same() -> None:
    assert Flavour.parse("c2") == Flavour.parse("2/4/20") == FLAVOURS["c2"]


@given(st.text(max_size=12) | st.from_regex(r"[0-9/]{1,12}", fullmatch=True))
def test_anything_else_is_refused_or_reads_back(text: str) -> None:
    try:
        found = Flavour.parse(text)
    except UsageError:
        return
    assert Flavour.parse(str(found)) == found


@pytest.mark.parametrize("text", ["", "0/1/1", "1/1", "1/1/1/1", "513/1/1", "1/20000/1", "huge", "-1/1/1"])
def test_what_is_no_flavour_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="flavour"):
        Flavour.parse(text)


def test_a_users_own_names_go_before_kiosks() -> None:
    own = {"batch": "8/24/200", "c1": "1/3/10"}
    assert Flavour.parse("batch", own) == Flavour(cores=8, memory=24, scratch=200)
    assert Flavour.parse("c1", own) == Flavour(cores=1, memory=3, scratch=10)
    assert Flavour.parse("c2", own) == FLAVOURS["c2"]
    with pytest.raises(UsageError, match="not a flavour") as caught:
        Flavour.parse("bach", own)
    assert "batch" in str(caught.value.hint)


def test_own_flavours_come_from_the_settings_and_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "kiosk.toml"
    file.write_text('[flavours]\nbatch = "8/24/200"\n')
    assert config.load(file).flavours == {"batch": "8/24/200"}
    for wrong in ('"8/24"', '"0/1/1"', '"c1"', "4"):
        file.write_text(f"[flavours]\nbatch = {wrong}\n")
        with pytest.raises(UsageError, match=r"flavours\.batch"):
            config.load(file)


def test_nothing_that_an_image_is_made_from_or_says_of_itself_knows_a_flavour() -> None:
    for model in (Recipe, Base, ImageManifest, Partition):
        assert not {"flavour", "cores", "memory", "scratch"} & set(model.model_fields), model
