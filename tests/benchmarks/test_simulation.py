"""The simulated farm keeps to the laws of its links, and brings every host the image whatever goes wrong."""

from __future__ import annotations

import dataclasses
import statistics

import numpy as np
import pytest

from benchmarks.simulate import others
from benchmarks.simulate.engine import Swarm
from benchmarks.simulate.flows import Links
from benchmarks.simulate.model import GIGABIT, Farm, Racks, Trouble

SMALL = Farm(hosts=24, size=400_000_000, racks=Racks(8, 2 * GIGABIT))
"""100 objects to three racks whose uplinks have a quarter of what their hosts have."""


def ideal(farm: Farm) -> float:
    return farm.size / (farm.link * farm.wire)


def test_no_host_is_faster_than_its_link_and_a_swarm_is_not_much_slower() -> None:
    found = Swarm(SMALL).run()
    assert len(found.done) == 24
    assert ideal(SMALL) < found.done[0]
    assert found.done[-1] < 4 * ideal(SMALL) + SMALL.begin + SMALL.spread


def test_the_kiosk_sends_a_copy_and_little_more() -> None:
    found = Swarm(SMALL).run()
    assert 1 <= found.origin_bytes / SMALL.size < 2.5


def test_a_swarm_is_as_fast_for_three_times_the_hosts() -> None:
    more = Swarm(dataclasses.replace(SMALL, hosts=72)).run()
    assert statistics.median(more.done) < 2 * statistics.median(Swarm(SMALL).run().done)


def test_hosts_that_vanish_keep_nobody_from_the_image() -> None:
    found = Swarm(dataclasses.replace(SMALL, trouble=Trouble(vanish=0.3, slow=0.1))).run()
    assert found.lost > 0
    assert found.unfinished == 0
    assert len(found.done) + len(found.slow) + found.lost == SMALL.hosts


def test_the_same_farm_gives_the_same_figures() -> None:
    assert Swarm(SMALL).run().done == Swarm(SMALL).run().done


@pytest.mark.parametrize("hosts", [1, 2])
def test_one_or_two_hosts_read_from_the_kiosk_as_plain_http_does(hosts: int) -> None:
    farm = dataclasses.replace(SMALL, hosts=hosts)
    assert Swarm(farm).run().done[-1] < 1.1 * others.http(farm).done[-1] + farm.spread + farm.connect


def test_plain_http_takes_as_many_copies_over_the_kiosks_link_as_there_are_hosts() -> None:
    found = others.http(SMALL)
    assert found.done[-1] == pytest.approx(24 * ideal(SMALL), rel=0.1)


def test_a_tree_of_copies_doubles_each_time() -> None:
    flat = dataclasses.replace(SMALL, hosts=7, racks=Racks(0, 0.0))
    found = others.tree(flat)
    assert 3 * ideal(flat) < found.done[-1] < 3 * ideal(flat) + 10


def test_no_link_carries_more_than_it_can() -> None:
    chance = np.random.default_rng(3)
    rack = np.array([0] * 8 + [1] * 8 + [2], np.int32)
    up = np.append(chance.uniform(50, 100, 16), 100.0)
    links = Links(up, up.copy(), rack, 120.0)
    source = chance.integers(0, 17, 200).astype(np.int32)
    target = chance.integers(0, 16, 200).astype(np.int32)
    rates = links.rates(source, target)
    away = rack[source] != rack[target]
    assert (np.bincount(source, rates, minlength=17) <= up * 1.0001).all()
    assert (np.bincount(target, rates, minlength=17) <= up * 1.0001).all()
    out = np.bincount(rack[source][away], rates[away], minlength=3)
    into = np.bincount(rack[target][away], rates[away], minlength=3)
    assert (out[:2] <= 120.01).all()
    assert (into[:2] <= 120.01).all()
    assert rates.sum() > 0.5 * min(up[:16].sum(), 360)
