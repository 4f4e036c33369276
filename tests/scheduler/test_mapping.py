"""Jobs find their types by rules; what no type serves is said."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.batch.api import Host, Look, Pending, Queue, Requirements, Running
from kiosk.errors import UsageError
from kiosk.model.flavour import Flavour
from kiosk.scheduler.mapping import needs, nodes_for, serves
from kiosk.scheduler.model import Node, NodeType, Phase, Supply
from kiosk.scheduler.settings import Rule
from kiosk.scheduler.supply import supplies, with_real

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
EL9 = frozenset({("os", "el9")})
DEBIAN = frozenset({("os", "debian12")})


def kind(name: str, maximum: int = 10, slots: int = 4, memory: int = 7168, **more: object) -> NodeType:
    flavour = Flavour(cores=slots, memory=8, scratch=40)
    return replace(NodeType(name, name, (), flavour, slots, memory, 0, maximum), **more)  # type: ignore[arg-type]


TYPES = {
    t.name: t for t in (kind("debian", values=DEBIAN), kind("el", values=EL9), kind("large", 5, 16, 30000))
}


def waiting(jobs: int = 1, queue: str = "batch", user: str = "ada", **r: object) -> Pending:
    return Pending(queue, user, "physics", Requirements(**r), jobs, NOW - timedelta(hours=1))  # type: ignore[arg-type]


def test_a_node_of_four_slots_and_seven_gib_holds_three_jobs_of_two_gib() -> None:
    assert nodes_for(TYPES["el"], Requirements(memory=2048)) == pytest.approx(1 / 3)
    assert nodes_for(TYPES["el"], Requirements(memory=1024)) == pytest.approx(1 / 4)
    assert nodes_for(TYPES["el"], Requirements(cores=3)) == 1


def test_a_job_on_several_hosts_spreads_and_its_memory_is_for_each_core() -> None:
    assert nodes_for(TYPES["el"], Requirements(cores=64, one_host=False)) == 16
    assert nodes_for(TYPES["el"], Requirements(cores=64, one_host=False, memory=3000)) == 32
    assert serves(TYPES["el"], Requirements(cores=64, one_host=False), frozenset()) is None


@pytest.mark.parametrize(
    ("requirements", "why"),
    [
        (Requirements(cores=5), "needs 5 cores on one host, has 4 slots"),
        (Requirements(memory=9000), "needs 9000 MiB, has 7168 MiB"),
        (Requirements(cores=8, one_host=False, memory=9000), "needs 9000 MiB for each core, has 7168 MiB"),
        (Requirements(tags=frozenset({"gpu", "ib"})), "lacks gpu, ib"),
        (Requirements(values=DEBIAN), "is not os = debian12"),
    ],
)
def test_why_a_type_does_not_serve_a_job(requirements: Requirements, why: str) -> None:
    assert serves(TYPES["el"], requirements, frozenset()) == why


def test_a_rule_answers_for_what_the_type_does_not_say() -> None:
    asked = Requirements(tags=frozenset({"grid"}), values=EL9)
    assert serves(kind("any"), asked, frozenset({"grid", "os"})) is None


def test_an_operating_system_that_a_grid_ce_wrote_into_the_resource_string_finds_its_type() -> None:
    rules = (
        Rule(text=r"GlueHostOperatingSystemName\s*==\s*.?AlmaLinux", types=("el",)),
        Rule(types=("debian",)),
    )
    look = Look(NOW, [waiting(8, text='other.GlueHostOperatingSystemName == "AlmaLinux"'), waiting(4)])
    found, lost = needs(look, TYPES, rules)
    assert (found["el"].pending, found["debian"].pending, lost) == (2, 1, [])


def test_the_first_rule_that_fits_wins_and_all_that_it_names_must_fit() -> None:
    rules = (
        Rule(queue="short*", user="ada", types=("large",)),
        Rule(group="phys*", values={"os": "el9"}, types=("el",)),
        Rule(types=("debian",)),
    )
    look = Look(NOW, [waiting(4, queue="shorter"), waiting(4, "short", "bob"), waiting(4, values=EL9)])
    found, _ = needs(look, TYPES, rules)
    assert {name: need.pending for name, need in found.items()} == {"large": 0.25, "debian": 1, "el": 1}


@pytest.mark.parametrize("other", ["(?i)nothing", r"(x)\1", "plain"])
def test_many_patterns_find_the_same_as_each_alone(other: str) -> None:
    rules = (
        Rule(text=other, types=("large",)),
        Rule(text="o(s)=el|EL", types=("el",)),
        Rule(types=("debian",)),
    )
    look = Look(NOW, [waiting(4, text="os=el"), waiting(4, text="EL"), waiting(16, text="xx plain NOTHING")])
    found, _ = needs(look, TYPES, rules)
    assert (found["el"].pending, found["large"].pending) == (2, 1)


def test_what_no_type_serves_is_reported_with_its_reason_and_fit_for_a_terminal() -> None:
    look = Look(
        NOW, [waiting(7, user="a\x1b[2Jb\n", tags=frozenset({"gpu"}), text="gpu\n"), waiting(1, cores=99)]
    )
    found, lost = needs(look, TYPES, (Rule(types=("el", "nowhere")),))
    assert [(u.jobs, u.user, u.requirements, u.reason) for u in lost] == [
        (7, "a?[2Jb?", "gpu?", "el lacks gpu; nowhere there is no such type"),
        (1, "ada", "", "el needs 99 cores on one host, has 4 slots; nowhere there is no such type"),
    ]
    assert all(need.nodes == 0 for need in found.values())


def test_a_thousand_kinds_of_unserved_jobs_are_told_apart_and_the_rest_is_summed_up() -> None:
    _, lost = needs(Look(NOW, [waiting(2, user=f"u{n}", cores=99) for n in range(1500)]), TYPES, ())
    assert len(lost) == 1001
    assert (lost[-1].jobs, lost[-1].reason) == (1000, "500 more kinds of jobs")


def test_jobs_that_several_types_serve_go_by_preference_up_to_the_maximum_and_the_rest_waits_for_the_first() -> (
    None
):
    rules = (Rule(types=("el", "large")),)
    look = Look(NOW, [waiting(200)])
    found, _ = needs(look, TYPES, rules)
    assert (found["el"].pending, found["large"].pending) == (10 + 20, 5)
    full = {"el": Supply(busy=10, used=10), "large": Supply()}
    found, _ = needs(Look(NOW, [waiting(16)]), TYPES, rules, full)
    assert (found["el"].pending, found["large"].pending) == (0, 1)


def test_held_jobs_are_no_need_and_a_queue_asks_for_no_more_than_its_limit() -> None:
    held = replace(waiting(100), held=True)
    running = Running("batch", "ada", "physics", Requirements(), 8)
    look = Look(NOW, [held, waiting(100)], [running], queues=[Queue("batch", 1, True, limit=20)])
    found, _ = needs(look, TYPES, (Rule(types=("el",)),))
    assert (found["el"].pending, found["el"].running) == (pytest.approx(3), 2)


def test_needs_are_told_apart_by_queue_user_and_group() -> None:
    look = Look(NOW, [waiting(4), waiting(8, user="bob"), waiting(4, queue="short")])
    need = needs(look, TYPES, (Rule(types=("el",)),))[0]["el"]
    assert need.by_queue == {"batch": 3, "short": 1}
    assert need.by_share == {"ada": 2, "bob": 2}
    assert need.claims[("batch", "bob", "physics")] == 2
    assert need.oldest == 3600


def test_a_pattern_that_is_none_is_a_users_mistake() -> None:
    with pytest.raises(UsageError, match="no regular expression"):
        needs(Look(NOW), TYPES, (Rule(text="(", types=("el",)),))


def node(number: int, phase: Phase, host: str | None = None, type: str = "el") -> Node:
    return Node(f"n{number}", type, "el@1", phase, NOW, NOW, host=host)


def host(name: str, used: int = 0, **more: object) -> Host:
    return replace(Host(name, "open", 4, used, used), **more)  # type: ignore[arg-type]


def test_supply_is_counted_by_phase_and_a_node_that_takes_no_jobs_counts_as_full() -> None:
    nodes = [
        node(0, "wanted"), node(1, "booting"), node(2, "joined", "a"), node(3, "joined", "b"), node(4, "joined", "c"),
        node(5, "joined", "lost"), node(6, "draining", "d"), node(7, "leaving"), node(8, "gone"), node(9, "failed"),
    ]  # fmt: skip
    hosts = [host("a"), host("b", 1), host("c", 0, status="closed", others=True), host("d", 4)]
    assert supplies(Look(NOW, hosts=hosts), nodes, TYPES)["el"] == Supply(2, 3, 1, 3, used=2.25)


def test_free_slots_of_real_hosts_count_once_and_where_they_are_needed_most() -> None:
    hosts = [host("real", 1, slots=9, values=EL9), host("mine", 0), host("closed", 0, status="closed")]
    look = Look(NOW, [waiting(4, values=EL9), waiting(40, values=EL9, cores=2)], hosts=hosts)
    nodes = [node(1, "joined", "mine")]
    asked, _ = needs(look, TYPES, ())
    own = with_real(supplies(look, nodes, TYPES), look, nodes, TYPES, asked)
    assert own["el"].real == 2
    assert own["debian"].real == 0
    assert own["large"].real == 0


@given(
    st.lists(
        st.builds(
            waiting,
            st.integers(1, 5000),
            st.sampled_from(("a", "b")),
            st.sampled_from(("x", "y")),
            cores=st.integers(1, 40),
            one_host=st.booleans(),
            memory=st.none() | st.integers(1, 40000),
            values=st.sampled_from((EL9, DEBIAN, frozenset())),
        ),
        max_size=20,
    )
)
def test_every_job_is_either_asked_for_or_reported(groups: list[Pending]) -> None:
    found, lost = needs(Look(NOW, groups), TYPES, ())
    total = sum(g.jobs for g in groups)
    unserved = sum(u.jobs for u in lost)
    served = sum(
        g.jobs for g in groups if any(serves(t, g.requirements, frozenset()) is None for t in TYPES.values())
    )
    assert unserved + served == total
    assert (sum(n.pending for n in found.values()) > 0) == (served > 0)
    for need in found.values():
        assert need.pending == pytest.approx(sum(need.claims.values()))
        assert need.pending == pytest.approx(sum(need.by_queue.values()))
