"""With the sanitiser switched off, the audit finds every secret and identity that is planted in a golden node."""

from __future__ import annotations

import pytest

from kiosk.audit import Report
from tests.audit.images import clean
from tests.simulators.planted import PLANTED, Planted, plant


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    root = clean(tmp_path_factory.mktemp("planted") / "root")
    plant(root.path)
    return root.audit()


@pytest.mark.parametrize("planted", PLANTED, ids=lambda p: p.name)
def test_each_is_found_where_it_was_planted(planted: Planted, report: Report) -> None:
    assert [f.check for f in report.findings if f.path == planted.path]


def test_each_of_several_in_one_file_is_found(report: Report) -> None:
    for path in {p.path for p in PLANTED}:
        planted = sum(p.path == path for p in PLANTED)
        assert len({(f.check, f.line, f.item) for f in report.findings if f.path == path}) >= planted


def test_no_finding_shows_a_secret(report: Report) -> None:
    told = report.to_json().decode()
    secret = [
        p for p in PLANTED if p.kind in ("password", "password-hash", "token", "credential", "private-key")
    ]
    assert [p.name for p in secret if p.marker.decode("latin-1") in told] == []
