"""How a version is rolled out: its stages, how long each holds, and what counts as well. Pure.

    # rollouts.toml
    stages = ["5%", "25%/1h", "50%", "100%"]    # a share of the fleet, and how long it holds
    hold = "30m"                                # where a stage does not say
    hosts = ["canary*.example.org"]             # these have the version from the first stage on
    max_failed = "10%"                          # more than that, and the roll-out is aborted ...
    least_failed = 2                            # ... but never for fewer hosts than this
    min_done = "90%"                            # of a stage's hosts, before its hold begins
    fresh = "10m"                               # a host that said nothing for longer (or for half the hold) is silent
    ask = ["/usr/local/sbin/nodes-joined"]      # 0: well, 1: not well, anything else: not known
    ask_timeout = "1m"

    [name."debian-12-worker"]                   # other values for one name (or a pattern of names)
    stages = ["2%", "100%"]

Shares are of the fleet by place (see kiosk.model.rollout), not counted hosts, so one without any host in it holds.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
    model_validator,
)

from kiosk.config import Settings, faults, parse_toml
from kiosk.errors import UsageError
from kiosk.model.base import Document
from kiosk.model.rollout import WHOLE, HostPattern

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LEAST_FRESH = 400
"""An idle host reports every five minutes: a shorter time would make all of them silent now and then."""
LONGEST = 365 * 86400


def thousandths(text: object) -> int:
    """`2.5%` as 25."""
    if not isinstance(text, str) or not re.fullmatch(r"\d{1,3}(\.\d)?%", text):
        raise ValueError("write a share as 5% or 2.5%")
    whole, _, tenth = text.removesuffix("%").partition(".")
    return int(whole) * 10 + int(tenth or 0)


def percent(share: int) -> str:
    """The same the other way."""
    return f"{share / 10:g}%"


def seconds(text: object) -> int:
    """`30m` as 1800."""
    if not isinstance(text, str) or not re.fullmatch(r"\d{1,8}[smhd]", text):
        raise ValueError("write a time as 90s, 30m, 2h or 1d")
    return int(text[:-1]) * UNITS[text[-1]]


def duration(length: float) -> str:
    """Seconds in the largest unit that leaves no rest."""
    whole = int(length)
    unit = next((u for u in ("d", "h", "m") if whole >= UNITS[u] and whole % UNITS[u] == 0), "s")
    return f"{whole // UNITS[unit]}{unit}"


def _stage(value: object) -> object:
    if not isinstance(value, str):
        return value
    share, _, hold = value.partition("/")
    return {"share": share, "hold": hold} if hold else {"share": share}


Percent = Annotated[int, BeforeValidator(thousandths), Field(ge=0, le=WHOLE), PlainSerializer(percent)]
Seconds = Annotated[int, BeforeValidator(seconds), Field(ge=0, le=LONGEST), PlainSerializer(duration)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]


class Stage(Document):
    """A share in thousandths, and how long it holds, in seconds (None: as long as the plan says)."""

    share: Percent
    hold: Seconds | None = None


class Plan(Document):
    """The stages and the rule of health of one roll-out. Shares grow, and the last is all."""

    stages: Annotated[
        tuple[Annotated[Stage, BeforeValidator(_stage)], ...], Field(min_length=1, max_length=50)
    ] = (Stage(share="5%"), Stage(share="25%"), Stage(share="50%"), Stage(share="100%"))
    hold: Seconds = 1800
    hosts: Annotated[tuple[HostPattern, ...], Field(max_length=1000)] = ()
    max_failed: Percent = 100
    least_failed: Annotated[int, Field(ge=1, le=1_000_000)] = 2
    min_done: Percent = 900
    fresh: Seconds = 600
    ask: Annotated[tuple[Word, ...], Field(min_length=1, max_length=100)] | None = None
    ask_timeout: Annotated[Seconds, Field(ge=1, le=600)] = 60

    @model_validator(mode="after")
    def _grows(self) -> Plan:
        shares = [s.share for s in self.stages]
        if shares != sorted(set(shares)):
            raise ValueError("stages: each must be a larger share than the one before")
        if shares[-1] != WHOLE:
            raise ValueError("stages: the last must be 100%")
        if shares[0] == 0 and not self.hosts:
            raise ValueError("stages: the first is 0%, and no hosts are named that would have the version")
        return self

    def hold_of(self, share: int) -> int:
        """How long the stage with this share holds, in seconds."""
        own = next((s.hold for s in self.stages if s.share == share), None)
        return self.hold if own is None else own

    def fresh_of(self, share: int) -> float:
        """How old a report may be in the stage with this share, in seconds: a host that died early in a short stage
        must not count as well at its end."""
        return min(self.fresh, max(LEAST_FRESH, self.hold_of(share) / 2))

    def after(self, share: int) -> int | None:
        """The share of the next stage; None at the end."""
        return next((s.share for s in self.stages if s.share > share), None)


class Plans(Document):
    """A file of plans: what holds for all, and other values for names."""

    common: dict[str, Any] = Field({})
    name: dict[Annotated[str, StringConstraints(max_length=200)], dict[str, Any]] = Field({})

    def of(self, base: str, over: dict[str, Any] | None = None) -> Plan:
        """The plan for a name, `over` (options of a command) before all else; UsageError when it does not hold
        together."""
        values = dict(self.common)
        for pattern, more in self.name.items():
            if fnmatchcase(base, pattern):
                values |= more
        try:
            return Plan.model_validate({**values, **(over or {})})
        except ValidationError as e:
            key, said = faults(e)[0]
            what = said if said.startswith(("stages:", "unknown key")) else f"{key}: {said}"
            raise UsageError(
                f"the plan of {base} does not hold together: {what}",
                hint=f"Its keys: {', '.join(sorted(Plan.model_fields))}",
            ) from None


def plans_file(settings: Settings) -> Path | None:
    """The file of plans: the one in the settings, else /etc/kiosk/rollouts.toml where it exists."""
    default = Path("/etc/kiosk/rollouts.toml")
    return settings.rollouts or (default if default.exists() else None)


def read_plans(path: Path | None) -> Plans:
    """The plans of a file (the defaults without one). Every plan in it is checked; UsageError names what is wrong."""
    if path is None:
        return Plans()
    found = parse_toml(path)
    names = found.pop("name", {})
    if not isinstance(names, dict) or not all(isinstance(v, dict) for v in names.values()):
        raise UsageError('name: write [name."NAME"]', where=str(path))
    plans = Plans(common=found, name=names)
    try:
        for base in ("*", *names):
            plans.of(base)
    except UsageError as e:
        raise UsageError(e.what, where=str(path), hint=e.hint) from None
    return plans
