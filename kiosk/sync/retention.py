"""Which versions of a hypervisor's cache may go. Pure.

Never the current version of a name, nor the one before it (a roll-back needs it), nor one that is in use, nor one
that the caller names as wanted; nor the newest few of each name. Of a name that has no current version, the newest
few are all that stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from kiosk.model.names import Ref, Version

KEEP = 2
Reason = Literal["current", "before current", "in use", "wanted", "newest"]


@dataclass(frozen=True)
class Held:
    """A version in the cache, as far as the rule looks at it. `used` is also true where that can't be known."""

    ref: Ref
    created: datetime
    current: bool = False
    used: bool = False


def verdicts(
    held: Iterable[Held], *, keep: int = KEEP, wanted: Collection[Ref] = ()
) -> dict[Ref, Reason | None]:
    """Why each version stays, or None where it may go. Those that may go come oldest first."""
    names: dict[str, list[Held]] = {}
    for one in held:
        names.setdefault(one.ref.folder, []).append(one)
    found: list[tuple[Held, Reason | None]] = []
    for versions in names.values():
        versions.sort(key=_version, reverse=True)
        before = _before_current(versions)
        for newer, one in enumerate(versions):
            found.append((one, _reason(one, newer < keep, one is before, one.ref in wanted)))
    found.sort(key=lambda pair: (pair[1] is not None, pair[0].created, pair[0].ref.folder, _version(pair[0])))
    return {one.ref: reason for one, reason in found}


def _reason(one: Held, newest: bool, before: bool, wanted: bool) -> Reason | None:
    reasons: list[tuple[bool, Reason]] = [
        (one.current, "current"),
        (one.used, "in use"),
        (before, "before current"),
        (wanted, "wanted"),
        (newest, "newest"),
    ]
    return next((reason for holds, reason in reasons if holds), None)


def _before_current(newest_first: list[Held]) -> Held | None:
    for at, one in enumerate(newest_first):
        if one.current:
            return newest_first[at + 1] if at + 1 < len(newest_first) else None
    return None


def _version(one: Held) -> Version:
    assert one.ref.version is not None
    return one.ref.version
