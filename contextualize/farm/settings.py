"""What may stand in a context's `farm` section: every setting has a pattern, every secret a size.

A value that matches its pattern can't break out of the line, the word or the path that it is put into, whatever
it is. Nothing is passed over: an unknown setting or secret is refused as a wrong one is.
"""

from __future__ import annotations

import re
from typing import Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

from contextualize.context import Farm
from contextualize.errors import Refused

NUMBER = r"[1-9][0-9]{0,8}"
HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?"
PORT = r"[1-9][0-9]{0,4}"
SERVER = rf"{HOST}(?::{PORT})?"
WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,60}"
USER = r"[a-z_][a-z0-9_-]{0,30}"
_PART = r"/[A-Za-z0-9_+][A-Za-z0-9._+-]{0,60}"
PATH = rf"(?:{_PART}){{1,12}}"
PROGRAMS = rf"(?!/(?:opt/experiment|cvmfs|afs|mnt|media|data|tmp|var|dev|proc|sys|run|home|root|scratch)(?:/|\Z)){PATH}"
"""A folder whose programs run as root: none that a job or an experiment could fill. What is there is looked at again
before it runs (contextualize.farm.driver.program)."""


def several(pattern: str, most: int) -> str:
    """The pattern of one to `most` values with commas between them."""
    return rf"{pattern}(?:,{pattern}){{0,{most - 1}}}"


class Setting(NamedTuple):
    """A setting's pattern, its default (None: the context must have it), and what it is for."""

    pattern: str
    default: Optional[str]
    what: str


RESOURCES = {
    "cpus": Setting(rf"(?:{NUMBER})?", "", "how many CPUs the node has for jobs (empty: all)"),
    "memory": Setting(rf"(?:{NUMBER})?", "", "MiB of memory for jobs (empty: all but reserve_memory)"),
    "reserve_memory": Setting(rf"0|{NUMBER}", "512", "MiB of memory that jobs don't get"),
}
"""What of the machine jobs get, where a driver says it."""


class Secret(NamedTuple):
    """A secret's size in bytes, and whether a node can join without it."""

    least: int
    most: int
    what: str
    needed: bool = True


def faults(farm: Farm, known: Mapping[str, Setting]) -> Iterator[str]:
    """The settings that are unknown, or not of their pattern."""
    where = f"farm {farm.name} ({farm.kind})"
    for name in sorted(farm.settings):
        if name not in known:
            yield f"{where}: unknown setting {name}; it has {', '.join(sorted(known))}"
        elif not re.fullmatch(known[name].pattern, farm.settings[name]):
            yield f"{where}: {name} = {farm.settings[name]!r:.80} is not {known[name].what}"


def missing(farm: Farm, known: Mapping[str, Setting]) -> Tuple[str, ...]:
    """The settings that have no default and are not there."""
    return tuple(n for n, setting in known.items() if setting.default is None and n not in farm.settings)


def checked(farm: Farm, known: Mapping[str, Setting]) -> Dict[str, str]:
    """All settings with their values or defaults; Refused when one is unknown, missing, or not of its pattern."""
    for fault in faults(farm, known):
        raise Refused(fault)
    for name in missing(farm, known):
        raise Refused(f"farm {farm.name} ({farm.kind}): the setting {name} is missing: {known[name].what}")
    return {name: farm.settings.get(name, setting.default or "") for name, setting in known.items()}


def checked_secrets(farm: Farm, known: Mapping[str, Secret]) -> Dict[str, bytes]:
    """The secrets; Refused, without a byte of them, when one is unknown, missing, or of a wrong size."""
    where = f"farm {farm.name} ({farm.kind})"
    for name in sorted(farm.secrets):
        if name not in known:
            raise Refused(f"{where}: unknown secret {name}; it takes {', '.join(sorted(known)) or 'none'}")
    for name, secret in known.items():
        if name not in farm.secrets:
            if secret.needed:
                raise Refused(f"{where}: the secret {name} is missing: {secret.what}")
        elif not secret.least <= len(farm.secrets[name]) <= secret.most:
            raise Refused(f"{where}: the secret {name} has not {secret.least} to {secret.most} bytes")
    return dict(farm.secrets)
