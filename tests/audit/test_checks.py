"""Each check finds the real thing wherever it lies, and says nothing of its clean twin."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk.audit import CHECKS
from tests.audit.cases import CASES, DEEDS, ELSEWHERE, Case, Plant
from tests.audit.images import clean


def test_a_clean_image_passes(tmp_path: Path) -> None:
    report = clean(tmp_path / "root").audit()
    assert report.findings == ()
    assert report.passed
    assert (report.counts.packages, report.counts.verified) == (1, 2)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_planted_is_found_and_its_twin_is_not(case: Case, tmp_path: Path) -> None:
    dirty, tidy = clean(tmp_path / "dirty"), clean(tmp_path / "tidy")
    data = case.data()
    dirty.write(case.path, data, 0o600)
    report = dirty.audit()
    found = [f for f in report.findings if f.check == case.check and f.path == case.path]
    assert found, [f"{f.check} {f.place}" for f in report.findings]
    assert all(f.digest for f in found)
    secret = data.decode("latin-1") if isinstance(data, bytes) else data
    for finding in (f for f in report.findings if CHECKS[f.check].clause == "credentials"):
        words = [w for w in secret.split() if len(w) > 24]
        assert not any(word in finding.message for word in words)
    tidy.write(case.twin_path or case.path, case.twin(), 0o600)
    assert [f"{f.check} {f.place}: {f.message}" for f in tidy.audit().findings] == []


@pytest.mark.parametrize(("check", "place", "deed", "harmless"), DEEDS, ids=[f"{d[0]} {d[1]}" for d in DEEDS])
def test_what_is_done_is_found_and_the_harmless_is_not(
    check: str, place: str, deed: Plant, harmless: Plant, tmp_path: Path
) -> None:
    dirty, tidy = clean(tmp_path / "dirty"), clean(tmp_path / "tidy")
    deed(dirty)
    assert place in dirty.found(check)
    harmless(tidy)
    assert [f"{f.check} {f.place}: {f.message}" for f in tidy.audit().findings] == []


def test_every_check_has_its_case() -> None:
    assert {c.check for c in CASES} | {d[0] for d in DEEDS} | ELSEWHERE == set(CHECKS)
