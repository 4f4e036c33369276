"""What a host is to hold, from what is offered, what is here, and the signed roll-out. Pure.

* Without a roll-out a host goes to the newest version, and never back.
* A signed roll-out says which of its two versions a host is offered, and no other, also once it has ended: a newer
  version waits for a roll-out of its own. It alone can bring a host back, and only
  from the version that it rolls out to the one before.
* A version that is not offered any more is not fetched; what is current stays until something else is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from kiosk.model.names import Version
from kiosk.model.rollout import Rollout


@dataclass(frozen=True)
class Choice:
    """What becomes of one name: `target` is to be current (None: nothing is to change), `stage` is to be here
    as well. `back`: the target is older than what is current, and a signed roll-out wants that. `refused` says
    why what is offered is not followed."""

    target: Version | None
    stage: Version | None = None
    back: bool = False
    refused: str | None = None


def wanted(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that match one of the patterns, sorted."""
    return sorted({n for n in names if any(fnmatchcase(n, p) for p in patterns)})


def choose(
    offered: Sequence[Version],
    held: Sequence[Version],
    current: Version | None,
    rollout: Rollout | None,
    host: str,
    *,
    prestage: bool,
) -> Choice:
    """What becomes of one name on this host."""
    if not offered:
        return Choice(None, refused="no version is offered any more")
    newest = max(offered)
    if rollout is None:
        return _forward(newest, current)
    rolled = Version.parse(rollout.version)
    stage = rolled if prestage and rollout.state in ("running", "paused") and rolled in offered else None
    if current is not None and current > rolled:
        return Choice(None, refused=f"{current} is current, newer than the roll-out of {rolled}")
    given = rollout.offers(host)
    if given is None:
        return Choice(None, _missing(stage, held))
    target = Version.parse(given)
    if target not in offered and target not in held:
        return Choice(None, refused=f"the roll-out names {target}, which is not offered")
    back = current is not None and target < current
    if not rollout.allows(current, target):
        return Choice(None, _missing(stage, held), refused=f"{current} is current, and newer than {target}")
    return Choice(target, _missing(stage if stage != target else None, held), back=back)


def _forward(newest: Version, current: Version | None) -> Choice:
    if current is not None and newest < current:
        return Choice(None, refused=f"the newest version offered is {newest}, and {current} is current here")
    return Choice(newest)


def _missing(stage: Version | None, held: Sequence[Version]) -> Version | None:
    return stage if stage is not None and stage not in held else None
