"""Slurm's fair shares, from `sshare --all --parsable`: accounts and their users. Without slurmdbd there are none."""

from __future__ import annotations

import re

from kiosk.batch.api import Share
from kiosk.batch.ask import Answer, plain
from kiosk.batch.slurm.values import unread

FIGURE = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?$")
NONE = re.compile(
    r"accounting storage|not (?:running|enabled).{0,40}(?:accounting|database)|slurmdbd", re.IGNORECASE
)


def shares(answer: Answer) -> tuple[Share, ...]:
    """All shares. The depth of an account in the tree is the number of blanks before its name."""
    if answer.status != 0:
        if NONE.search(answer.error):
            return ()
        raise unread(answer, "failed")
    lines = answer.text.split("\n")
    if not lines[0].strip():
        return ()
    header = [word.strip() for word in lines[0].split("|")]
    if "Account" not in header or "RawShares" not in header:
        raise unread(answer, f"printed no table of shares: {plain(lines[0])!r}")
    if not answer.text.endswith("\n"):
        raise unread(answer, "ended in the middle of a line")
    found: list[Share] = []
    above: list[str] = []
    for line in lines[1:]:
        if not line.strip():
            continue
        cells = line.split("|")
        if len(cells) < len(header):
            raise unread(answer, f"printed half a row: {plain(line)!r}")
        row = dict(zip(header, cells, strict=False))
        account, user = row["Account"].strip(), row.get("User", "").strip()
        depth = len(row["Account"]) - len(row["Account"].lstrip(" "))
        if not user:
            above = [*above[:depth], account]
        parent = account if user else above[depth - 1] if 0 < depth <= len(above) else None
        if FIGURE.match(row["RawShares"]):
            found.append(_share(user or account, parent, row))
    return tuple(found)


def _share(name: str, parent: str | None, row: dict[str, str]) -> Share:
    used, fair = row.get("RawUsage", ""), row.get("FairShare", "")
    return Share(
        name, float(row["RawShares"]), None, None if parent == "root" else parent,
        float(used) if FIGURE.match(used) else None, float(fair) if FIGURE.match(fair) else None,
    )  # fmt: skip
