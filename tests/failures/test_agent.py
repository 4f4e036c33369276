"""An agent to which everything happens: whatever is current stays a whole image, nothing unverified becomes current,
and everything comes right once the fault is gone."""

from __future__ import annotations

import os
import signal
import socket
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from kiosk import clock
from kiosk.agent.orders import Orders
from kiosk.agent.run import Job, Run
from kiosk.agent.talk import Alone
from kiosk.errors import KioskError
from kiosk.model.names import parse_ref
from kiosk.model.report import Lease
from kiosk.sync import HostCache
from tests.attacks.mutable import Attacker, expire
from tests.failures.interrupted import killed_at
from tests.simulators.agent_host import Hypervisor, hypervisor
from tests.simulators.kiosk_api import fleet
from tests.simulators.published import Kiosk, behind, ready


def whole(host: Hypervisor) -> str:
    """The current version, all that is there checked to the last byte."""
    for installed in host.cache.installed():
        host.cache.check(installed)
    return host.current()


def orders(kiosk: Kiosk) -> Orders:
    """Those of the hypervisor of a kiosk in a folder."""
    settings = kiosk.hypervisor
    return Orders(
        host="node-1", home=str(settings.home), url=settings.url or "", root=str(kiosk.root), keep_free="0"
    )


def test_a_run_killed_at_every_step(tmp_path: Path) -> None:
    seen = []
    for step in range(1, 40):
        kiosk = behind(tmp_path / str(step))
        killed = killed_at(step, lambda k=kiosk: Run(Job(orders(k)), Alone()).run())  # type: ignore[misc]
        cache = HostCache(kiosk.hypervisor.host)
        for installed in cache.installed():
            cache.check(installed)
        seen.append(str(cache.current(parse_ref("worker"))))
        assert Run(Job(orders(kiosk)), Alone()).run().failure is None
        assert str(cache.current(parse_ref("worker"))) == "2"
        if not killed:
            break
    assert seen == sorted(seen)
    assert set(seen) == {"1", "2"}


def test_kill_9_of_the_work_and_then_of_the_daemon_while_they_wait(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    with fleet(kiosk.settings.repository) as server:
        server.lease = Lease(granted=False, retry=0.5, fanout=9)
        with hypervisor(kiosk, server.url, "hypervisor", images=["worker"]) as host:
            server.wait(lambda: server.leases)
            worker = host.worker()
            assert worker is not None
            os.kill(worker, signal.SIGKILL)
            host.wait(lambda: "ended with status -9" in host.words())
            assert whole(host) == "1"
            host.wait(lambda: host.worker() not in (None, worker), 30)
            server.wait(lambda: len(server.leases) > 2)
            orphan = host.worker()
            assert host.process is not None
            host.stop(signal.SIGKILL)
            assert orphan is not None
            host.wait(lambda: not Path(f"/proc/{orphan}").exists() or "Z" in state_of(orphan))
            assert whole(host) == "1"
            server.lease = Lease(granted=True, seconds=60, fanout=1)
            host.start()
            host.wait(lambda: host.current() == "2")
            assert whole(host) == "2"


def state_of(pid: int) -> str:
    """A process's state letter; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_kiosk_that_is_down_and_comes_back(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    with fleet(kiosk.settings.repository) as server:
        server.stop()
        with hypervisor(kiosk, server.url, "hypervisor", poll=1) as host:
            host.wait(lambda: host.state().get("state") == "failed")
            assert "can't be reached" in host.state()["error"]
            assert whole(host) == "1"
            assert host.words().count("no events from the kiosk") <= 1
            assert host.words().count("takes no reports") <= 1
            server.start()
            host.wait(lambda: host.current() == "2", 30)
            server.wait(lambda: server.reports and server.reports[-1].error is None)


def test_a_server_killed_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    with fleet(kiosk.settings.repository) as server, hypervisor(kiosk, server.url, "hypervisor") as host:
        server.wait(lambda: server.streams)
        server.stop()
        server.start()
        server.wait(lambda: server.streams)
        server.wait(
            lambda: server.reports and any(h.version == "2" and h.current for h in server.reports[-1].held),
            40,
        )
        assert whole(host) == "2"


def test_a_server_that_answers_with_nothing_but_garbage(tmp_path: Path) -> None:
    """Endless lines, without an end of the headers, to every call: the loop goes on, and the memory stays small."""
    kiosk = behind(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                connection, _ = listener.accept()
                with connection:
                    try:
                        connection.recv(4096)
                        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"event: x" * 200_000)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        with hypervisor(kiosk, f"http://127.0.0.1:{listener.getsockname()[1]}", "hypervisor", poll=1) as host:
            host.wait(lambda: host.state().get("state") == "failed" and host.worker() is None)
            assert whole(host) == "1"
            assert host.process is not None
            status = Path(f"/proc/{host.process.pid}/status").read_text()
            assert int(status.split("VmHWM:")[1].split()[0]) < 60 << 10
            assert host.stop() == 0
        ended.set()
        socket.create_connection(listener.getsockname()).close()


@pytest.mark.parametrize("days", [-365, 365])
def test_a_clock_that_is_a_year_off(days: int, tmp_path: Path) -> None:
    """Made on a kiosk whose clock is off the other way: what is current stays, and the error says so."""
    kiosk = behind(tmp_path)
    attacker = Attacker(kiosk)
    if days > 0:
        attacker.edit("timestamp", ["timestamp"], expire)
        with pytest.raises(KioskError, match="expired") as found:
            Run(Job(orders(kiosk)), Alone()).run()
        assert "clock" in str(found.value)
        assert str(HostCache(kiosk.hypervisor.host).current(parse_ref("worker"))) == "1"
        kiosk.resign()
    else:

        def later(signed: object) -> None:
            signed.expires += timedelta(days=-days)  # type: ignore[attr-defined]

        attacker.edit("timestamp", ["timestamp"], later)
    done = Run(Job(orders(kiosk)), Alone()).run()
    assert done.failure is None
    assert done.expires > clock.now().timestamp()
    assert str(HostCache(kiosk.hypervisor.host).current(parse_ref("worker"))) == "2"


def test_old_numbers_after_the_clock_went_back_go_on_where_the_server_says(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with fleet(kiosk.settings.repository) as server:
        server.sequence = 1 << 60
        with hypervisor(kiosk, server.url):
            server.wait(lambda: server.reports and server.reports[-1].held)
            assert server.reports[0].sequence > 1 << 60


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs takes root")
@pytest.mark.parametrize("leave", [20_000, 500_000, 2_400_000])
def test_a_disk_that_fills(leave: int, small: Path) -> None:
    kiosk = behind(small)
    before = kiosk.held()
    filler = small / "filler"
    filler.write_bytes(b"x" * (os.statvfs(small).f_bavail * os.statvfs(small).f_frsize - leave))
    try:
        failure = Run(Job(orders(kiosk)), Alone()).run().failure
    except KioskError as e:
        failure = e
    assert failure is not None
    assert failure.exit_code == 7
    assert kiosk.held() == before
    filler.unlink()
    assert Run(Job(orders(kiosk)), Alone()).run().failure is None
    assert kiosk.held()["images/worker/current"] == "2"


def test_room_that_is_to_stay_free_is_not_taken(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    before = kiosk.held()
    host = Hypervisor(kiosk, kiosk.hypervisor.url or "", "hypervisor", keep_free="900TB")
    done = host.once()
    assert done.returncode == 7
    assert "stay free" in done.stderr
    assert kiosk.held() == before


def test_one_image_s_trouble_is_not_the_others(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    kiosk.layer(version="2")
    manifest = Attacker(kiosk).manifest("worker", "2")
    manifest.write_bytes(b"{}" + b" " * 100)
    done = Run(Job(orders(kiosk)), Alone()).run()
    assert {r.name: r.state for r in done.results} == {"worker": "failed", "site/a/base": "fetched"}
    assert done.failure is not None
    assert done.failure.exit_code == 5
    assert str(HostCache(kiosk.hypervisor.host).current(parse_ref("worker"))) == "1"
