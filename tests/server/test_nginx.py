"""The site's nginx, with the file as it is installed: the same files and headers as `kiosk serve`, and its calls."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from kiosk import data, run
from kiosk.serve.squid import free_port
from tests.serve.fleet import Fleet, bare, serving, until
from tests.serve.test_static import FORBIDDEN, HASH


@dataclass
class Front:
    """nginx in front of a kiosk."""

    fleet: Fleet
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with tempfile.TemporaryDirectory(prefix="kiosk-nginx-") as name, serving(bare(Path(name))) as fleet:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        text = (data.folder("server") / "nginx" / "kiosk.conf").read_text()
        for old, new in (
            ("server 127.0.0.1:8080;", f"server {fleet.url.removeprefix('http://')};"),
            ("listen 80;", f"listen 127.0.0.1:{port};"),
            ("root /var/lib/kiosk/repository;", f"root {folder}/repository;"),
        ):
            assert text.count(old) == 1
            text = text.replace(old, new)
        for path, words in {
            f"objects/ab/{HASH}": "object", "metadata/timestamp.json": "{}", "metadata/3.root.json": "{}",
            f"targets/images/worker/{HASH}.1.json": "{}", "keys/targets.json": "secret",
        }.items():  # fmt: skip
            (folder / "repository" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "repository" / path).write_text(words)
        (folder / "repository/metadata/link.json").symlink_to(folder / "repository/keys/targets.json")
        (folder / "kiosk.conf").write_text(text)
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
            f"events {{ worker_connections 1024; }}\nhttp {{ include {folder}/kiosk.conf; }}\n"
        )
        with run.service(["nginx", "-c", folder / "nginx.conf", "-p", folder], log_to=folder / "out"):
            until(lambda: answers(port))
            yield Front(fleet, port)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.mark.parametrize(
    "path",
    [
        "metadata/timestamp.json",
        "metadata/3.root.json",
        f"targets/images/worker/{HASH}.1.json",
        f"objects/ab/{HASH}",
    ],
)
def test_files_come_as_kiosk_serve_gives_them(front: Front, path: str) -> None:
    ours, theirs = (requests.get(f"{url}/{path}", timeout=10) for url in (front.fleet.url, front.url))
    assert (theirs.status_code, theirs.content) == (200, ours.content)
    for header in ("Cache-Control", "Content-Type", "Content-Length"):
        assert theirs.headers[header] == ours.headers[header], header
    tag = theirs.headers["ETag"]
    assert requests.get(f"{front.url}/{path}", headers={"If-None-Match": tag}, timeout=10).status_code in (
        (304,) if "objects" not in path else (200, 304)
    )


def test_a_range_of_an_object(front: Front) -> None:
    answer = requests.get(f"{front.url}/objects/ab/{HASH}", headers={"Range": "bytes=1-2"}, timeout=10)
    assert (answer.status_code, answer.content) == (206, b"bj")
    assert answer.headers["ETag"] == f'"{HASH}"'
    assert "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize("path", [p for p in FORBIDDEN if "\0" not in p and "3.root" not in p])
def test_nothing_else_is_given(front: Front, path: str) -> None:
    with socket.create_connection(("127.0.0.1", front.port), timeout=10) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = line.makefile("rb").read()
    assert answer.split(b" ")[1] in (b"400", b"403", b"404")
    assert b"secret" not in answer
    assert b"immutable" not in answer


def test_what_is_missing_is_not_remembered(front: Front) -> None:
    answer = requests.get(f"{front.url}/metadata/9.root.json", timeout=10)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (404, "no-store")


def test_events_reports_and_leases_go_through_at_once(front: Front) -> None:
    agent = front.fleet.agent()
    agent.url = front.url
    through = Fleet(front.url, front.fleet.settings, front.fleet.kiosk)
    with through.listener("hv-1"):
        assert len(front.fleet.kiosk.hub.listening) == 1
    assert agent.report().status_code == 200
    assert agent.lease().json()["granted"]
    assert b"failure reason" in requests.get(f"{front.url}/announce?port=1", timeout=10).content
    assert "kiosk_hosts" in requests.get(f"{front.url}/metrics", timeout=10).text


def test_a_caller_can_not_say_where_it_calls_from(front: Front) -> None:
    agent = front.fleet.agent("hv-5")
    agent.url = front.url
    agent.sequence = 1
    body = b'{"schema":"kiosk.report/1","host":"hv-5","sequence":9,"agent":"1","since":0,"state":"idle"}'
    assert agent.post("/api/report", body, **{"X-Forwarded-For": "10.9.9.9"}).status_code == 200
    (row,) = [h for h in front.fleet.kiosk.database.hosts() if h.host == "hv-5"]
    assert row.address == "127.0.0.1"


def test_the_alarms_name_numbers_that_there_are(front: Front) -> None:
    rules = yaml.safe_load((data.folder("server") / "prometheus" / "kiosk.rules.yml").read_text())
    page = requests.get(f"{front.fleet.url}/metrics", timeout=10).text
    there = {line.split("{")[0].split(" ")[0] for line in page.splitlines() if not line.startswith("#")}
    for rule in rules["groups"][0]["rules"]:
        named = {
            w
            for w in rule["expr"].replace("[", " ").replace("{", " ").replace("(", " ").split()
            if "kiosk_" in w
        }
        assert named <= there, rule["alert"]
        assert rule["annotations"]["summary"]
