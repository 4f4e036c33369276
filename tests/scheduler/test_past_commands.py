"""`kiosk scheduler plan`, `replay` and `simulate`, as they are typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from kiosk.scheduler.dayplan import DayPlan
from tests.publish.test_commands import Terminal
from tests.scheduler.test_dayplan import CONFIG, swf

JOBS = [(8.0, 3.0, 16), (20.0, 0.5, 100)]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    (tmp_path / "scheduler.toml").write_text(CONFIG.format(more=""))
    swf(tmp_path, JOBS)
    return Terminal(monkeypatch, capsys, tmp_path / "home")


def test_a_plan_is_written_and_run_by_and_says_why(terminal: Terminal, tmp_path: Path) -> None:
    out, config = tmp_path / "plan.json", str(tmp_path / "scheduler.toml")
    words = ["scheduler", "plan", "--from", str(tmp_path / "yesterday.swf"), "--scheduler-config", config]
    code, said, err = terminal.run(*words, "--out", str(out), "--day", "2026-11-25", "--dry-run")
    assert (code, err) == (0, "") and "would write" in said and not out.exists()
    code, said, _ = terminal.run(*words, "--out", str(out), "--day", "2026-11-25")
    assert code == 0 and "on 2026-11-24 up to 8 nodes would have been wanted at this hour: 8" in said
    assert DayPlan.read(out).unserved == 0
    terminal.run(*words, "--out", str(out), "--day", "2026-11-20", "--like", "2026-11-24")
    run = ["scheduler", "run", "--once", "--observe", "--scheduler-config", config, "--plan", str(out)]
    code, _, err = terminal.run(*run)
    assert code == 5 and "is over since 2026-11-21 00:00 UTC" in err and "kiosk scheduler plan --from" in err
    assert not (tmp_path / "home/scheduler/ledger.sqlite").exists()


def test_a_tick_by_a_plan_of_today_asks_nobody(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, config = tmp_path / "plan.json", tmp_path / "scheduler.toml"
    words = ["--from", str(tmp_path / "yesterday.swf"), "--scheduler-config", str(config), "--out", str(out)]
    terminal.run("scheduler", "plan", *words, "--like", "2026-11-24")
    config.write_text(config.read_text().replace('"lsf"', f'"lsf"\nplan = "{out}"'))
    monkeypatch.setenv("PATH", "/nowhere")
    found = terminal.json("scheduler", "run", "--once", "--observe", "--scheduler-config", str(config))
    assert found["queries"] == 0 and found["faults"] == []
    assert 1 <= found["types"]["worker"]["target"] <= 20
    assert any(b.startswith("the plan of ") for b in found["types"]["worker"]["because"])


def test_a_replay_stands_beside_what_really_waited(terminal: Terminal, tmp_path: Path) -> None:
    words = [
        "scheduler",
        "replay",
        str(tmp_path / "yesterday.swf"),
        "--config",
        str(tmp_path / "scheduler.toml"),
    ]
    found = terminal.json(*words)
    assert (found["really"]["jobs"], found["really"]["mean"]) == (116, 60)
    assert found["kiosk"]["jobs"] == 116 and found["types"]["worker"]["most"] == 20
    code, said, err = terminal.run(*words, "--since", "2026-11-24", "--until", "2026-11-25")
    assert (code, err) == (0, "") and "116 jobs" in said and "kiosk" in said
    code, _, err = terminal.run(*words, "--since", "2026-11-26")
    assert code == 6 and "has no job that ran" in err
    code, _, err = terminal.run(*words, "--since", "yesterday")
    assert code == 2 and "2026-11-25" in err


def test_jobs_that_no_type_serves_are_named_with_the_reason(terminal: Terminal, tmp_path: Path) -> None:
    text = (tmp_path / "scheduler.toml").read_text()
    (tmp_path / "scheduler.toml").write_text(text + '[[rules]]\nqueue = "other"\ntypes = ["worker"]\n')
    (tmp_path / "sacct").write_text(
        "JobID|User|Account|Partition|ReqCPUS|NNodes|ReqMem|Timelimit|Submit|Start|End|NodeList|Constraints\n"
        "1|al\x1bice|atlas|grid|1|1||10:00|1790000000|1790000100|1790003700|wn1|gpu\n"
        "2|bob|atlas|grid|1|1||10:00|1790000000|1790000100|1790003700|wn1|\n"
    )
    config = str(tmp_path / "scheduler.toml")
    code, said, _ = terminal.run("scheduler", "replay", str(tmp_path / "sacct"), "--config", config)
    assert code == 0 and "! 1 jobs of" in said and "\x1b" not in said


def test_policies_are_compared_on_a_file_or_on_made_up_days(terminal: Terminal, tmp_path: Path) -> None:
    trace = str(tmp_path / "yesterday.swf")
    words = ["--nodes", "10", "--slots", "2", "--policies", "kiosk,static-size"]
    found = terminal.json("scheduler", "simulate", trace, *words)
    assert [r["policy"] for r in found] == ["kiosk", "static size"]
    assert found[0]["hours"] < found[1]["hours"]
    for wrong, said in (
        ((trace, "--policies", "magic", "--nodes", "1"), "There are: clairvoyant-bound"),
        ((), "name accounts, or a made-up workload"),
        (("--synthetic", "holiday"), "There are: day, bursts"),
    ):
        code, _, err = terminal.run("scheduler", "simulate", *wrong)
        assert code == 2 and said in err, wrong


def test_plots_are_drawn_where_matplotlib_is_and_missed_before_the_work_where_it_is_not(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["scheduler", "simulate", str(tmp_path / "yesterday.swf"), "--nodes", "4", "--slots", "2"]
    words += ["--policies", "kiosk", "--plot", str(tmp_path / "plots"), "--json"]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib", None)
        code, out, err = terminal.run(*words)
        assert code == 3 and out == "" and "pip install 'kiosk[plot]'" in err
    pytest.importorskip("matplotlib")
    code, out, err = terminal.run(*words)
    assert code == 0 and json.loads(out)
    assert "jobs that wait" in (tmp_path / "plots/yesterday.svg").read_text()
