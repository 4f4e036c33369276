"""Which versions to give up. Pure.

A version is kept if it is among the newest `keep` of its name, or was made in the last `days` days. The
newest version of a name is always kept. Without `keep` and `days`, all are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from kiosk.model.manifest import Manifest
from kiosk.model.names import Version


@dataclass(frozen=True)
class Rule:
    """How many versions of each name to keep, and how many days; None for no rule of that kind."""

    keep: int | None = None
    days: int | None = None

    def given_up(self, manifests: Iterable[Manifest], now: datetime) -> list[Manifest]:
        """The versions that the rule does not keep, oldest first within each name."""
        names: dict[str, list[Manifest]] = {}
        for manifest in manifests:
            names.setdefault(manifest.ref.base, []).append(manifest)
        found: list[Manifest] = []
        for versions in names.values():
            versions.sort(key=lambda m: Version.parse(m.version), reverse=True)
            found += [m for n, m in reversed(list(enumerate(versions))) if not self._keeps(n, m, now)]
        return found

    def _keeps(self, newer: int, manifest: Manifest, now: datetime) -> bool:
        if newer == 0 or (self.keep is None and self.days is None):
            return True
        if self.keep is not None and newer < self.keep:
            return True
        return self.days is not None and now - manifest.created <= timedelta(days=self.days)
