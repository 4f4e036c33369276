"""Pushing over ssh, for hypervisors that may not connect out: they read the kiosk through the connection itself.

`ssh -R` opens a port of the hypervisor's loopback that leads to a server of the repository's files here, and
`kiosk sync` runs over there. Only files that anybody may read pass; the hypervisor verifies them as always. What
it answers is not trusted: bounded in bytes and time, and shown without escape sequences.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiosk import run
from kiosk.cloud import untrusted
from kiosk.errors import KioskError, NetworkError

ANSWER = 1 << 20
PORTS = range(20_000, 60_000)
TRIES = 5
LOST = 255
TAKEN = "remote port forwarding failed"


@dataclass(frozen=True)
class SshPush:
    """What became of a host: `results` as `kiosk sync --json` names them, or `error`."""

    host: str
    results: tuple[dict[str, Any], ...] = ()
    error: str | None = None


def push(
    host: str,
    images: Sequence[str],
    *,
    port: int,
    config: Path | None = None,
    remote: Sequence[str] = ("kiosk",),
    timeout: float = 3600,
) -> SshPush:
    """Has a host sync images (all where none is named) from the server at 127.0.0.1:`port` here. Errors of the
    host are in the result."""
    for _ in range(TRIES):
        there = secrets.choice(PORTS)
        command = [*remote, "sync", *images, "--url", f"http://127.0.0.1:{there}", "--json"]
        try:
            out, _ = run.bounded(
                [*ssh(config, f"127.0.0.1:{there}:127.0.0.1:{port}"), "--", host, shlex.join(command)],
                timeout=timeout,
                most=ANSWER,
            )
            return SshPush(host, results=_results(out, host))
        except run.CommandError as e:
            if TAKEN not in e.output:
                return SshPush(host, error=_said(e))
        except KioskError as e:
            return SshPush(host, error=e.what)
    return SshPush(host, error="no port over there could be opened: does its sshd allow TCP forwarding?")


def ssh(config: Path | None, forward: str) -> list[str]:
    """ssh up to the host's name: it asks nothing, takes no unknown host key, and forwards that port alone."""
    options = {
        "BatchMode": "yes", "StrictHostKeyChecking": "yes", "UpdateHostKeys": "no", "ExitOnForwardFailure": "yes",
        "ConnectTimeout": "15", "ServerAliveInterval": "15", "ServerAliveCountMax": "4", "ForwardAgent": "no",
        "ForwardX11": "no", "PermitLocalCommand": "no", "ControlMaster": "no", "ControlPath": "none",
        "LogLevel": "ERROR",
    }  # fmt: skip
    words = ["ssh", *(["-F", str(config)] if config else []), "-T"]
    for key, value in options.items():
        words += ["-o", f"{key}={value}"]
    return [*words, "-R", forward]


def _results(out: str, host: str) -> tuple[dict[str, Any], ...]:
    try:
        found = json.loads(out)["results"]
        return tuple(
            {k: untrusted.line(str(one.get(k, "")), limit=200) for k in ("name", "version", "state", "error")}
            | {"moved": int(one.get("moved", 0))}
            for one in found
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NetworkError("its kiosk answers something else than it should", where=host) from None


def _said(error: run.CommandError) -> str:
    text = untrusted.printable(error.output, limit=20_000).strip()
    last = " / ".join(line.strip() for line in text.splitlines()[-3:] if line.strip())
    if error.status == LOST:
        return f"ssh failed: {last[-400:]}"
    return f"kiosk sync ended with status {error.status}: {last[-400:]}"
