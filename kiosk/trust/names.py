"""The roles of a repository, what each may sign, and where things stand in the repository's folders."""

from __future__ import annotations

import re
from datetime import datetime

from tuf.api.metadata import TargetFile

from kiosk.errors import UsageError
from kiosk.model.names import NAME

IMAGES = "images"
ROLLOUTS = "rollouts"
TOP = ("root", "targets", "snapshot", "timestamp")


def delegated_role(party: str) -> str:
    """The role of `images`, `rollouts`, `site/SITE` or `experiment/VO`; UsageError when it is none of them."""
    if party in (IMAGES, ROLLOUTS):
        return party
    kind, _, owner = party.partition("/")
    if kind not in ("site", "experiment") or not re.fullmatch(NAME, owner):
        raise UsageError(
            f"{party!r} can't be delegated to", hint="Write site/SITE or experiment/VO: site/cern"
        )
    return f"{kind}-{owner}"


def role_patterns(role: str) -> list[str]:
    """The target paths that a delegated role may sign: a name and a version below its own folder. Roll-outs choose
    among versions that others have signed, so their role can sign nothing else."""
    if role == IMAGES:
        return ["images/*/*"]
    if role == ROLLOUTS:
        return ["rollouts/images/*/rollout.json", "rollouts/layers/*/*/*/rollout.json"]
    kind, _, owner = role.partition("-")
    return [f"layers/{kind}/{owner}/*/*"]


def how_to_delegate(role: str) -> str:
    """The commands that delegate to a role which has no keys in the repository yet."""
    if role == ROLLOUTS:
        return "kiosk key create rollouts && kiosk delegate rollouts --key KIOSK_HOME/keys/rollouts.pub"
    return f"kiosk delegate {role.replace('-', '/', 1)} --key FILE.pub"


def served_target(path: str, hexdigest: str) -> str:
    """Where a target file is served, below targets/: consistent snapshots put its digest into its name."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{hexdigest}.{name}"


def published_time(target: TargetFile) -> datetime | None:
    """When a target was published, by the role that has signed it; None where it does not say so."""
    custom = target.custom
    try:
        found = datetime.fromisoformat(custom["published"]) if isinstance(custom, dict) else None
    except (KeyError, TypeError, ValueError):
        return None
    return found if found is not None and found.tzinfo is not None else None
