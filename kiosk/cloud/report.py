"""What a guest reports about itself. A guest is not trusted: its report is read strictly and bounded.

The report only ever speaks for its own VM. A line that does not fit makes the VM failed, and a VM that
failed never becomes ready again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints

from kiosk.cloud import untrusted
from kiosk.errors import VerificationError
from kiosk.model.base import Document

LIMIT = 1 << 20
LINE_LIMIT = 64 << 10
State = Literal["booting", "ready", "draining", "failed", "stopping"]


class Line(Document):
    """One line of the report."""

    schema_: Literal["kiosk.report/1"] = Field(alias="schema")
    state: State
    stage: Annotated[str, StringConstraints(max_length=200)] | None = None
    reason: Annotated[str, StringConstraints(max_length=20_000)] | None = None
    attestation: dict[str, JsonValue] | None = None
    jobs: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] | None = None


@dataclass(frozen=True)
class Report:
    """All that a guest has said so far: its state, for `failed` the stage and the reason, for `draining` and
    `stopping` the reason, and how many jobs a draining guest still has (None: it does not know)."""

    state: State | None = None
    stage: str | None = None
    reason: str | None = None
    attestation: dict[str, JsonValue] | None = None
    stages: tuple[str, ...] = ()
    jobs: int | None = None


def read(path: Path) -> Report:
    """The report in a file that the guest writes; never raises because of its content."""
    try:
        with path.open("rb") as f:
            data = f.read(LIMIT + 1)
    except FileNotFoundError:
        return Report()
    return parse(data)


def parse(data: bytes) -> Report:
    """The report in these bytes. An unfinished last line does not count yet."""
    found = Report()
    if len(data) > LIMIT:
        return Report(
            state="failed", stage="report", reason=f"the guest's report is larger than {LIMIT} bytes"
        )
    lines = data.split(b"\n")
    if len(lines[-1]) > LINE_LIMIT:
        lines.append(b"")
    for number, raw in enumerate(lines[:-1], 1):
        if not raw.strip():
            continue
        try:
            found = _after(found, _line(raw, number))
        except VerificationError as e:
            reason = untrusted.line(str(e), limit=500)
            return Report(state="failed", stage="report", reason=reason, stages=found.stages)
        if found.state == "failed":
            return found
    return found


def _line(raw: bytes, number: int) -> Line:
    where = f"line {number} of the guest's report"
    if len(raw) > LINE_LIMIT:
        raise VerificationError(f"is longer than {LINE_LIMIT} bytes", where=where)
    return Line.from_json(raw, where=where)


def _after(before: Report, line: Line) -> Report:
    stage = untrusted.line(line.stage, limit=60) if line.stage else None
    stages = before.stages
    if stage and (not stages or stages[-1] != stage):
        stages = (*stages, stage)[-100:]
    attestation = {untrusted.line(k, limit=200): _clean(v) for k, v in (line.attestation or {}).items()}
    return Report(
        state=line.state,
        stage=stage,
        reason=untrusted.line(line.reason, limit=2000) if line.reason else None,
        attestation=attestation or before.attestation,
        stages=stages,
        jobs=line.jobs,
    )


def _clean(value: JsonValue) -> JsonValue:
    """The same value, its texts without anything that a terminal would act upon.

    VerificationError where a number is not one that JSON has: Infinity, NaN, 1e999.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise VerificationError(f"the guest's report has the number {value}, which is not JSON")
    if isinstance(value, str):
        return untrusted.printable(value, limit=LINE_LIMIT)
    if isinstance(value, list):
        return [_clean(v) for v in value]
    if isinstance(value, dict):
        return {untrusted.line(k, limit=200): _clean(v) for k, v in value.items()}
    return value
