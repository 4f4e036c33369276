"""The real server: hosts report and are seen, publications and pushes are heard of at once."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from kiosk.fleet.pushes import Push
from tests.serve.fleet import Fleet, bare, serving, until
from tests.simulators.published import ready, without_fsync

__all__ = ["without_fsync"]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with serving(bare(tmp_path)) as made:
        yield made


def test_a_report_is_seen_in_the_fleet(fleet: Fleet) -> None:
    agent = fleet.agent()
    held = [{"name": "worker", "version": "1", "current": True, "used": 3}]
    answer = agent.report(held=held, origin_bytes=5)
    assert (answer.status_code, answer.json()) == (200, {})
    page = requests.get(f"{fleet.url}/api/fleet", timeout=10).json()
    assert page["summary"]["states"] == {"online": 1, "late": 0, "lost": 0, "silent": 0}
    assert page["hosts"][0]["held"] == ["worker@1"]
    assert page["hosts"][0]["address"] == "127.0.0.1"
    metrics = requests.get(f"{fleet.url}/metrics", timeout=10).text
    assert 'kiosk_hosts{state="online"} 1.0' in metrics
    assert 'kiosk_held_versions{name="worker",version="1"} 1.0' in metrics
    assert "kiosk_origin_over_budget 0.0" in metrics


def test_a_new_version_is_heard_of_in_under_a_second(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with serving(kiosk.settings) as fleet, fleet.listener() as listener:
        before = listener.heard[0][1]["timestamp"]
        kiosk.image(version="2")
        published = time.monotonic()
        listener.wait("changed", seconds=5, timestamp=before + 1)
        assert time.monotonic() - published < 1


def test_a_push_reaches_the_hosts_that_it_is_for_and_ends(fleet: Fleet) -> None:
    now = time.time()
    with fleet.listener("hv-1") as one, fleet.listener("other") as other, fleet.listener(None) as nobody:
        push = fleet.kiosk.database.add_push(
            Push(0, ("worker",), hosts=("hv-*",), created=now, expires=now + 60)
        )
        assert one.wait("push") == {"push": push.id, "images": ["worker"]}
        with fleet.listener("hv-2") as late:
            late.wait("push", push=push.id)
        assert not [n for x in (other, nobody) for n, _ in x.heard if n == "push"]
    fleet.kiosk.database.end_push(push.id, time.time())
    second = fleet.kiosk.database.add_push(Push(0, ("late",), created=now, expires=now + 60))
    until(lambda: [p.id for p in fleet.kiosk.hub.pushes] == [second.id])
    with fleet.listener("hv-3") as listener:
        listener.wait("push", push=second.id)
        assert [d["push"] for n, d in listener.heard if n == "push"] == [second.id]


def test_two_hosts_read_from_the_kiosk_and_the_third_waits(fleet: Fleet) -> None:
    agents = [fleet.agent(f"hv-{n}") for n in range(3)]
    answers = [a.lease().json() for a in agents]
    assert [a["granted"] for a in answers] == [True, True, False]
    assert [a["slot"] for a in answers[:2]] == [0, 1]
    assert answers[2]["retry"] >= 3
    assert answers[2]["fanout"] == 3
    assert agents[0].lease(done=True, size=0).json()["granted"] is False
    assert agents[2].lease().json()["granted"] is True


def test_reports_and_leases_share_a_row_of_numbers(fleet: Fleet) -> None:
    agent = fleet.agent()
    assert agent.report().status_code == 200
    assert agent.lease().status_code == 200
    agent.sequence = 0
    answer = agent.report()
    assert (answer.status_code, answer.json()["sequence"]) == (409, 2)
    agent.sequence = answer.json()["sequence"]
    assert agent.report().status_code == 200


def test_what_is_not_there_is_not_there(fleet: Fleet) -> None:
    assert requests.get(f"{fleet.url}/healthz", timeout=10).json() == {"state": "ok"}
    assert requests.get(f"{fleet.url}/api/report", timeout=10).status_code == 405
    for path in ("/", "/api", "/api/", "/announce/", "/fleet.sqlite", "/metrics/x"):
        answer = requests.get(fleet.url + path, timeout=10, allow_redirects=False)
        assert (answer.status_code, answer.headers["Cache-Control"]) == (404, "no-store"), path
    assert requests.get(f"{fleet.url}/api/events?host=../x", timeout=10).status_code == 400


def test_a_listener_that_goes_is_forgotten(fleet: Fleet) -> None:
    with fleet.listener():
        assert len(fleet.kiosk.hub.listening) == 1
    until(lambda: not fleet.kiosk.hub.listening)
    assert not fleet.kiosk.hub.hosts


def test_a_repository_with_damaged_metadata_does_not_end_the_server(fleet: Fleet) -> None:
    stamp = fleet.settings.repository / "metadata" / "timestamp.json"
    with fleet.listener() as listener:
        stamp.write_text("not JSON")
        stamp.with_suffix(".new").write_text(
            json.dumps({"signed": {"version": 5, "meta": {"snapshot.json": {"version": 1}}}})
        )
        stamp.with_suffix(".new").replace(stamp)
        listener.wait("changed", timestamp=5)
        stamp.write_text(json.dumps({"signed": {"version": 6, "meta": []}}))
        listener.wait("changed", timestamp=6)
    assert fleet.agent().report().status_code == 200


def test_no_host_is_granted_more_than_a_version_has(fleet: Fleet) -> None:
    desk = fleet.kiosk.desk
    desk.catalogue = dataclasses.replace(desk.catalogue, sizes={"worker@1": 1000})
    assert fleet.agent().lease(size=1 << 40).json()["granted"] is True
    assert [h.bytes for h in fleet.kiosk.database.leases(time.time())] == [1000]
    assert sum(g for _, g, _ in fleet.kiosk.database.egress(0)) == 1000
