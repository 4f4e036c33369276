"""The farm to join: what a verified site layer has signed of it stands, and the context adds what is left open.

A site that declares a farm by its name fixes the driver and as many settings as it likes. A context that says
something else about one of them is refused rather than overruled: one of the two is a mistake, or an attack.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

from contextualize.context import Farm
from contextualize.errors import Refused
from contextualize.manifest import Declared


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
        farm = replace(farm, settings={**farm.settings, **signed.settings})
    return farm
