"""Tokens follow from one key and a host's name; a signature holds for one host, call and body."""

from __future__ import annotations

import hashlib
import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kiosk.agent.api import Api, _Call
from kiosk.agent.web import Answer, Web
from kiosk.errors import StorageError, UsageError, VerificationError
from kiosk.fleet.tokens import FleetKey, sign


def test_a_token_is_what_the_documents_say() -> None:
    key = FleetKey(b"k" * 32)
    token = hmac.new(b"k" * 32, b"kiosk.token/1 hv-1", hashlib.sha256).hexdigest()
    assert key.token("hv-1") == token
    mac = hmac.new(bytes.fromhex(token), b"POST /api/report\n{}", hashlib.sha256).hexdigest()
    assert sign(token, "POST", "/api/report", b"{}") == mac
    assert key.caller(f"Kiosk host=hv-1,mac={mac}", "POST", "/api/report", b"{}") == "hv-1"


def test_what_an_agent_sends_is_what_the_kiosk_takes() -> None:
    key, sent = FleetKey(b"k" * 32), []

    class Line(Web):
        def call(self, method: str, path: str, **more: Any) -> Answer:
            sent.append((more["headers"]["Authorization"], method, path, more["body"]))
            return Answer(200)

    api = Api(Line("http://kiosk"), "hv-1", bytes.fromhex(key.token("hv-1")))
    api._made(_Call("/api/report", {"error": "\u00fc\n"}, lambda _: None))
    assert key.caller(*sent[0]) == "hv-1"


@pytest.mark.parametrize(
    "change",
    [("hv-2", "POST", "/api/report", b"{}"), ("hv-1", "PUT", "/api/report", b"{}"),
     ("hv-1", "POST", "/api/lease", b"{}"), ("hv-1", "POST", "/api/report", b"{ }")],
)  # fmt: skip
def test_a_signature_holds_for_nothing_else(change: tuple[str, str, str, bytes]) -> None:
    key = FleetKey(b"k" * 32)
    mac = sign(key.token("hv-1"), "POST", "/api/report", b"{}")
    host, method, path, body = change
    with pytest.raises(VerificationError):
        key.caller(f"Kiosk host={host},mac={mac}", method, path, body)


@pytest.mark.parametrize(
    "text", ["", "Kiosk", "Bearer x", "Kiosk host=,mac=", "Kiosk host=HV,mac=" + "0" * 64]
)
def test_what_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(VerificationError, match="not signed"):
        FleetKey(b"k" * 32).caller(text, "POST", "/x", b"")


def test_the_key_is_made_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "fleet.key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: FleetKey.of(path), range(16)))
    assert len(keys) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["fleet.key"]
    assert "k" not in repr(FleetKey(b"k" * 32)).partition("(")[2]
    path.chmod(0o644)
    with pytest.raises(StorageError, match="others may read"):
        FleetKey.of(path)
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(StorageError, match="not a fleet key"):
        FleetKey.of(path)


@pytest.mark.parametrize("host", ["", "HV", "a b", "-a", "a" * 201, "a\n", "ü"])
def test_a_token_is_for_a_name_that_a_host_can_have(host: str) -> None:
    with pytest.raises(UsageError):
        FleetKey(b"k" * 32).token(host)
