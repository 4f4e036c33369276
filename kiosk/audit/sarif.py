"""A report as SARIF 2.1.0 (OASIS), for tools that collect findings. Accepted findings are suppressed results, with the
recipe's reason; checks that were not made, and exceptions that fit nothing, are notifications."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from kiosk.audit.catalogue import CHECKS, CLAUSES, Check
from kiosk.audit.model import Finding, Report

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
BASE = "IMAGE"


def sarif(report: Report, tool_version: str) -> dict[str, Any]:
    """The log of one run."""
    rules = list(CHECKS.values())
    index = {check.name: i for i, check in enumerate(rules)}
    results = [_result(f, index) for f in report.findings]
    for accepted in report.accepted:
        suppression = {"kind": "external", "justification": accepted.reason}
        results.append({**_result(accepted.finding, index), "suppressions": [suppression]})
    run = {
        "tool": {
            "driver": {
                "name": "kiosk audit",
                "semanticVersion": tool_version,
                "rules": [_rule(check) for check in rules],
            }
        },
        "automationDetails": {"id": f"kiosk-audit/{quote(report.image or 'image')}/"},
        "originalUriBaseIds": {BASE: {"description": {"text": f"the root of {report.image or 'the image'}"}}},
        "columnKind": "utf16CodeUnits",
        "invocations": [
            {
                "executionSuccessful": report.audited,
                "endTimeUtc": report.date.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "toolExecutionNotifications": _notifications(report),
            }
        ],
        "results": results,
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(check: Check) -> dict[str, Any]:
    clause = f"\n\nHEPiX endorsement policy: {CLAUSES[check.clause]}." if check.clause else ""
    return {
        "id": check.name,
        "name": "".join(word.title() for word in check.name.split("-")),
        "shortDescription": {"text": check.finds},
        "fullDescription": {"text": check.reason},
        "help": {"text": f"{check.reason}\n\n{check.advice}{clause}"},
        "defaultConfiguration": {"level": check.severity},
        "properties": {"tags": [f"hepix/{check.clause}"] if check.clause else []},
    }


def _result(finding: Finding, index: dict[str, int]) -> dict[str, Any]:
    place: dict[str, Any] = {
        "artifactLocation": {"uri": quote(finding.path.lstrip("/") or "."), "uriBaseId": BASE}
    }
    if finding.line:
        place["region"] = {"startLine": finding.line}
    location: dict[str, Any] = {"physicalLocation": place}
    if finding.item:
        location["logicalLocations"] = [{"name": finding.item, "fullyQualifiedName": finding.place}]
    result: dict[str, Any] = {
        "ruleId": finding.check,
        "ruleIndex": index[finding.check],
        "level": CHECKS[finding.check].severity,
        "message": {"text": f"{finding.place}: {finding.message}"},
        "locations": [location],
        "partialFingerprints": {"place/v1": f"{finding.check}:{finding.place}"},
    }
    if finding.digest:
        result["partialFingerprints"]["content/v1"] = finding.digest
    return result


def _notifications(report: Report) -> list[dict[str, Any]]:
    texts = [("warning", f"the check {name} was not made: {why}") for name, why in report.left_out.items()]
    texts += [("note", f"the exception {e.check} {e.path} fits nothing in this image") for e in report.stale]
    texts += [("note", note) for note in report.notes]
    if not report.audited:
        texts.append(("error", f"the image was not audited: {report.reason}"))
    if report.more:
        texts.append(("error", f"there are {report.more} more findings"))
    return [{"level": level, "message": {"text": text}} for level, text in texts]
