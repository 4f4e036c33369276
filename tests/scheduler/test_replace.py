"""Rolling replacement: a few at a time, revoked ones at once, and lives of different lengths."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from kiosk.model.names import Version
from kiosk.scheduler.breaker import Images
from kiosk.scheduler.model import Node
from kiosk.scheduler.replace import Placed, leavers, until

NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
IMAGES = Images({"worker": ("worker@2", "worker@1")}, {"worker": None})
NEWEST = {"worker": "worker@2"}


def placed(
    number: int, version: int, *, jobs: int = 0, layers: tuple[str, ...] = (), age: float = 3600
) -> Placed:
    begun = NOW - timedelta(seconds=age)
    node = Node(
        f"n{number}", "worker", f"worker@{version}", "joined", begun, begun, begun + timedelta(days=1)
    )
    return Placed(node, jobs, layers)


def names(
    nodes: list[Placed], draining: int = 0, target: int = 10, most: int = 2, images: Images = IMAGES
) -> list[str]:
    return [one.node.id for one in leavers(nodes, draining, target, most, NEWEST, images, NOW)]


def test_older_versions_drain_a_few_at_a_time_idle_ones_first() -> None:
    nodes = [placed(i, 1, jobs=i % 2) for i in range(10)]
    assert names(nodes) == ["n0", "n2"]
    assert names(nodes, draining=1) == ["n0"]
    assert names(nodes, draining=2) == []


def test_none_drains_while_those_that_replace_the_last_ones_are_not_there() -> None:
    assert names([placed(i, 1) for i in range(8)], target=10) == []
    assert names([placed(i, 1) for i in range(9)], target=10) == ["n0"]


def test_a_version_that_is_not_promoted_is_no_reason() -> None:
    nodes = [placed(i, 1) for i in range(10)]
    assert leavers(nodes, 0, 10, 2, {}, IMAGES, NOW) == []


def test_revoked_ones_drain_at_once_whatever_else_is_under_way() -> None:
    nodes = [placed(i, 1 + i % 2, jobs=1) for i in range(10)]
    revoked = Images(IMAGES.offered, {"worker": Version((2,))})
    assert names(nodes, draining=5, images=revoked) == ["n0", "n2", "n4", "n6", "n8"]
    layer = [placed(0, 2, layers=("site/a/b@1",)), placed(1, 2, layers=("site/a/b@2",))]
    assert names(layer, images=Images({}, {"worker": None, "site/a/b": Version((2,))})) == ["n0"]


def test_what_is_not_known_to_be_revoked_stays() -> None:
    assert names([placed(i, 2) for i in range(10)], images=Images()) == []


def test_those_past_their_age_go_before_older_versions() -> None:
    nodes = [*(placed(i, 1) for i in range(9)), placed(9, 2, age=90_000, jobs=3)]
    found = leavers(nodes, 0, 10, 2, NEWEST, IMAGES, NOW)
    assert [(one.node.id, one.reason) for one in found] == [
        ("n9", "its age"),
        ("n0", "worker@1 is older than worker@2"),
    ]


def test_a_clock_that_jumps_by_days_does_not_empty_the_farm() -> None:
    assert len(names([placed(i, 2, age=9e6) for i in range(1000)], target=1000, most=10)) == 10


def test_nodes_that_began_together_do_not_end_together() -> None:
    ends = sorted((until(f"n{i}", NOW, 86400) - NOW).total_seconds() for i in range(1000))
    assert 72_000 <= ends[0] < 72_200
    assert 86_200 < ends[-1] <= 86_400
    assert max(b - a for a, b in itertools.pairwise(ends)) < 200
