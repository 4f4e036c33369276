"""The roles of a repository, what each may sign, and where things stand in the repository's folders."""

from __future__ import annotations

import re

from kiosk.errors import UsageError
from kiosk.model.names import NAME

IMAGES = "images"
TOP = ("root", "targets", "snapshot", "timestamp")


def delegated_role(party: str) -> str:
    """The role of `images`, `site/SITE` or `experiment/VO`; UsageError when it is none of them."""
    if party == IMAGES:
        return IMAGES
    kind, _, owner = party.partition("/")
    if kind not in ("site", "experiment") or not re.fullmatch(NAME, owner):
        raise UsageError(
            f"{party!r} can't be delegated to", hint="Write site/SITE or experiment/VO: site/cern"
        )
    return f"{kind}-{owner}"


def role_patterns(role: str) -> list[str]:
    """The target paths that a delegated role may sign: a name and a version below its own folder."""
    if role == IMAGES:
        return ["images/*/*"]
    kind, _, owner = role.partition("-")
    return [f"layers/{kind}/{owner}/*/*"]


def served_target(path: str, hexdigest: str) -> str:
    """Where a target file is served, below targets/: consistent snapshots put its digest into its name."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{hexdigest}.{name}"
