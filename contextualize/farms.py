"""The farm to join: what a verified site layer has signed of it stands, and the context adds what is left open.

Whoever leads a farm rules the machines in it: batch daemons run as root, and do as their controller says. So a farm
is one that a site declares by its name, with the settings that say who leads it and what is run; a context alone
says only how this machine takes part in it. Anything else needs a site layer that allows `farm`. A context that says
something else than what is signed is refused rather than overruled: one of the two is a mistake, or an attack.
"""

from __future__ import annotations

from typing import FrozenSet, List, Optional, Sequence, Tuple

from contextualize.context import Farm
from contextualize.errors import Refused
from contextualize.manifest import Declared, FarmSettings
from contextualize.switches import FARM

OPEN: FrozenSet[str] = frozenset(
    ("node_name", "cpus", "memory", "reserve_memory", "features", "partition", "resources", "image_resource",
     "wait_time")
)  # fmt: skip
"""Settings that say how a machine takes part, and nothing of who leads the farm or what runs as root."""


def settled(farm: Farm, layers: Sequence[Declared], allowed: FrozenSet[str]) -> Tuple[Farm, List[str]]:
    """The farm with all of its settings, and what was switched on for it; Refused where no site layer stands for it."""
    signed = _signed(farm, layers)
    unsigned = sorted(set(farm.settings) - set(signed.settings if signed else {}) - OPEN)
    full = merged(farm, layers)
    if signed is not None and not unsigned:
        return full, []
    if FARM in allowed:
        return full, [FARM]
    what = f"sets {', '.join(unsigned)} of the farm {farm.name}" if signed else f"has the farm {farm.name}"
    raise Refused(f"the context {what}, which no site layer of this machine declares, and none allows {FARM}")


def _signed(farm: Farm, layers: Sequence[Declared]) -> Optional[FarmSettings]:
    """What a site layer declares of the farm; two that declare the same one can't be on one machine."""
    sites = [declares.farms for layer, declares in layers if layer.kind == "site"]
    return next((farms[farm.name] for farms in sites if farm.name in farms), None)


def merged(farm: Farm, layers: Sequence[Declared]) -> Farm:
    """The context's farm over what the site layers declare of it; Refused where they differ."""
    for layer, declares in layers:
        signed = declares.farms.get(farm.name)
        if signed is None or layer.kind != "site":
            continue
        if signed.kind != farm.kind:
            raise Refused(
                f"farm {farm.name}: the context says {farm.kind}, and {layer} has signed {signed.kind}"
            )
        for key, value in signed.settings.items():
            if farm.settings.get(key, value) != value:
                raise Refused(f"farm {farm.name}: the context's {key} differs from what {layer} has signed")
        farm = farm._replace(settings={**farm.settings, **signed.settings})
    return farm
