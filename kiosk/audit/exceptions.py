"""Exceptions: findings that a recipe accepts, each with a reason that is published with the image."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from kiosk.audit.model import UNFINISHED, Accepted, Finding
from kiosk.model.manifest import AuditException


def apply(
    findings: Sequence[Finding], exceptions: Sequence[AuditException]
) -> tuple[list[Finding], list[Accepted], tuple[AuditException, ...]]:
    """The findings that no exception names, those that one does (the first), and exceptions that name none."""
    left: list[Finding] = []
    accepted: list[Accepted] = []
    used: set[int] = set()
    for finding in findings:
        matching = [i for i, e in enumerate(exceptions) if _names(e, finding)]
        used.update(matching)
        if matching:
            accepted.append(Accepted(finding=finding, reason=exceptions[matching[0]].reason))
        else:
            left.append(finding)
    return left, accepted, tuple(e for i, e in enumerate(exceptions) if i not in used)


def _names(exception: AuditException, finding: Finding) -> bool:
    """Whether check and path fit; a path alone stands for all items in it."""
    return (
        finding.item != UNFINISHED
        and exception.check == finding.check
        and (fnmatchcase(finding.path, exception.path) or fnmatchcase(finding.place, exception.path))
    )
