"""The tables of docs/audit.md, made from the checks and from an audit of what is planted.

`python -m tests.audit.page` writes them anew.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from kiosk.audit import CHECKS, CLAUSES
from tests.audit.images import clean
from tests.simulators.planted import PLANTED, plant

PAGE = Path(__file__).parents[2] / "docs/audit.md"


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def checks() -> str:
    rows = [[f"`{c.name}`", c.finds, c.reason, c.advice] for c in CHECKS.values()]
    return table(["check", "finds", "why", "what to do"], rows)


def clauses() -> str:
    rows = [
        [text, ", ".join(f"`{c.name}`" for c in CHECKS.values() if c.clause == clause)]
        for clause, text in CLAUSES.items()
    ]
    own = ", ".join(f"`{c.name}`" for c in CHECKS.values() if c.clause is None)
    return table(
        ["clause, in short", "checks"], [*rows, ["kiosk's own: no identity, nothing unvouched for", own]]
    )


def planted() -> str:
    with tempfile.TemporaryDirectory() as folder:
        root = clean(Path(folder) / "root")
        before = root.audit()
        plant(root.path)
        after = root.audit()
    found: dict[str, set[str]] = {}
    for finding in after.findings:
        found.setdefault(finding.path, set()).add(finding.check)
    rows = []
    for kind in dict.fromkeys(p.kind for p in PLANTED):
        those = [p for p in PLANTED if p.kind == kind]
        names = sorted({check for p in those for check in found.get(p.path, ())}, key=list(CHECKS).index)
        hit = sum(p.path in found for p in those)
        rows.append(
            [kind, str(len(those)), str(hit), ", ".join(f"`{n}`" for n in names), str(len(before.findings))]
        )
    total = sum(p.path in found for p in PLANTED)
    rows.append(["**all**", str(len(PLANTED)), str(total), "", str(len(before.findings))])
    return table(["kind", "planted", "found", "by", "findings before planting"], rows)


def page(text: str) -> str:
    """The page with its tables as they are now."""
    for name, made in (("checks", checks()), ("clauses", clauses()), ("planted", planted())):
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda m, made=made: m[1] + made + m[2],
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
