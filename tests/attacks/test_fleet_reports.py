"""A hostile agent, or one without a token, speaks to the kiosk: nobody else's row changes, and no page breaks."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from kiosk.cli import fleet as cli
from kiosk.fleet.tokens import sign
from kiosk.model.report import LARGEST_REPORT
from kiosk.serve.reports import BURST
from tests.serve.fleet import Agent, Fleet, bare, serving


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with serving(bare(tmp_path)) as made:
        made.agent("victim").report(held=[{"name": "worker", "version": "1"}])
        before = made.kiosk.database.hosts()
        yield made
        assert [h for h in made.kiosk.database.hosts() if h.host == "victim"] == before
        assert requests.get(f"{made.url}/api/fleet", timeout=10).status_code == 200
        assert requests.get(f"{made.url}/metrics", timeout=10).status_code == 200


def refused(answer: requests.Response, status: int) -> dict[str, Any]:
    """The answer's words; every refusal says what is wrong and what to do."""
    assert answer.status_code == status, answer.text
    words: dict[str, Any] = answer.json()
    assert words["error"]
    assert "hint" in words
    return words


def test_without_a_token_nobody_is_heard(fleet: Fleet) -> None:
    url = f"{fleet.url}/api/report"
    body = json.dumps(fleet.agent("victim").words("report")).encode()
    for said in ("", "Kiosk host=victim", "Kiosk host=victim,mac=" + "0" * 64, "Basic dmljdGltOg=="):
        refused(requests.post(url, data=body, headers={"Authorization": said}, timeout=10), 401)
    refused(requests.post(url, data=body, timeout=10), 401)


def test_a_host_can_not_speak_for_another(fleet: Fleet) -> None:
    hostile = fleet.agent("hostile")
    body = json.dumps({**fleet.agent("victim").words("report"), "sequence": 99}).encode()
    refused(hostile.post("/api/report", body), 401)
    mac = sign(hostile.token, "POST", "/api/report", body)
    refused(hostile.post("/api/report", body, Authorization=f"Kiosk host=victim,mac={mac}"), 401)
    refused(hostile.lease(host="victim"), 401)


def test_a_call_that_was_overheard_can_not_be_made_again_nor_elsewhere(fleet: Fleet) -> None:
    agent = fleet.agent("hv-1")
    agent.sequence = 5
    body = json.dumps(agent.words("report")).encode()
    assert agent.post("/api/report", body).status_code == 200
    assert refused(agent.post("/api/report", body), 409)["sequence"] == 5
    mac = sign(agent.token, "POST", "/api/report", body)
    refused(agent.post("/api/lease", body, Authorization=f"Kiosk host=hv-1,mac={mac}"), 401)


RUBBISH = [
    b"", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"1e999", b'"' + b"\\ud800" * 3 + b'"',
]  # fmt: skip


@pytest.mark.parametrize("body", RUBBISH, ids=lambda b: repr(b[:10]))
def test_rubbish_is_no_report(fleet: Fleet, body: bytes) -> None:
    refused(fleet.agent("hostile").post("/api/report", body), 422)


WRONG: list[dict[str, Any]] = [
    {"sequence": "7"},
    {"sequence": -1},
    {"sequence": 1 << 63},
    {"sequence": 1.5},
    {"since": True},
    {"state": "rooted"},
    {"more": 1},
    {"agent": "x" * 61},
    {"agent": "<script>"},
    {"error": "\x1b[2J"},
    {"error": "\ud800"},
    {"error": "x" * 501},
    {"failed": ["x" * 181]},
    {"failed": ["x"] * 51},
    {"held": [{"name": "../../etc", "version": "1"}]},
    {"held": [{"name": 'a"} 1\nkiosk_hosts 9', "version": "1"}]},
    {"held": [{"name": "a", "version": "1\n"}]},
    {"held": [{"name": "a", "version": "1"}] * 1001},
    {"held": {"name": "a"}},
    {"origin_bytes": 1 << 60},
    {"origin_bytes": None},
    {"fetching": {"name": "a", "version": "1", "done": 1, "size": 1, "transport": "pigeon"}},
    {"schema": "kiosk.report/2"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: str(w)[:40])
def test_a_report_that_does_not_fit_is_refused(fleet: Fleet, wrong: dict[str, Any]) -> None:
    refused(fleet.agent("hostile").report(**wrong), 422)


def test_what_fits_but_is_meant_to_harm_does_not_break_what_people_see(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = fleet.agent("hostile").report(
        held=[{"name": f"a{n}/b", "version": str(n)} for n in range(1000)],
        failed=["\x1b[31m\x00\u202e[bold]x@1" * 2],
        error="[red]</script>{}%s\u202e\u009b31m",
        fetching={"name": "a", "version": "1", "done": 9, "size": 0, "transport": "http"},
        origin_bytes=1 << 46,
    )
    assert answer.status_code == 200
    with cli.opened(fleet.settings) as database:
        cli.show(cli.read(fleet.settings, database))
    shown = capsys.readouterr().out
    assert not set("\x1b\x00\u202e\u009b") & set(shown)
    metrics = requests.get(f"{fleet.url}/metrics", timeout=10).text
    assert metrics.count("kiosk_held_versions{") == 500


def test_a_body_that_is_too_large_is_not_read(fleet: Fleet) -> None:
    agent = fleet.agent("hostile")
    refused(agent.post("/api/report", b" " * (LARGEST_REPORT + 1)), 413)
    refused(agent.post("/api/lease", b" " * 5000), 413)
    port = int(fleet.url.rpartition(":")[2])
    for length in ("Content-Length: 99999999999", "Content-Length: -1", "Content-Length: 1_0"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
            line.sendall(f"POST /api/report HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
            assert line.recv(1000).split()[1] in (b"413", b"400"), length
    endless = requests.post(f"{fleet.url}/api/report", data=(b"x" * 60_000 for _ in range(20)), timeout=10)
    refused(endless, 413)


def test_a_flood_of_one_host_is_slowed_and_the_others_are_heard(fleet: Fleet) -> None:
    hostile = fleet.agent("hostile")
    answers = [hostile.report() for _ in range(40)]
    statuses = [a.status_code for a in answers]
    assert statuses[:BURST] == [200] * BURST
    assert statuses.count(429) > 20
    late = next(a for a in answers if a.status_code == 429)
    assert 1 <= int(refused(late, 429) and late.headers["Retry-After"]) <= 2
    assert fleet.agent("hv-1").report().status_code == 200


def test_forged_calls_do_not_use_up_the_calls_of_the_host_they_name(fleet: Fleet) -> None:
    forger = Agent(fleet.url, "hv-1", "00" * 32)
    for _ in range(40):
        refused(forger.report(), 401)
    assert fleet.agent("hv-1").report().status_code == 200


def test_leases_of_versions_that_do_not_exist_are_never_granted(tmp_path: Path) -> None:
    from tests.simulators.published import ready

    kiosk = ready(tmp_path)
    with serving(kiosk.settings) as fleet:
        hostile = fleet.agent("hostile")
        assert not hostile.lease("nothing@1").json()["granted"]
        assert hostile.lease("worker@1").json()["granted"]
