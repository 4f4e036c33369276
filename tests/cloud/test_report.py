"""A guest may write anything into its report: it is read within bounds, and nothing of it reaches a terminal raw."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.cloud import report, untrusted


def lines(*values: dict[str, Any]) -> bytes:
    return b"".join(json.dumps({"schema": "kiosk.report/1", **v}).encode() + b"\n" for v in values)


def harmless(value: object) -> bool:
    """Whether no text in a value has anything that a terminal acts upon."""
    if isinstance(value, str):
        return all(c in "\n\t" or unicodedata.category(c)[0] != "C" for c in value)
    if isinstance(value, dict):
        return all(harmless(k) and harmless(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(harmless(v) for v in value)
    return True


def test_a_good_boot_goes_through_its_stages_to_ready() -> None:
    found = report.parse(
        lines(
            {"state": "booting", "stage": "context"},
            {"state": "booting", "stage": "verify"},
            {"state": "ready", "attestation": {"node": {"id": "x"}}},
        )
    )
    assert (found.state, found.stages) == ("ready", ("context", "verify"))
    assert found.attestation == {"node": {"id": "x"}}


def test_the_attestation_stays_when_the_guest_stops() -> None:
    found = report.parse(
        lines({"state": "ready", "attestation": {"a": 1}}, {"state": "stopping", "reason": "age"})
    )
    assert (found.state, found.reason, found.attestation) == ("stopping", "age", {"a": 1})


def test_a_draining_guest_says_why_and_how_many_jobs_it_has() -> None:
    found = report.parse(
        lines(
            {"state": "ready", "attestation": {"a": 1}},
            {"state": "draining", "reason": "its age", "jobs": 3},
        )
    )
    assert (found.state, found.reason, found.jobs, found.attestation) == ("draining", "its age", 3, {"a": 1})
    for jobs in (-1, 1.5, "3", 10**9, True):
        assert report.parse(lines({"state": "draining", "reason": "x", "jobs": jobs})).state == "failed"


def test_who_failed_never_becomes_ready() -> None:
    found = report.parse(
        lines({"state": "failed", "stage": "verify", "reason": "no"}, {"state": "ready", "attestation": {}})
    )
    assert (found.state, found.stage, found.reason) == ("failed", "verify", "no")


def test_a_line_that_is_still_being_written_does_not_count_yet() -> None:
    whole = lines({"state": "booting", "stage": "context"})
    assert report.parse(whole + b'{"schema": "kiosk.rep').stage == "context"
    assert report.parse(whole[:-1]).state is None


@pytest.mark.parametrize(
    "bad",
    [
        b"\x00\xff\xfe\n",
        b"[]\n",
        b'{"schema":"kiosk.report/1","state":"READY"}\n',
        b'{"schema":"kiosk.report/2","state":"ready"}\n',
        b'{"schema":"kiosk.report/1","state":"ready","more":1}\n',
        b'{"schema":"kiosk.report/1","state":"ready","attestation":' + b"[" * 5000 + b"]" * 5000 + b"}\n",
        b'{"schema":"kiosk.report/1","state":"booting","stage":"' + b"x" * 70_000 + b'"}\n',
        b'{"schema":"kiosk.report/1","state":"ready","attestation":{"a":[Infinity]}}\n',
        b'{"schema":"kiosk.report/1","state":"ready","attestation":{"a":{"b":1e999}}}\n',
        b"x" * 70_000,
        b"\n" * (report.LIMIT + 1),
    ],
    ids=[
        "bytes",
        "list",
        "state",
        "schema",
        "key",
        "deep",
        "long",
        "infinity",
        "huge",
        "endless-line",
        "endless",
    ],
)
def test_what_is_not_a_report_makes_the_vm_failed(bad: bytes) -> None:
    found = report.parse(lines({"state": "booting", "stage": "context"}) + bad)
    assert (found.state, found.stage) == ("failed", "report")
    assert found.reason and harmless(found.reason) and len(found.reason) < 600


def test_escape_sequences_and_line_tricks_are_gone() -> None:
    evil = "\x1b]0;title\x07\x1b[2Jgood\x9b31m\u202e\r\b news"
    found = report.parse(
        lines({"state": "failed", "stage": "\x1b[1mverify", "reason": evil + "\nkiosk: ready"})
    )
    assert found.stage == "verify"
    assert found.reason == "good news kiosk: ready"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
LINE = st.fixed_dictionaries(
    {
        "schema": st.just("kiosk.report/1"),
        "state": st.sampled_from(["booting", "ready", "draining", "failed", "stopping"]),
    },
    optional={
        "stage": st.text(),
        "reason": st.text(),
        "attestation": st.dictionaries(st.text(), JSON, max_size=4),
    },
)


@given(st.lists(LINE | JSON, max_size=6))
def test_whatever_json_comes_the_answer_is_printable_and_valid(values: list[Any]) -> None:
    found = report.parse(b"".join(json.dumps(v).encode() + b"\n" for v in values))
    assert harmless([found.stage, found.reason, found.stages, found.attestation])
    json.dumps(found.attestation, allow_nan=False)


@given(st.binary(max_size=300))
def test_whatever_bytes_come_reading_them_ends_well(data: bytes) -> None:
    found = report.parse(data)
    assert found.state in (None, "booting", "ready", "draining", "failed", "stopping")


@given(st.text(), st.integers(min_value=0, max_value=50))
def test_printable_text_is_bounded_and_harmless(text: str, limit: int) -> None:
    shown = untrusted.printable(text, limit=limit)
    assert harmless(shown) and len(shown) <= limit + 1


def test_a_huge_console_is_read_from_its_end_only(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    with log.open("wb") as f:
        f.truncate(8 << 30)
        f.seek(0, 2)
        f.write(b"\nlast but one\r\n\x1b[32mlast\x1b[0m\r\n")
    assert untrusted.last_lines(log, 2) == ["last but one", "last"]
    assert untrusted.last_lines(tmp_path / "none", 2) == []
