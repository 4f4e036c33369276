"""The agent as it runs: a real daemon, a real repository over HTTP, and the kiosk's calls on loopback."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from kiosk.agent.config import read
from kiosk.agent.daemon import Daemon
from kiosk.agent.swarm import join
from kiosk.agent.web import Answer
from kiosk.config import Settings
from kiosk.errors import UsageError
from kiosk.model.report import Lease
from tests.simulators.agent_host import Hypervisor, hypervisor
from tests.simulators.kiosk_api import event, fleet
from tests.simulators.published import Kiosk, ready


def test_the_daemon_stays_small() -> None:
    heavy = [
        "pydantic",
        "requests",
        "tuf",
        "typer",
        "rich",
        "tqdm",
        "kiosk.sync",
        "kiosk.store",
        "kiosk.model",
    ]
    code = (
        "import sys, kiosk.agent.daemon; "
        f"print([m for m in {heavy!r} if any(n == m or n.startswith(m + '.') for n in sys.modules)])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_from_publishing_to_the_host_by_an_event(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with fleet(kiosk.settings.repository) as server, hypervisor(kiosk, server.url) as host:
        server.wait(lambda: server.streams and any(r.state == "idle" and r.held for r in server.reports))
        assert host.current() == "1"
        kiosk.image(version="2")
        server.asked.clear()
        begin = time.monotonic()
        server.changed()
        server.wait(lambda: any(p.startswith("/objects/") for p in server.asked) or server.leases[-1:])
        assert time.monotonic() - begin < 5, "a second or two of Python's start at the most"
        server.wait(lambda: any(h.version == "2" and h.current for h in server.reports[-1].held))
        assert host.current() == "2"
        server.wait(lambda: server.leases[-1].done)
        assert [x.done for x in server.leases if x.version == "2"] == [False, True]
        server.wait(lambda: server.reports[-1].state == "idle")
        last = server.reports[-1]
        assert last.origin_bytes > 2_000_000
        assert [r.sequence for r in server.reports] == sorted({r.sequence for r in server.reports})
        assert host.stop() == 0


def test_a_kiosk_that_is_a_plain_web_server_is_polled(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with fleet(kiosk.settings.repository) as server:
        server.api = False
        with hypervisor(kiosk, server.url, poll=1) as host:
            host.wait(lambda: host.state().get("state") == "idle" and host.current() == "1")
            kiosk.image(version="2")
            host.wait(lambda: host.current() == "2" and host.worker() is None)
            server.asked.clear()
            host.wait(lambda: server.asked.count("/metadata/timestamp.json") >= 3)
            expected = ("/metadata/timestamp", "/api/events", "/announce")
            assert not [p for p in server.asked if not p.startswith(expected)]


def test_an_event_stream_that_breaks_is_taken_up_again(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with fleet(kiosk.settings.repository) as server, hypervisor(kiosk, server.url) as host:
        server.wait(lambda: server.streams and server.reports and server.reports[-1].held)
        server.cut()
        kiosk.image(version="2")
        server.wait(lambda: any(h.version == "2" and h.current for h in server.reports[-1].held))
        assert host.current() == "2"


def test_a_host_without_a_lease_waits_and_asks_again(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with fleet(kiosk.settings.repository) as server:
        server.lease = Lease(granted=False, retry=0.5, fanout=40)
        with hypervisor(kiosk, server.url, images=["worker"]) as host:
            server.wait(lambda: len(server.leases) >= 2)
            assert host.current() == "None"
            server.wait(lambda: server.reports[-1].state == "waiting")
            server.lease = Lease(granted=True, seconds=60, fanout=40)
            server.wait(lambda: server.leases[-1].done)
            host.wait(lambda: host.current() == "1")
            host.wait(lambda: host.state().get("fanout") == 40)


def test_outside_the_window_only_what_is_wanted_now_is_fetched(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    now = time.localtime()
    closed = f"{(now.tm_hour + 6) % 24:02}:00-{(now.tm_hour + 8) % 24:02}:00"
    with (
        fleet(kiosk.settings.repository) as server,
        hypervisor(kiosk, server.url, images=["worker"], window=closed) as host,
    ):
        server.wait(lambda: server.reports and server.reports[-1].held and server.streams)
        host.wait(lambda: host.current() == "1")  # the first version does not wait
        kiosk.image(version="2")
        server.changed()
        server.wait(lambda: server.reports[-1].state == "waiting")
        host.wait(lambda: host.state().get("waiting") == ["worker@2"])
        server.send("push", {"push": 7, "images": ["wor*"]})
        host.wait(lambda: host.current() == "2")


def test_a_push_that_is_told_at_every_connection_is_done_once(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with fleet(kiosk.settings.repository) as server:
        server.greeting.append(event("push", {"push": 1, "images": ["worker"]}))
        with hypervisor(kiosk, server.url) as host:
            server.wait(lambda: server.streams and server.reports and server.reports[-1].held)
            host.wait(lambda: host.state().get("state") == "idle" and host.worker() is None)
            server.asked.clear()
            server.cut()
            server.wait(lambda: server.streams)
            time.sleep(0.5)
            assert [p for p in server.asked if not p.startswith("/api/")] == []


def test_a_new_configuration_is_taken_over_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with fleet(kiosk.settings.repository) as server, hypervisor(kiosk, server.url, images=["worker"]) as host:
        server.wait(lambda: server.reports and server.reports[-1].held)
        host.keys["images"] = "worker"
        host.write()
        assert host.process is not None
        host.process.send_signal(1)
        host.wait(lambda: "is not taken over" in host.words())
        assert "images" in host.words()
        host.keys["images"] = ["*"]
        host.write()
        host.process.send_signal(1)
        host.wait(lambda: host.current("site/a/base") == "1")
        assert host.process.poll() is None, "the same process"


def test_a_second_agent_of_the_same_host_ends_at_once(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with fleet(kiosk.settings.repository) as server, hypervisor(kiosk, server.url) as host:
        server.wait(lambda: server.reports)
        second = subprocess.run(host.argv(), env=host.env(), capture_output=True, text=True, timeout=20)
        assert second.returncode == 4
        assert "already working on this host" in second.stderr
        assert host.stop() == 0


def test_a_token_of_another_host_is_named_and_images_come_all_the_same(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with fleet(kiosk.settings.repository) as server, hypervisor(kiosk, server.url) as host:
        server.wait(lambda: server.reports)
        host.stop()
        (host.home / "token").write_text("ab" * 32)
        host.start()
        host.wait(lambda: "takes no reports: the token is not this host's" in host.words())
        host.wait(lambda: host.state().get("state") == "idle" and host.current() == "1")
        assert host.state()["reported"] is False


def test_once_says_where_nothing_is_to_be_held(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    host = Hypervisor(kiosk, kiosk.hypervisor.url or "", images=["nothing-*"])
    assert "offers nothing that matches nothing-*" in host.once().stdout


def test_once_and_dry_run(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    host = Hypervisor(kiosk, kiosk.hypervisor.url or "")
    said = host.once("--dry-run")
    assert "would fetch" in said.stdout
    assert host.current() == "None"
    assert host.once().returncode == 0
    assert host.current() == "1"
    assert host.once("--json").returncode == 0


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("window", "22-06", "window"),
        ("window", "25:00-06:00", "not a time of day"),
        ("poll", 0, "poll"),
        ("hots", "x", "unknown key 'hots'"),
        ("host", "Not A Name", "host"),
        ("api", "ftp://x", "api"),
        ("keep_free", "lots", "keep_free"),
    ],
)
def test_a_wrong_configuration_is_named(key: str, value: object, said: str, tmp_path: Path) -> None:
    host = Hypervisor(Kiosk(tmp_path), "http://127.0.0.1:1", **{key: value})
    with pytest.raises(UsageError, match=said) as found:
        read(Settings(home=tmp_path), host.file)
    assert "agent.toml" in str(found.value)


def test_a_kiosk_that_is_told_too_much_at_once_is_told_the_rest_soon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = Hypervisor(Kiosk(tmp_path), "http://127.0.0.1:1", swarm={"enabled": False})
    orders = read(Settings(home=tmp_path), host.file)
    agent = Daemon(orders, join(orders))
    agent.reported(Answer(200))
    agent.at["report"] = time.monotonic() + 300
    agent.reported(Answer(429, {"retry-after": "2"}))
    assert agent.state.reported
    assert agent.at["report"] < time.monotonic() + 3
    assert "takes no reports" not in capsys.readouterr().err
