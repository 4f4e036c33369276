"""A kiosk behind an nginx that ends TLS, with a certificate of the site's own authority: everything that an agent and
`kiosk sync` ask goes by it, and a wrong authority is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kiosk import data, run, tls
from kiosk.agent.web import Web, WebError
from kiosk.errors import NetworkError, UsageError
from kiosk.serve.squid import free_port
from kiosk.sync import sync
from tests.serve.fleet import Fleet, serving, until
from tests.server.test_nginx import answers
from tests.simulators.agent_host import Hypervisor
from tests.simulators.certificates import Authority
from tests.simulators.published import Kiosk, ready, without_fsync

__all__ = ["without_fsync"]


@dataclass
class Front:
    """The kiosk, what stands before it, and who signed its certificate."""

    kiosk: Kiosk
    fleet: Fleet
    url: str
    authority: Authority
    log: Path

    def asked(self) -> list[str]:
        """What was asked by https, with the status of the answer."""
        return self.log.read_text().splitlines()

    def host(self, **keys: object) -> Hypervisor:
        """A hypervisor that knows the kiosk by https alone."""
        made = Hypervisor(self.kiosk, self.url, "hv-1", images=["worker"], **keys)
        (made.home / "token").write_text(self.fleet.agent("hv-1").token)
        return made


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    kiosk = ready(tmp_path)
    authority = Authority.made(tmp_path)
    certificate, key = authority.server(tmp_path)
    with serving(kiosk.settings) as fleet:
        port, log = free_port(), tmp_path / "asked"
        text = (data.folder("server") / "nginx" / "kiosk.conf").read_text()
        for old, new in (
            ("server 127.0.0.1:8080;", f"server {fleet.url.removeprefix('http://')};"),
            ("listen 80;", f"listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};"),
            ("root /var/lib/kiosk/repository;", f"root {kiosk.settings.repository};"),
            ("access_log off;", f'access_log {log} short;'),
        ):  # fmt: skip
            assert text.count(old) == 1
            text = text.replace(old, new)
        (tmp_path / "kiosk.conf").write_text(text)
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; user {os.environ.get('USER', 'root')}; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
            "events { worker_connections 1024; }\n"
            f"http {{ log_format short '$scheme $request_method $uri $status'; include {tmp_path}/kiosk.conf; }}\n"
        )
        with run.service(["nginx", "-c", tmp_path / "nginx.conf", "-p", tmp_path], log_to=tmp_path / "out"):
            until(lambda: answers(port))
            yield Front(kiosk, fleet, f"https://127.0.0.1:{port}", authority, log)


def test_everything_an_agent_asks_goes_by_https(front: Front) -> None:
    host = front.host(ca=str(front.authority.file), swarm={"listen": "127.0.0.1:0", "peers": ["127.0.0.0/8"]})
    host.start()
    try:
        host.wait(lambda: host.state().get("state") == "idle" and host.current() == "1")
        host.wait(lambda: host.state()["connected"] and host.state()["reported"])
        front.kiosk.image(version="2")
        host.wait(lambda: host.current() == "2")
        until(lambda: any(h.report and h.report.held for h in front.fleet.kiosk.database.hosts()))
        host.wait(lambda: any("/announce 200" in line for line in front.asked()))
    finally:
        host.stop()
    asked = front.asked()
    for call in (
        "GET /api/events 200", "POST /api/report 200", "POST /api/lease 200", "GET /announce 200",
        "GET /metadata/timestamp.json 200",
    ):  # fmt: skip
        assert f"https {call}" in asked, asked
    assert any(line.startswith("https GET /objects/") for line in asked)


def test_a_wrong_authority_is_named_by_the_agent(front: Front, tmp_path: Path) -> None:
    host = front.host(ca=str(Authority.made(tmp_path, "another").file))
    host.start()
    try:
        host.wait(
            lambda: "no events from the kiosk: the server's certificate is not believed" in host.words()
        )
        host.wait(lambda: "certificate is not believed" in (host.state().get("error") or ""))
        host.wait(lambda: "takes no reports: the server's certificate is not believed" in host.words())
        assert host.current() == "None"
    finally:
        host.stop()
    assert not front.log.exists() or front.asked() == [], "no token and no report was sent"


def test_a_wrong_authority_is_named_by_kiosk_sync_and_by_a_reader_of_objects(
    front: Front, tmp_path: Path
) -> None:
    settings = front.kiosk.hypervisor.model_copy(update={"url": front.url})
    with pytest.raises(NetworkError, match="certificate is not believed") as found:
        sync(settings, root=front.kiosk.root.read_bytes())
    assert "ca = " in str(found.value)
    right = settings.model_copy(update={"ca": front.authority.file})
    assert sync(right, root=front.kiosk.root.read_bytes()).failure is None
    with pytest.raises(WebError, match="not believed"):
        Web(front.url).call("GET", "/metadata/timestamp.json")


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_file_that_holds_no_authority_is_named_at_once(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    if text is not None:
        file.write_text(text)
    for use in (tls.context, tls.authorities):
        with pytest.raises(UsageError, match="ca: ") as found:
            use(str(file))
        assert str(file) in str(found.value)
    with pytest.raises(WebError, match="ca: "):
        Web("https://127.0.0.1:1", ca=str(file)).call("GET", "/")
