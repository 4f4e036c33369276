"""Which version a host is to have where a roll-out decides it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from kiosk.config import Settings, read_agent
from kiosk.errors import VerificationError
from kiosk.model.names import Ref, Version, with_version
from kiosk.model.report import HostName
from kiosk.model.rollout import Rollout
from kiosk.trust.client import TrustedRepository


@dataclass(frozen=True)
class Offer:
    """The version to have (None: none yet). `back` when that is older than what is current, which a signed roll-out
    has called back."""

    ref: Ref | None
    back: bool = False


class _Named(BaseModel):
    """Of the agent's configuration only the host's name."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: HostName | None = None


def this_host(settings: Settings, file: Path | None = None) -> str:
    """The name by which this host has its place in roll-outs, for `kiosk sync` as for its agent: the agent's `host`
    where that is configured (in `file`, see `read_agent`), else the machine's name. UsageError."""
    return read_agent(settings, _Named, file)[0].host or machine()


def machine() -> str:
    """This machine's own name."""
    return socket.gethostname().lower().rstrip(".")


def offer(repository: TrustedRepository, ref: Ref, current: Version | None, host: str) -> Offer:
    """What a host is offered: `ref` itself where no roll-out decides. Only the version that is rolled out can be
    called back, and only to the one before it. KioskError when it can't be known: current stays then."""
    return given(repository.rollout(ref), ref, current, host)


def given(rollout: Rollout | None, ref: Ref, current: Version | None, host: str) -> Offer:
    """The same after a roll-out that can be followed. Pure."""
    if rollout is None:
        return Offer(ref)
    offered = rollout.offers(host)
    if offered is None:
        return Offer(None)
    version = Version.parse(offered)
    back = current is not None and version < current
    if not rollout.allows(current, version):
        raise VerificationError(
            f"{ref.base}@{current} is current here, newer than {version}, which its roll-out offers",
            hint="What is current stays. Name a version to fetch it all the same.",
        )
    return Offer(with_version(ref, version), back)
