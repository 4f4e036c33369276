"""The end of a real node: by its age, and because the hypervisor asks; and what it says of itself to ordinary users."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kiosk.run import CommandError
from tests.boot.farm import IMAGE, LAYERS, Farm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@contextmanager
def node(farm: Farm, name: str, lifetime: str) -> Iterator[dict[str, Any]]:
    """A node with both layers that is ready; what is left of it is removed."""
    words = [word for layer in LAYERS for word in ("--layer", layer)]
    words += ["--name", name, "--lifetime", lifetime, "--timeout", "600", "--json"]
    try:
        yield json.loads(farm.kiosk("hypervisor", "vm", "start", IMAGE, *words))
    finally:
        farm.kiosk("hypervisor", "vm", "stop", name, "--now")


def states(farm: Farm, name: str, limit: float) -> list[tuple[str, str | None]]:
    """The states and reasons that a node goes through until it has stopped, or so many seconds have passed."""
    seen: list[tuple[str, str | None]] = []
    until = time.monotonic() + limit
    while time.monotonic() < until:
        found = json.loads(farm.kiosk("hypervisor", "vm", "show", name, "--json"))
        now = (found["state"], found["reason"])
        if now not in seen:
            seen.append(now)
        if now[0] in ("stopped", "failed"):
            break
        time.sleep(0.2)
    return seen


def test_at_its_age_a_node_drains_powers_off_and_says_why(farm: Farm) -> None:
    with node(farm, "aged", "100s"):
        seen = states(farm, "aged", 240)
        console = farm.kiosk("hypervisor", "vm", "console", "aged", "--log")
    assert seen[-1][0] == "stopped", seen
    assert str(seen[-1][1]).startswith("its age: 100 s after its start"), seen
    assert "kiosk: draining: its age: 100 s" in console and "kiosk: stopping: its age: 100 s" in console


def test_ordinary_users_ask_a_node_what_it_is_and_the_hypervisor_has_it_drain(farm: Farm) -> None:
    def run(*command: str) -> str:
        return farm.kiosk(
            "hypervisor", "vm", "exec", "asked", "--", "runuser", "-u", "nobody", "--", *command
        )

    version = farm.image().version
    with node(farm, "asked", "24h"):
        text = run("kiosk-attest")
        assert f"{IMAGE}@{version}, signed by images" in text and "experiment/demo/software@" in text
        assert json.loads(run("kiosk-attest", "--json"))["switched_on"] == []
        holds = f"image={IMAGE}@>={version},layer=demo/software,site=example,without=hooks"
        assert run("kiosk-attest", "--require", holds, "--stops-after", "7200") == ""
        with pytest.raises(CommandError) as caught:
            run("kiosk-attest", "--require", f"image={IMAGE}@>=99999999,layer=demo/other")
        assert caught.value.status == 1
        assert "layer=demo/other: there is no layer experiment/demo/other" in str(caught.value)
        script = "kiosk-jobfeatures sh -c 'cat $JOBFEATURES/shutdowntime_job $MACHINEFEATURES/shutdowntime'"
        job, machine = run("sh", "-c", script).split()
        assert job == machine and int(job) > time.time() + 7200
        with pytest.raises(CommandError):
            run("kiosk-drain", "not for everybody")
        quiet = farm.kiosk("hypervisor", "vm", "exec", "asked", "--", "sh", "-c",
                           "systemctl start kiosk-watch kiosk-health && sleep 5 && "
                           "systemctl is-failed kiosk-watch kiosk-health; "
                           "journalctl -b -u 'kiosk-*' -o cat")  # fmt: skip
        assert "nothing changes" not in quiet and "failed (" not in quiet, quiet

        words = ["vm", "drain", "asked", "--reason", 'it\'s "new" $kernel', "--wait", "--timeout", "120s"]
        assert 'stopped: it\'s "new" $kernel' in farm.kiosk("hypervisor", *words)


def test_a_node_that_is_shut_down_says_so(farm: Farm) -> None:
    with node(farm, "stopped", "24h"):
        farm.kiosk("hypervisor", "vm", "exec", "stopped", "--", "systemctl", "poweroff", "--no-block")
        seen = states(farm, "stopped", 120)
    assert seen[-1] == ("stopped", "it was told to shut down"), seen
