"""HTCondor's programs as its documentation describes them, over a state file: not recorded from a real pool."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROGRAMS = ("bin/condor_status", "sbin/condor_off", "sbin/condor_master", "sbin/condor_startd")


def config() -> dict[str, str]:
    """What the configuration says."""
    text = Path(os.environ["CONDOR_CONFIG"]).read_text()
    return dict(re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE))


def master(state: dict[str, Any], path: Path) -> int:
    """Runs in the foreground; its slot is listed while it does, if its token is the pool's."""
    values = config()
    token = (Path(values["SEC_TOKEN_SYSTEM_DIRECTORY"]) / "pool").read_text().strip()
    name, local = values["NETWORK_HOSTNAME"], Path(values["LOCAL_DIR"])
    if token == state["token"]:
        path.write_text(json.dumps({**state, "slots": {**state["slots"], name: [["Unclaimed", "Idle"]]}}))
    else:
        log = (
            '11/25/26 12:00:00 SECMAN:2010:Received "DENIED" from server for user unauthenticated@unmapped\n'
        )
        (local / "log/StartLog").write_text(log)
    signal.sigwait({signal.SIGTERM})
    now = json.loads(path.read_text())
    now["slots"].pop(name, None)
    path.write_text(json.dumps(now))
    return 0


def status(state: dict[str, Any], words: Sequence[str]) -> int:
    """`-constraint 'Machine == "NAME"' -af State Activity`."""
    if not state["up"]:
        sys.stderr.write("Error: communication error\nCEDAR:6001:Failed to connect to <192.0.2.1:9618>\n")
        return 1
    name = words[words.index("-constraint") + 1].split('"')[1]
    for slot, activity in state["slots"].get(name, []):
        print(slot, activity)
    return 0


def off(state: dict[str, Any], words: Sequence[str], path: Path) -> int:
    """`-peaceful -startd`: idle slots go, claimed ones stay until their jobs end."""
    name = config()["NETWORK_HOSTNAME"]
    if state["denied"]:
        sys.stderr.write("Can't send command to master: PERMISSION DENIED\n")
        return 1
    state["slots"][name] = [slot for slot in state["slots"].get(name, []) if slot[0] == "Claimed"]
    path.write_text(json.dumps(state))
    print(
        f'Sent "Set-Peaceful-Shutdown" command to startd {name}\nSent "Kill-Daemon-Peacefully" command to local master'
    )
    return 0


def main(name: str, file: str, words: Sequence[str]) -> int:
    """Runs a program."""
    path = Path(file)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    state = json.loads(path.read_text())
    if name == "condor_master":
        return master(state, path)
    return status(state, words) if name == "condor_status" else off(state, words, path)


def install(prefix: Path, state: Path, token: str) -> None:
    """Puts the programs below a prefix, for a pool whose token is that."""
    state.write_text(json.dumps({"up": True, "denied": False, "token": token, "slots": {}}))
    for program in PROGRAMS:
        path = prefix / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"#!/usr/bin/python3 -ES\nimport sys\nsys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
            "sys.dont_write_bytecode = True\nfrom tests.simulators.condor import main\n"
            f"sys.exit(main({path.name!r}, {str(state)!r}, sys.argv[1:]))\n"
        )
        path.chmod(0o755)
