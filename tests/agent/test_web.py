"""The daemon's own calls: bounded whatever the other side does, through a proxy where there is one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.agent import web
from kiosk.agent.api import lease
from kiosk.agent.events import LONGEST, Event, Parser, pause
from kiosk.agent.poll import claimed
from kiosk.agent.state import plain
from kiosk.agent.web import Answer, Web, WebError


@contextmanager
def server(answer: Callable[[socket.socket, bytes], None]) -> Iterator[str]:
    """One that does as it likes with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        answer(connection, connection.recv(4096))
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_a_proxy_is_asked_for_the_whole_address() -> None:
    asked: list[bytes] = []

    def answer(connection: socket.socket, request: bytes) -> None:
        asked.append(request.split(b"\r\n")[0])
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: x\r\n\r\nok")

    with server(answer) as proxy:
        found = Web("http://kiosk.example.org/base/", proxy).call("GET", "/metadata/timestamp.json")
    assert asked == [b"GET http://kiosk.example.org/base/metadata/timestamp.json HTTP/1.1"]
    assert (found.status, found.body, found.headers["etag"]) == (200, b"ok", "x")


def test_an_answer_that_drips_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "WHOLE", 0.3)

    def answer(connection: socket.socket, _request: bytes) -> None:
        for byte in b"HTTP/1.1 200 OK" + b"x" * 1000:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)

    begin = time.monotonic()
    with server(answer) as url, pytest.raises(WebError):
        Web(url).call("GET", "/")
    assert time.monotonic() - begin < 3


def test_an_answer_without_an_end_is_cut() -> None:
    def answer(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    with server(answer) as url, pytest.raises(WebError, match="too long"):
        Web(url).call("GET", "/")


def test_nobody_there() -> None:
    with pytest.raises(WebError):
        Web("http://127.0.0.1:1").call("GET", "/")


@given(st.lists(st.integers(1, 9)))
def test_events_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    data = b": hello\n\nevent: changed\r\ndata: {\r\ndata: }\r\n\r\ndata: a\n\nevent: none\n\n"
    parser, found, at = Parser(), [], 0
    for cut in [*cuts, len(data)]:
        found += list(parser.feed(data[at : at + cut]))
        at += cut
    assert found == [Event("changed", "{\n}"), Event("message", "a")]


@pytest.mark.parametrize("data", [b"x" * (LONGEST + 1), (b"data: " + b"y" * 1000 + b"\n") * 100])
def test_an_event_without_an_end_ends_the_stream(data: bytes) -> None:
    with pytest.raises(WebError, match="too long"):
        list(Parser().feed(data))


def test_pauses_grow_and_differ() -> None:
    assert [pause(n, lambda: 1.0) for n in range(4)] == [1, 2, 4, 8]
    assert pause(100, lambda: 1.0) == 300
    assert pause(3, lambda: 0.0) == 4


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, body=b"[1]"),
        Answer(500),
        Answer(503),
        Answer(200, body=b'{"granted": 1}'),
        Answer(200, body=b'{"granted": true, "seconds": 1e999}'),
        Answer(200, body=b'{"granted": true, "slot": -1}'),
        Answer(200, body=b'{"granted": true, "fanout": "many"}'),
    ],
)
def test_a_kiosk_in_trouble_gives_no_lease_and_is_asked_again(answer: Answer) -> None:
    """It still is a kiosk that gives leases: a thousand hosts must not turn to the origin because it is slow."""
    found = lease(answer)
    assert found is not None
    assert (found["granted"], found["retry"]) == (False, 30.0)


def test_where_nobody_gives_leases_there_is_none() -> None:
    assert lease(None) is None
    assert lease(Answer(404)) is None
    assert lease(Answer(401)) is None, "its token is wrong: it takes its place in the row"


def test_a_busy_kiosk_says_when_to_ask_again() -> None:
    found = lease(Answer(429, {"retry-after": "7"}))
    assert found is not None
    assert (found["granted"], found["retry"]) == (False, 7)


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (b'{"signed": {"version": 7}}', 7),
        (b'{"signed": {"version": true}}', None),
        (b"[" * 60000, None),
        (b"", None),
        (b"[]", None),
    ],
)
def test_a_claimed_version(data: bytes, version: int | None) -> None:
    assert claimed(data) == version


def test_an_error_for_a_report_is_plain() -> None:
    assert plain("a\nb\x1b[31m" + "x" * 1000)[:8] == "a b [31m"


def test_empty_lines_of_data_count_as_well() -> None:
    with pytest.raises(WebError, match="too long"):
        list(Parser().feed(b"data:\n" * (LONGEST + 1)))
