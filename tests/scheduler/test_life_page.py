"""The state table in docs/scheduler-life.md is the one that is run."""

from __future__ import annotations

from pathlib import Path

from kiosk.scheduler.life import TABLE, Limits

PAGE = Path(__file__).parents[2] / "docs/scheduler-life.md"
HEAD = "| phase | VM | host | after | becomes | what is done | why |\n|---|---|---|---|---|---|---|\n"


def length(seconds: float) -> str:
    """Seconds, minutes or hours."""
    whole = int(seconds)
    return f"{whole // 3600} h" if whole % 3600 == 0 else f"{whole // 60} min"


def table() -> str:
    """The table as the page has it."""
    lines = []
    for row in TABLE:
        since = {"since": "", "missing": " unlisted", "silent": " unheard"}[row.timer]
        after = f"{row.after}: {length(getattr(Limits(), row.after))}{since}" if row.after else ""
        cells = [row.phases, row.vm, row.host, after, row.to or "", " ".join(row.do), row.why]
        lines.append(
            "| "
            + " | ".join(
                cell.replace(" ", ", ") if i in (0, 1, 2, 5) else cell for i, cell in enumerate(cells)
            )
            + " |"
        )
    return HEAD + "\n".join(lines) + "\n"


def test_the_page_has_the_table_that_is_run() -> None:
    assert table() in PAGE.read_text(), table()
