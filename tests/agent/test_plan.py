"""What a host is to hold: tables for people, and rules that hold whatever is offered."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.agent.orders import in_window, until_edge
from kiosk.agent.plan import Choice, choose, wanted
from kiosk.errors import VerificationError
from kiosk.model.names import Version, parse_ref
from kiosk.model.rollout import Rollout, place
from kiosk.sync.offer import given as given_by

HOST = "node-1"


def v(text: str) -> Version:
    return Version.parse(text)


def rollout(state: str, share: int = 0, before: str | None = "1", version: str = "2") -> Rollout:
    return Rollout(name="worker", version=version, before=before, share=share, state=state)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("story", "current", "given_rollout", "choice"),
    [
        ("the newest, without a roll-out", "1", None, Choice(v("2"))),
        ("the first", None, None, Choice(v("2"))),
        ("not in the share yet: staged", "1", rollout("running"), Choice(v("1"), v("2"))),
        ("in the share", "1", rollout("running", 1000), Choice(v("2"))),
        ("paused, not in the share", "1", rollout("paused"), Choice(v("1"), v("2"))),
        ("done", "1", rollout("done"), Choice(v("2"))),
        ("aborted: back", "2", rollout("aborted"), Choice(v("1"), back=True)),
        ("aborted before it came", "1", rollout("aborted"), Choice(v("1"))),
        ("nothing before, not in the share", None, rollout("running", before=None), Choice(None, v("2"))),
        (
            "aborted, nothing before: what is current stays",
            "2",
            rollout("aborted", before=None),
            Choice(None),
        ),
        (
            "a newer version waits for its roll-out",
            "1",
            rollout("done", version="1", before="0"),
            Choice(v("1")),
        ),
    ],
    ids=lambda x: x.replace(" ", "-") if isinstance(x, str) and " " in x else "",
)
def test_what_becomes_of_worker(
    story: str, current: str | None, given_rollout: Rollout | None, choice: Choice
) -> None:
    held = [v(current)] if current else []
    offered = [v("1"), v("2")]
    assert (
        choose(offered, held, v(current) if current else None, given_rollout, HOST, prestage=True) == choice
    )


@pytest.mark.parametrize(
    ("current", "offered", "given_rollout", "said"),
    [
        ("3", ["1", "2"], None, "newest version offered is 2"),
        ("3", ["1", "2"], rollout("aborted"), "newer than the roll-out"),
        ("1", ["1"], rollout("done"), "which is not offered"),
        ("1", [], None, "no version is offered"),
    ],
)
def test_what_is_not_followed(
    current: str, offered: list[str], given_rollout: Rollout | None, said: str
) -> None:
    found = choose([v(o) for o in offered], [v(current)], v(current), given_rollout, HOST, prestage=True)
    assert found.target is None
    assert found.refused
    assert said in found.refused


numbers = st.integers(1, 6).map(lambda n: v(str(n)))
rollouts = st.none() | st.builds(
    lambda version, before, share, state: Rollout(
        name="worker",
        version=str(version),
        before=str(before) if before is not None and before < version else None,
        share=share,
        state=state,
    ),
    numbers,
    st.none() | numbers,
    st.integers(0, 1000),
    st.sampled_from(["running", "paused", "aborted", "done"]),
)


@given(st.sets(numbers), st.sets(numbers), st.booleans(), rollouts, st.booleans())
def test_never_back_but_by_a_signed_roll_out(
    offered: set[Version],
    held: set[Version],
    has_current: bool,
    given_rollout: Rollout | None,
    prestage: bool,
) -> None:
    current = max(held) if held and has_current else None
    found = choose(sorted(offered), sorted(held), current, given_rollout, HOST, prestage=prestage)
    if found.target is not None:
        assert found.target in offered | held
        if current is not None and found.target < current:
            assert found.back
            assert given_rollout is not None
            assert str(current) == given_rollout.version
            assert str(found.target) == given_rollout.before
        else:
            assert not found.back
    if found.stage is not None:
        assert prestage
        assert found.stage in offered - held
        assert given_rollout is not None
        assert found.stage != found.target


@given(st.sets(numbers, min_size=1), st.integers(0, 1000))
def test_a_host_in_the_share_goes_forward_and_the_others_stay(offered: set[Version], share: int) -> None:
    newest, oldest = max(offered), min(offered)
    if newest == oldest:
        return
    plan = rollout("running", share, before=str(oldest), version=str(newest))
    found = choose(sorted(offered), [oldest], oldest, plan, HOST, prestage=False)
    assert found.target == (newest if place("worker", str(newest), HOST) < share else oldest)


@given(st.sets(numbers, min_size=1), st.sets(numbers), st.booleans(), rollouts, st.text("ab1", min_size=1))
def test_kiosk_sync_comes_to_the_same_version(
    offered: set[Version], held: set[Version], has_current: bool, plan: Rollout | None, host: str
) -> None:
    ref = parse_ref("worker")
    if plan is not None and plan.fault(ref, {str(v) for v in offered}) is not None:
        return  # neither is asked then: it is an error
    current = max(held) if held and has_current else None
    by_agent = choose(sorted(offered), sorted(held), current, plan, host, prestage=False)
    try:
        by_sync = given_by(plan, ref, current, host)
    except VerificationError:
        assert by_agent.refused is not None
        return
    if by_sync.ref is None:
        assert by_agent.target is None
        return
    version = by_sync.ref.version or max(offered)
    if by_sync.ref.version is None and current is not None and version < current:
        assert by_agent.refused is not None, "the newest is older than what is here: sync refuses later"
    else:
        assert (by_agent.target, by_agent.back) == (version, by_sync.back)


def test_patterns_of_names() -> None:
    names = ["worker", "worker-gpu", "site/a/base", "experiment/x/software"]
    assert wanted(names, ["*"]) == sorted(names)
    assert wanted(names, ["worker"]) == ["worker"]
    assert wanted(names, ["worker*", "site/*"]) == ["site/a/base", "worker", "worker-gpu"]
    assert wanted(names, ["none"]) == []


@pytest.mark.parametrize(
    ("window", "time", "inside", "edge"),
    [
        ("22:00-06:00", "21:59", False, 60),
        ("22:00-06:00", "22:00", True, 8 * 3600),
        ("22:00-06:00", "03:00", True, 3 * 3600),
        ("22:00-06:00", "06:00", False, 16 * 3600),
        ("08:00-09:30", "08:30", True, 3600),
        ("08:00-09:30", "10:00", False, 22 * 3600),
        (None, "10:00", True, None),
    ],
)
def test_the_window(window: str | None, time: str, inside: bool, edge: int | None) -> None:
    now = datetime.fromisoformat(f"2026-03-01T{time}:00")
    assert in_window(window, now) is inside
    if window is not None:
        assert until_edge(window, now) == edge
