"""SARIF as its schema has it (the model is made from OASIS' schema), and the report as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic_sarif.model import StaticAnalysisResultsFormatSarifVersion210JsonSchema as Schema

from kiosk.audit import CHECKS, Facts, Report
from kiosk.audit.sarif import sarif
from kiosk.model.manifest import AuditException
from tests.audit import material
from tests.audit.images import PASSWD, clean


def test_a_report_is_valid_sarif(tmp_path: Path) -> None:
    root = clean(tmp_path / "root")
    root.write("opt/a key/100%.pem", b"\n\n" + material.pem())
    root.write("etc/passwd", PASSWD + "alice:x:1000:1000::/:/bin/sh\n")
    root.write("tmp/x", "x")
    accepted = AuditException(check="temporary-file", path="/tmp/*", reason="left on purpose, for a test")
    stale = AuditException(check="log", path="/var/log/x", reason="there was a log there once")
    report = root.audit(Facts(image="worker@1", exceptions=(accepted, stale)))
    log = sarif(report, "1.0")
    Schema.model_validate_json(json.dumps(log))
    run = log["runs"][0]
    assert [r["id"] for r in run["tool"]["driver"]["rules"]] == list(CHECKS)
    assert all(r["help"]["text"] for r in run["tool"]["driver"]["rules"])
    key, account, left = run["results"]
    place = key["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "opt/a%20key/100%25.pem", "uriBaseId": "IMAGE"}
    assert place["region"] == {"startLine": 3}
    assert account["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "/etc/passwd#alice"
    assert left["suppressions"][0]["justification"] == accepted.reason
    said = [n["message"]["text"] for n in run["invocations"][0]["toolExecutionNotifications"]]
    assert any("security-update was not made" in text for text in said)
    assert any("/var/log/x fits nothing" in text for text in said)


def test_the_same_image_gives_the_same_report_and_it_reads_back(tmp_path: Path) -> None:
    root = clean(tmp_path / "root")
    root.write("opt/" + "\udcff\x1b[2J", material.pem()).rename(root.path / "opt/odd\udcff\x1b")
    one, two = root.audit(), root.audit()
    assert one.to_json() == two.to_json()
    assert Report.from_json(one.to_json(), where="report") == one
    assert one.findings[0].path == "/opt/odd\\xff\\x1b"
