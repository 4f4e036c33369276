"""Flavours by name and by numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.errors import UsageError
from kiosk.model.flavour import FLAVOURS, Flavour


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
