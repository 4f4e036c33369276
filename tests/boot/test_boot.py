"""A real node, from the published image: it comes up by UEFI firmware with both layers, works, and stops."""

from __future__ import annotations

import json

import pytest

from kiosk.run import CommandError
from tests.boot.farm import IMAGE, LAYERS, Farm, attested

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_a_node_comes_up_attests_what_it_is_works_and_stops(farm: Farm) -> None:
    words = [word for layer in LAYERS for word in ("--layer", layer)]
    words += ["--name", "node-1", "--uefi", "--lifetime", "24h", "--timeout", "600", "--json"]
    started = json.loads(farm.kiosk("hypervisor", "vm", "start", IMAGE, *words))
    try:
        assert started["state"] == "ready" and started["seconds_to_ready"] > 0
        (listed,) = json.loads(farm.kiosk("hypervisor", "vm", "list", "--json"))
        assert (listed["id"], listed["name"], listed["state"]) == (started["id"], "node-1", "ready")

        attestation = attested(farm, "node-1")["attestation"]
        manifest = farm.cache.image(farm.image())
        assert attestation["node"] == {"id": started["uuid"], "name": "node-1"}
        assert attestation["image"]["root_hash"] == manifest.verity.root_hash
        assert [(layer["name"], layer["role"]) for layer in attestation["layers"]] == [
            ("site/example/base", "site-example"),
            ("experiment/demo/software", "experiment-demo"),
        ]
        for layer in attestation["layers"]:
            signed = farm.cache.layer(farm.layer(layer["name"])).artifacts["layer"]
            assert (layer["digest"], layer["size"]) == (signed.digest, signed.size)

        def run(*command: str) -> str:
            return farm.kiosk("hypervisor", "vm", "exec", "node-1", "--", *command)

        assert "demo" in run("/opt/experiment/demo/bin/hello")
        assert run("hostname").strip() == "node-1"
        assert "/scratch" in run("findmnt", "-n", "-o", "TARGET,SIZE", "/scratch")
        assert json.loads(run("cat", "/run/kiosk/attestation.json")) == attestation
        with pytest.raises(CommandError) as caught:
            run("sh", "-c", "exit 7")
        assert caught.value.status == 7
        assert "kiosk: ready" in farm.kiosk("hypervisor", "vm", "console", "node-1", "--log")
        with pytest.raises(CommandError):
            run("touch", "/opt/experiment/demo/new")
    finally:
        farm.kiosk("hypervisor", "vm", "stop", "node-1")
    assert json.loads(farm.kiosk("hypervisor", "vm", "list", "--json")) == []
    assert [p for p in farm.settings.vms.iterdir() if p.is_dir()] == []
