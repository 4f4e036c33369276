"""A roll-out: which of two published versions of a name each host is offered. Signed, so that a server can
neither bring a host to a version that was not published nor hold it back in secret. Pure.

A host's place in a roll-out follows from its name alone, so that nobody keeps a list, and more of the fleet is
only ever added when the share grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from kiosk.model.base import Document
from kiosk.model.names import Ref, Version, VersionText
from kiosk.model.report import Base

WHOLE = 1000
HostPattern = Annotated[str, StringConstraints(pattern=r"^[a-z0-9.*?\[\]!-]{1,200}$")]
State = Literal["running", "paused", "aborted", "done"]


class Rollout(Document):
    """The roll-out of `version` over `before` (None: there was none). `share` of the fleet in thousandths, and
    the hosts that match `hosts`, are offered `version`; the others `before`. Aborted, all are offered `before`."""

    schema_: Literal["kiosk.rollout/1"] = Field("kiosk.rollout/1", alias="schema")
    name: Base
    version: VersionText
    before: VersionText | None = None
    share: Annotated[int, Field(ge=0, le=WHOLE)]
    hosts: Annotated[tuple[HostPattern, ...], Field(max_length=1000)] = ()
    state: State = "running"
    reason: Annotated[str, StringConstraints(max_length=400, pattern=r"^[^\x00-\x1f]*$")] = ""

    def offers(self, host: str) -> str | None:
        """The version that a host is to run now; None where it is to have none yet."""
        if self.state == "aborted":
            return self.before
        if self.state == "done" or any(fnmatchcase(host, p) for p in self.hosts):
            return self.version
        return self.version if place(self.name, self.version, host) < self.share else self.before

    def allows(self, current: Version | None, target: Version) -> bool:
        """Whether a host may go from what is current to a version that it is offered: forward always; back only from
        the very version that is rolled out."""
        return current is None or target >= current or current == Version.parse(self.version)

    def fault(self, ref: Ref, offered: Collection[str]) -> str | None:
        """Why it can't be followed as the roll-out of `ref`, of which these versions are offered; None where it can.
        A version that no host can be given any more need not be there."""
        if self.name != ref.base:
            return f"is the roll-out of {self.name}, not of {ref.base}"
        if self.before is not None and Version.parse(self.before) >= Version.parse(self.version):
            return f"rolls {self.version} out over {self.before}, which is not older"
        given = {"done": (self.version,), "aborted": (self.before,)}.get(
            self.state, (self.version, self.before)
        )
        for version in given:
            if version is not None and version not in offered:
                return f"names {self.name}@{version}, which {ref.role} does not offer"
        return None


def place(name: str, version: str, host: str) -> int:
    """A host's place in the order of a version's roll-out: 0 to 999, evenly spread, another for each version."""
    seed = f"{name}@{version} {host}".encode()
    return int.from_bytes(hashlib.sha256(seed).digest()[:8], "big") * WHOLE >> 64


def rollout_path(ref: Ref) -> str:
    """The target path of a name's roll-out."""
    return f"rollouts/{ref.folder}rollout.json"


def is_rollout_path(path: str) -> bool:
    """Whether a target path is that of a roll-out, of whatever name."""
    return path.startswith("rollouts/") and path.endswith("/rollout.json")
