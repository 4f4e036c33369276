"""The agent's configuration, read strictly: /etc/kiosk/agent.toml, or the table [agent] of kiosk.toml."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from kiosk import tls
from kiosk.agent.orders import API_SCHEMES, Orders, minutes
from kiosk.config import Settings, read_agent
from kiosk.errors import UsageError
from kiosk.handover.settings import Tables
from kiosk.model.report import HOST, HostName
from kiosk.place import Web, place
from kiosk.sync.offer import machine

Rate = Annotated[int, Field(ge=1000, le=10**12)]


class Swarm(BaseModel):
    """The swarm's part. `listen` is a port (0 takes any free one), or ADDRESS:PORT where only one of the
    host's addresses is for it; `peers` empty: the private networks.
    `near` are networks that are preferred: the own rack's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    listen: (
        Annotated[int, Field(ge=0, le=65535)]
        | Annotated[str, StringConstraints(pattern=r"^([0-9.]{7,15}|\[[0-9a-f:]{2,39}\]):[0-9]{1,5}$")]
    ) = 6881
    peers: Annotated[tuple[IPv4Network | IPv6Network, ...], Field(max_length=1000)] = ()
    near: Annotated[tuple[IPv4Network | IPv6Network, ...], Field(max_length=1000)] = ()
    upload: Rate | None = None


class Agent(BaseModel):
    """All keys; docs/agent.md explains them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = None
    root: Path | None = None
    proxy: str | None = None
    ca: Path | None = None
    api: str | None = None
    host: HostName | None = None
    token_file: Path | None = None
    images: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9*?\[\]!/-]{1,150}$")], ...],
        Field(min_length=1, max_length=1000),
    ] = ("*",)
    share: bool = True
    swarm: Swarm = Swarm()
    bandwidth: Rate | None = None
    origin_rate: Rate = 125_000_000
    window: Annotated[str, StringConstraints(pattern=r"^\d\d:\d\d-\d\d:\d\d$")] | None = None
    poll: Annotated[float, Field(ge=1, le=86400)] = 300
    keep: Annotated[int, Field(ge=1, le=1000)] = 2
    keep_free: Annotated[str, StringConstraints(pattern=r"^([0-9]{1,2}%|[0-9]{1,6} ?[MGT]B|0)$")] = "5%"
    prestage: bool = True
    handover: Tables = ()

    @field_validator("window")
    @classmethod
    def _times(cls, value: str | None) -> str | None:
        if value is not None:
            begin, end = (minutes(part) for part in value.split("-"))
            if begin == end:
                raise ValueError("a window that ends when it begins is none")
        return value


def read(settings: Settings, file: Path | None = None, argv: tuple[str, ...] = ()) -> Orders:
    """The orders of this host's agent. UsageError naming file and key where the configuration does not fit, and
    where it names no kiosk."""
    found, where = read_agent(settings, Agent, file)
    url = found.url or settings.url
    if url is None:
        raise UsageError(
            "no kiosk is known", where=where, hint='Write url = "http://KIOSK", or set KIOSK_URL.'
        )
    root, ca = found.root or settings.root, found.ca or settings.ca
    if ca is not None:
        tls.context(str(ca))
    return Orders(
        host=found.host or hostname(),
        home=str(settings.home),
        url=str(place(url)),
        root=str(root) if root else None,
        proxy=found.proxy or settings.proxy,
        s3_endpoint=settings.s3_endpoint,
        s3_region=settings.s3_region,
        ca=str(ca) if ca else None,
        api=api(found.api, url, where),
        token_file=str(found.token_file) if found.token_file else None,
        images=found.images,
        share=found.share,
        swarm=found.swarm.enabled and found.share,
        swarm_listen=listen(found.swarm.listen),
        swarm_peers=tuple(str(n) for n in found.swarm.peers),
        swarm_near=tuple(str(n) for n in found.swarm.near),
        swarm_upload=found.swarm.upload or 0,
        bandwidth=found.bandwidth or 0,
        origin_rate=found.origin_rate,
        window=found.window,
        poll=found.poll,
        keep=found.keep,
        keep_free=found.keep_free,
        prestage=found.prestage,
        handover=tuple(t.model_dump(mode="json", exclude_unset=True) for t in found.handover),
        agent=version("kiosk"),
        argv=argv or tuple(sys.argv),
    )


def api(named: str | None, url: str, where: str) -> str | None:
    """Where events, reports and leases are: the kiosk's own URL unless another is named; None for `""`, and
    for a kiosk that is a folder or a bucket."""
    if named == "":
        return None
    if named is not None:
        if not named.startswith(API_SCHEMES):
            raise UsageError(f"api: {named!r} is not an http:// or https:// URL", where=where)
        return str(place(named))
    found = place(url)
    return found.url if isinstance(found, Web) else None


def listen(where: int | str) -> tuple[str, ...]:
    """Addresses and ports: all of the host's, where only a port is given."""
    return (where,) if isinstance(where, str) else (f"0.0.0.0:{where}", f"[::]:{where}")


def hostname() -> str:
    """This machine's name as the fleet writes it."""
    name = machine()[:200]
    if not re.fullmatch(HOST, name):
        raise UsageError(f"the host name {name!r} can't be used", hint='Write host = "NAME" for the agent.')
    return name
