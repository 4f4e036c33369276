"""The drivers by their kind, and what can be said of a farm before anything of it runs.

The guest decides with this, and so do `kiosk layer lint`, `kiosk context check` and `kiosk vm start`.
"""

from __future__ import annotations

import importlib
from typing import Iterator, Mapping, Tuple

from contextualize.context import Farm
from contextualize.errors import Refused
from contextualize.farm import settings
from contextualize.farm.driver import Driver

KINDS = ("htcondor", "lsf", "slurm")


def driver(kind: str) -> Driver:
    """The driver of a kind; Refused where there is none."""
    if kind not in KINDS:
        raise Refused(f"farm: there is no driver {kind!r:.30}; there are {', '.join(KINDS)}")
    found: Driver = importlib.import_module(f"contextualize.farm.{kind}").DRIVER
    return found


def declared_faults(name: str, kind: str, given: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a farm that a layer declares."""
    try:
        known = driver(kind).settings
    except Refused as e:
        yield e.reason
    else:
        yield from settings.faults(Farm(kind, name, dict(given), {}), known)


def check(farm: Farm) -> Tuple[str, ...]:
    """Refused where no machine could join this farm by what the context says of it. Returns the settings that are
    still missing, which a site's layer may declare."""
    known = driver(farm.kind)
    for fault in settings.faults(farm, known.settings):
        raise Refused(fault)
    settings.checked_secrets(farm, known.secrets)
    return settings.missing(farm, known.settings)


def complete(farm: Farm) -> None:
    """Refused where a machine could not join this farm, which has all that layers declare of it."""
    known = driver(farm.kind)
    settings.checked(farm, known.settings)
    settings.checked_secrets(farm, known.secrets)
