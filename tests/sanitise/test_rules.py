"""Every rule does what its own examples say; a table with a rule that does not fit is refused as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk import data
from kiosk.config import Settings
from kiosk.errors import NotFoundError, UsageError
from kiosk.sanitise import examples, rules, table
from kiosk.sanitise.rules import Rule
from tests.simulators.secrets import SAMPLES

TABLE = rules.load()
GOOD = 'name = "x"\nreason = "Is only here for a test."\naction = "remove"\npaths = ["etc/x"]\n'
EXAMPLE = 'examples = [{ path = "etc/x" }]\n'


@pytest.mark.parametrize("rule", TABLE, ids=lambda rule: rule.name)
def test_a_rule_deals_with_its_examples(rule: Rule, tmp_path: Path) -> None:
    assert examples.faults(rule, tmp_path, SAMPLES) == []


def write(folder: Path, text: str, name: str = "own.toml") -> Path:
    (folder / "sanitise").mkdir(parents=True, exist_ok=True)
    (folder / "sanitise" / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GOOD, "rule.0.examples: missing"),
        (GOOD + "examples = []\n", "at least 1 item"),
        (GOOD.replace('"etc/x"', '"/etc/x"') + EXAMPLE, "not a path below the root"),
        (GOOD.replace('"etc/x"', '"etc/../x"') + EXAMPLE, "not a path below the root"),
        (GOOD.replace('"etc/x"', '"etc/**x"') + EXAMPLE, "stands alone"),
        (GOOD.replace('"etc/x"', '"~/**"') + EXAMPLE, "without '\\*\\*'"),
        (GOOD.replace('"x"', '"Not_Kebab"', 1) + EXAMPLE, "name"),
        (GOOD.replace(".", "", 1) + EXAMPLE, "reason"),
        (GOOD.replace("remove", "shred") + EXAMPLE, "action"),
        (GOOD.replace("remove", "content") + EXAMPLE, "says nothing to do"),
        (GOOD.replace("remove", "lines") + EXAMPLE + "drop = ['(']\n", "not a regular expression"),
        (GOOD.replace("remove", "lines") + EXAMPLE, "says nothing to do"),
        (GOOD + EXAMPLE + 'text = "x"\n', "text is for the action replace"),
        (GOOD.replace("remove", "truncate").replace("etc/x", "~/x") + EXAMPLE, "removed, not edited"),
        (
            GOOD.replace("remove", "replace").replace("etc/x", "etc/*")
            + EXAMPLE
            + 'text = ""\ncreate = true\n',
            "whole",
        ),
        (GOOD + EXAMPLE + "colour = 1\n", "colour"),
    ],
)
def test_a_rule_that_does_not_fit_is_named_with_its_file(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(UsageError, match=fault) as caught:
        rules.load([write(tmp_path, "[[rule]]\n" + text)])
    assert caught.value.where == str(tmp_path / "sanitise/own.toml")


def test_a_user_adds_rules_and_puts_own_ones_in_the_place_of_others(tmp_path: Path) -> None:
    own = GOOD + EXAMPLE
    write(tmp_path, f"[[rule]]\n{own}\n[[rule]]\n{own.replace('x', 'logs', 1)}")
    found = {r.name: r for r in rules.load_for(Settings(recipes=tmp_path))}
    assert len(found) == len(TABLE) + 1
    assert found["x"].paths == ("etc/x",)
    assert found["logs"].paths == ("etc/x",)


def test_one_folder_has_a_name_once(tmp_path: Path) -> None:
    write(tmp_path, "[[rule]]\n" + GOOD + EXAMPLE, "a.toml")
    write(tmp_path, "[[rule]]\n" + GOOD + EXAMPLE, "b.toml")
    with pytest.raises(UsageError, match="two rules 'x'"):
        rules.load([tmp_path])


def test_without_any_rule_nothing_is_taken_for_clean(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        rules.load([tmp_path])


def test_an_example_that_its_rule_does_not_deal_with_is_found(tmp_path: Path) -> None:
    bad = Rule.model_validate(
        {
            "name": "x",
            "reason": "Is only here for a test.",
            "action": "remove",
            "paths": ["etc/x", "etc/keep"],
            "examples": [{"path": "etc/y"}, {"path": "etc/z", "text": "a", "after": "b"}],
            "keeps": [{"path": "etc/keep", "text": "x"}],
        }
    )
    assert examples.faults(bad, tmp_path, SAMPLES) == [
        "etc/y: is still there",
        "etc/z: holds 'a', not 'b'",
        "etc/keep: was changed",
    ]


def test_the_page_is_current() -> None:
    page = table.markdown(rules.by_subject(data.folder("recipes")))
    current = (Path(__file__).parents[2] / "docs/sanitise.md").read_text(encoding="utf-8")
    assert current == page, "run: python -m kiosk.sanitise.table >docs/sanitise.md"
