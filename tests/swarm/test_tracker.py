"""A real tracker (Debian's opentracker, with the site's configuration) and a real Squid."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from kiosk import data
from kiosk.serve import squid
from kiosk.serve import tracker as built_in
from kiosk.serve.app import Server
from kiosk.swarm import make
from kiosk.swarm.session import TrackerFailed
from tests.simulators.swarm import Shared, done, host, seeder, until, version

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{
    listen 127.0.0.1:{port};
    root {root};
    add_header Cache-Control "public, max-age=31536000, immutable";
  }}
}}
"""


def listening(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens at port {port}")


@contextlib.contextmanager
def running(command: Sequence[object], port: int) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as p:
        try:
            listening(port)
            yield p
        finally:
            p.kill()


@dataclass
class Tracker:
    url: str
    whitelist: Path
    process: subprocess.Popen[bytes]


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    with tempfile.TemporaryDirectory(prefix="kiosk-tracker-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the tracker gives up root
        port = squid.free_port()
        whitelist = folder / "whitelist"
        whitelist.write_text("0" * 40 + "\n")
        text = (data.folder("server") / "opentracker" / "opentracker.conf").read_text(encoding="utf-8")
        text = text.replace("listen.tcp 0.0.0.0:6969", f"listen.tcp 127.0.0.1:{port}")
        text = text.replace("/etc/opentracker/whitelist.txt", str(whitelist))
        if os.geteuid() != 0:
            text = "\n".join(line for line in text.splitlines() if not line.startswith("tracker.user"))
        (folder / "opentracker.conf").write_text(text)
        with running(["opentracker", "-f", folder / "opentracker.conf"], port) as process:
            yield Tracker(f"http://127.0.0.1:{port}/announce", whitelist, process)


def allow(tracker: Tracker, one: Shared) -> None:
    tracker.whitelist.write_text(f"{'0' * 40}\n{one.infohash[:40]}\n")
    tracker.process.send_signal(signal.SIGHUP)


def test_hosts_find_each_other_through_the_tracker_and_go_on_without_it(
    tracker: Tracker, tmp_path: Path
) -> None:
    one = version(tmp_path / "kiosk", [f"object-{n}" for n in range(10)])
    allow(tracker, one)
    with seeder(one) as a, host(tmp_path / "b") as b:
        a.session.remove(one.infohash)
        a.session.add(one.data, one.infohash, trackers=[tracker.url])
        handle = a.session._members[one.infohash].handle
        until(lambda: any(t["endpoints"] and t["verified"] for t in handle.trackers()), a)
        b.session.add(one.data, one.infohash, trackers=[tracker.url])
        b.session.want(one.infohash, one.digests[:5])
        until(done(b), b, a)
        known = b.session.peers(one.infohash) or [a.address]
        tracker.process.kill()
        b.session.want(one.infohash, one.digests)
        until(done(b), b, a)
        assert b.holds(one)
        assert known == [a.address]


def test_what_was_not_published_is_not_tracked(tracker: Tracker, tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", ["object"])
    with host(tmp_path / "b") as b:
        b.fetch(one, trackers=[tracker.url])
        until(lambda: any(isinstance(e, TrackerFailed) for e in b.events), b)
        failed = next(e for e in b.events if isinstance(e, TrackerFailed))
        assert failed.url == tracker.url
        assert "not authorized" in failed.what


def test_a_tracker_that_is_down_is_said(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", ["object"])
    with seeder(one) as a, host(tmp_path / "b") as b:
        b.fetch(one, trackers=[f"http://127.0.0.1:{squid.free_port()}/announce"])
        until(lambda: any(isinstance(e, TrackerFailed) for e in b.events), b)
        b.session.connect(one.infohash, [a.address])
        until(done(b), b, a)
        assert b.holds(one)


@pytest.fixture
def behind_squid() -> Iterator[tuple[Path, str, str]]:
    """A repository's folder, the URL that it is served at, and a Squid's."""
    with tempfile.TemporaryDirectory(prefix="kiosk-seeds-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        root, port = folder / "repository", squid.free_port()
        root.mkdir()
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, root=root))
        url = f"http://127.0.0.1:{port}"
        with (
            running(["nginx", "-c", folder / "nginx.conf", "-p", folder], port),
            squid.running(folder / "squid", port=squid.free_port(), kiosk=url, cache_mb=100) as proxy,
        ):
            yield root, url, proxy


def test_any_client_has_it_from_web_seeds_through_squid(
    behind_squid: tuple[Path, str, str], tmp_path: Path
) -> None:
    root, url, proxy = behind_squid
    one = version(root, [f"object-{n}" for n in range(10)])
    store = one.store
    large = store.write(
        b"".join(p.read_bytes() for p in sorted((root / "objects").rglob("*")) if p.is_file()) * 3
    )
    objects = [*one.objects, large]
    _, torrent = make.torrent(store, objects, make.Nothing(), web_seeds=[url])
    host_name, port = proxy.removeprefix("http://").split(":")
    settings: dict[str, Any] = {
        "listen_interfaces": "127.0.0.1:0",
        "enable_dht": False,
        "enable_lsd": False,
        "proxy_type": int(lt.proxy_type_t.http),
        "proxy_hostname": host_name,
        "proxy_port": int(port),
    }
    client = lt.session(settings)
    params = lt.load_torrent_buffer(torrent)
    params.save_path = str(tmp_path / "plain")
    handle = client.add_torrent(params)
    for _ in range(300):
        client.wait_for_alert(100)
        client.pop_alerts()
        if handle.status().is_seeding:
            break
    assert handle.status().is_seeding, handle.status().state
    assert type(store)(tmp_path / "plain").read(large)
    assert (root.parent / "squid" / "access.log").read_text().count("/objects/") >= len(objects)


def test_the_tracker_hears_at_once_who_waits_and_who_wants_no_more(tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", [f"object-{n}" for n in range(10)])
    known = built_in.Tracker()
    infohash = bytes.fromhex(one.infohash)[:20]
    known.allow([infohash])
    counted, answers = [], threading.Event()

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        answer = known.announce(scope["query_string"], scope["client"][0], time.monotonic())
        counted.append(known.counts()[infohash])
        await asyncio.to_thread(answers.wait, 20)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    with Server(app, ("127.0.0.1", 0)) as server, server.running() as url, host(tmp_path / "b") as b:
        with seeder(one) as a:
            trackers = [f"{url}/announce"]
            b.session.add(one.data, one.infohash, trackers=trackers, want=one.digests[:5])
            until(lambda: (0, 1) in counted, b)
            b.session.connect(one.infohash, [a.address])
            until(done(b), b, a)
            answers.set()  # only now: what has changed meanwhile is said again
            until(lambda: known.counts()[infohash] == (1, 0), b, a)
        b.session.want(one.infohash, one.digests)
        until(lambda: known.counts()[infohash] == (0, 1), b)
        assert counted == [(0, 1), (1, 0), (0, 1)], "one word for each change"
