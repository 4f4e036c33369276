"""The documentation's tables say what the checks are and find."""

from __future__ import annotations

from tests.audit.page import PAGE, page


def test_the_page_is_current() -> None:
    text = PAGE.read_text()
    assert page(text) == text, "run `python -m tests.audit.page`"
