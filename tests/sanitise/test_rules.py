"""Every rule does what its own examples say, and leaves alone what its counter-examples say."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk.sanitise import examples, rules
from kiosk.sanitise.rules import Rule
from tests.simulators.secrets import SAMPLES

TABLE = rules.load()


@pytest.mark.parametrize("rule", TABLE, ids=lambda rule: rule.name)
def test_a_rule_deals_with_its_examples(rule: Rule, tmp_path: Path) -> None:
    assert examples.faults(rule, tmp_path, SAMPLES) == []
