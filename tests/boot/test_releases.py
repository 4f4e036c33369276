"""Another release beside Debian 12, and a recipe in a folder of the user's own: both really built, the first booted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kiosk.model.names import ImageRef
from tests.boot.farm import LAYERS, Farm, also, attested

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
THIRTEEN = "debian-13-minimal"
ELEMENT = """\
#!/bin/bash
set -eu -o pipefail
mkdir -p /etc/own
echo "made with $(cat /etc/debian_version)" >/etc/own/about
"""


@pytest.fixture(scope="module")
def thirteen(farm: Farm) -> ImageRef:
    """Debian 13 in the hypervisor's cache: built, published and synced once for a state of the code."""
    return also(farm, THIRTEEN)


def test_debian_13_becomes_ready_with_both_layers_and_nothing_failed(farm: Farm, thirteen: ImageRef) -> None:
    words = [word for layer in LAYERS for word in ("--layer", layer)]
    farm.kiosk("hypervisor", "vm", "start", str(thirteen), *words, "--name", "node-13", "--timeout", "400")

    def said(*command: str) -> str:
        return farm.kiosk("hypervisor", "vm", "exec", "node-13", "--", *command).strip()

    try:
        assert said("systemctl", "is-system-running", "--wait") == "running"
        assert said("systemctl", "--failed", "--no-legend") == ""
        assert said("cat", "/etc/debian_version").startswith("13.")
        assert said("findmnt", "-no", "FSTYPE", "/") == "overlay"
        root_hash = farm.cache.image(thirteen).verity.root_hash
        assert root_hash in said("dmsetup", "table", "root")
        attestation = attested(farm, "node-13")["attestation"]
        assert attestation["image"]["root_hash"] == root_hash
        assert [layer["name"] for layer in attestation["layers"]] == list(LAYERS)
    finally:
        farm.kiosk("hypervisor", "vm", "stop", "node-13")


def test_a_recipe_of_ones_own_is_made_edited_linted_and_built(
    farm: Farm, folder: Path, thirteen: ImageRef
) -> None:
    own, settings = folder / "own", folder / "kiosk.toml"
    settings.write_text(f'recipes = "{own}"\n')

    def kiosk(*words: str) -> str:
        return farm.kiosk("kiosk-host", "--config", str(settings), *words)

    kiosk("recipe", "new", "own-node", "--from", THIRTEEN)
    recipe, hook = own / "images/own-node.toml", own / "elements/own-node/install.d/50-own-node"
    hook.write_text(ELEMENT)
    (own / "elements/own-node/package-installs.yaml").write_text("jq:\n")
    recipe.write_text(recipe.read_text().replace('"own-node"]', '"kiosk-i386", "own-node"]'))
    found = json.loads(kiosk("recipe", "lint", "own-node", "--json"))
    assert found == {"faults": [], "errors": 0, "warnings": 0, "packages_checked": True}

    built = json.loads(kiosk("build", "own-node", "--json"))
    assert (built["manifest"]["os"], built["manifest"]["release"]) == ("debian", "trixie")
    packages = {p["name"] for p in json.loads((Path(built["folder"]) / "packages.json").read_bytes())}
    assert {"jq", "lib32stdc++6", "qemu-guest-agent"} <= packages
    files = {f["path"] for f in json.loads((Path(built["folder"]) / "files.json").read_bytes())}
    assert {"/etc/own/about", "/usr/lib/ld-linux.so.2"} <= {"/" + f.lstrip("/") for f in files}
    # What a build of kiosk-i386 proves: the tree's 32-bit loader ran, and found the 32-bit libraries.
    log = (farm.home / "kiosk-host/logs/build-own-node.log").read_text(errors="replace")
    assert "libgcc_s.so.1 => /lib32/libgcc_s.so.1" in log

    (row,) = [r for r in json.loads(kiosk("recipe", "list", "--json")) if r["name"] == "own-node"]
    assert (row["origin"], row["newest"]) == (str(own), built["manifest"]["version"])
