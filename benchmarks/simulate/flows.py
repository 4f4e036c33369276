"""Rates of many transfers that share links: hosts' links each way, and racks' uplinks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
ROUNDS = 3
ANY = 1e18


class Links:
    """Every link of a farm with what it can carry. Hosts are 0 to n - 1, the kiosk is n, in a rack of its own."""

    def __init__(self, up: Floats, down: Floats, rack: Ints, uplink: float) -> None:
        racks = int(rack.max()) + 1
        self.rack = rack
        self.up, self.down = up, down
        self.uplink = np.full(racks, uplink if uplink else ANY)
        self.uplink[rack[-1]] = ANY  # the kiosk's own link is what limits it

    def rates(self, source: Ints, target: Ints) -> Floats:
        """Bytes a second of each transfer: equal shares of the source's link, made smaller where another link
        has not so much, and larger again where all links of a transfer have some left."""
        a, b = self.rack[source], self.rack[target]
        away = a != b
        out, into = np.where(away, a, len(self.uplink)), np.where(away, b, len(self.uplink))
        uplinks = np.append(self.uplink, ANY)
        limits = ((source, self.up), (target, self.down), (out, uplinks), (into, uplinks))
        shares = np.bincount(source, minlength=len(self.up))
        rates = self.up[source] / shares[source]
        for last in range(ROUNDS):
            factors = [_factor(rates, where, carries) for where, carries in limits]
            if last == 0:
                for where, carries in limits[1:]:
                    rates = rates * np.minimum(1.0, _factor(rates, where, carries))
            else:
                rates = rates * np.minimum.reduce(factors)
        for where, carries in limits:
            rates = rates * np.minimum(1.0, _factor(rates, where, carries))
        return rates


def _factor(rates: Floats, where: Ints, carries: Floats) -> Floats:
    """By what each transfer's rate may grow (or must shrink) so that its link is just full."""
    load = np.bincount(where, rates, minlength=len(carries))
    with np.errstate(divide="ignore"):
        found: Floats = (carries / np.maximum(load, 1e-9))[where]
    return found
