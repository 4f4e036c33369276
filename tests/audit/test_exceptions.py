"""Findings that a recipe accepts: named by check and path, told with their reason, never silently."""

from __future__ import annotations

from pathlib import Path

from kiosk.audit import Facts
from kiosk.model.manifest import AuditException
from tests.audit import material
from tests.audit.images import PASSWD, clean

REASON = "The test farm's own account, which its site layer needs."


def accepting(*pairs: tuple[str, str]) -> Facts:
    return Facts(exceptions=tuple(AuditException(check=c, path=p, reason=REASON) for c, p in pairs))


def test_an_accepted_finding_is_told_with_its_reason(tmp_path: Path) -> None:
    root = clean(tmp_path / "root")
    root.write("etc/site/ca.key", material.pem())
    report = root.audit(accepting(("private-key", "/etc/site/*")))
    assert report.passed
    assert [(a.finding.path, a.reason) for a in report.accepted] == [("/etc/site/ca.key", REASON)]
    assert report.stale == ()


def test_an_exception_is_for_one_check(tmp_path: Path) -> None:
    root = clean(tmp_path / "root")
    root.write("etc/site/ca.key", material.pem())
    report = root.audit(accepting(("token", "/etc/site/*")))
    assert [f.check for f in report.findings] == ["private-key"]
    assert [e.check for e in report.stale] == ["token"]


def test_an_account_is_accepted_by_its_name(tmp_path: Path) -> None:
    root = clean(tmp_path / "root")
    people = "".join(f"{n}:x:{u}:{u}::/home/{n}:/bin/bash\n" for u, n in enumerate(("pilot", "alice"), 1000))
    root.write("etc/passwd", PASSWD + people)
    left = root.audit(accepting(("account", "/etc/passwd#pilot"))).findings
    assert [f.place for f in left] == ["/etc/passwd#alice"]
    assert root.audit(accepting(("account", "/etc/passwd"))).passed
    assert root.audit(Facts(accounts=frozenset({"pilot", "alice"}))).passed


def test_an_exception_that_fits_nothing_is_told_and_harms_nothing(tmp_path: Path) -> None:
    report = clean(tmp_path / "root").audit(accepting(("setuid-file", "/opt/tool")))
    assert report.passed
    assert [e.path for e in report.stale] == ["/opt/tool"]
