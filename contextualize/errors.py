"""The one way to stop: Refused, with a reason that an operator can act upon."""

from __future__ import annotations


class Refused(Exception):
    """What was found is not what was specified; `reason` says what, in one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
