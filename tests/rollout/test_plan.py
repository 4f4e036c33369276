"""Plans: what a file of them may say, and what is refused with its place named."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk.errors import UsageError
from kiosk.rollout.plan import Plan, Plans, duration, read_plans


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rollouts.toml"
    path.write_text(text)
    return path


def test_without_a_file_a_canary_of_five_percent_comes_first() -> None:
    plan = read_plans(None).of("worker")
    assert [s.share for s in plan.stages] == [50, 250, 500, 1000]
    assert plan.hold_of(50) == 1800
    assert (plan.after(50), plan.after(1000)) == (250, None)


def test_a_file_gives_stages_holds_and_other_values_for_a_pattern_of_names(tmp_path: Path) -> None:
    plans = read_plans(
        written(
            tmp_path,
            'stages = ["2.5%", "50%/2h", "100%/0s"]\nhold = "10m"\nmax_failed = "1%"\n'
            '[name."debian-*"]\nstages = ["100%"]\nask = ["/usr/bin/true"]\n',
        )
    )
    plan = plans.of("worker")
    assert [(s.share, plan.hold_of(s.share)) for s in plan.stages] == [(25, 600), (500, 7200), (1000, 0)]
    assert plans.of("debian-12").ask == ("/usr/bin/true",)
    assert plans.of("debian-12").max_failed == 10
    assert plans.of("worker", {"hold": "1d"}).hold == 86400


def test_a_plan_is_the_same_after_being_written_down() -> None:
    plan = Plans().of("w", {"stages": ["0%", "7.5%/90s", "100%"], "hosts": ["a*"], "ask": ["/bin/x"]})
    assert Plan.from_json(plan.to_json(), where="here") == plan
    assert duration(5400) == "90m"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('stages = ["5%", "50%"]', "the last must be 100%"),
        ('stages = ["50%", "5%", "100%"]', "larger share"),
        ('stages = ["0%", "100%"]', "no hosts are named"),
        ("stages = [5, 100]", "stages.0"),
        ('stages = ["500%"]', "stages.0"),
        ('hold = "soon"', "hold: write a time as"),
        ("max_failed = 10", "max_failed: write a share as"),
        ('least_faild = "3"', "unknown key 'least_faild'"),
        ("least_failed = 0", "least_failed"),
        ("ask = []", "ask"),
        ('[name.worker]\nhold = "soon"', "hold"),
        ("name = 3", "name: write"),
    ],
)
def test_a_plan_that_does_not_hold_together_is_refused_by_name(text: str, says: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=says) as e:
        read_plans(path)
    assert e.value.where == str(path)
