"""A site layer of the tests' own, published and synced: it has the programs of a simulated LSF cluster, and lets a
context do all that a site can allow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from kiosk.model.names import LayerRef
from tests.boot.farm import Farm
from tests.simulators.lsf import alone
from tests.simulators.lsf.cluster import State
from tests.simulators.lsf.programs import ROOT, install

NAME = "site/example/trial"
PREFIX = Path("/opt/site")
PYTHON = PREFIX / "python"
CLUSTER = Path("/scratch/lsf/cluster.json")
"""On the scratch disk, so that it can be looked at when the machine is gone."""
TOML = """
kind = "site"
owner = "example"
name = "trial"
images = ["debian-12-minimal"]
allows = ["hooks", "user-data", "root-login", "farm"]
"""


def lsf(timeout: int) -> dict[str, Any]:
    """The farm's part of a context."""
    settings = {
        "servers": alone.MASTER,
        "bindir": str(PREFIX / "bin"),
        "serverdir": str(PREFIX / "etc"),
        "removal": "expire",
    }
    return {"kind": "lsf", "name": "batch", "timeout": timeout, "settings": settings}


def published(farm: Farm, folder: Path) -> LayerRef:
    """The layer at a new version; `folder` is where it is made."""
    files = folder / "trial/files"
    modules = files / "python/tests/simulators/lsf"
    modules.mkdir(parents=True)
    for module in (ROOT / "tests/simulators/lsf").glob("*.py"):
        shutil.copy(module, modules)
    install(files / "bin", files / "etc", State(CLUSTER), PYTHON, "alone")
    (folder / "trial/layer.toml").write_text(TOML)
    return publish(farm, folder / "trial", NAME)


def publish(farm: Farm, recipe: Path, name: str) -> LayerRef:
    """Builds, publishes and syncs a layer."""
    farm.kiosk("kiosk-host", "layer", "build", str(recipe))
    farm.kiosk("kiosk-host", "layer", "publish", name)
    farm.kiosk("hypervisor", "sync", name)
    return farm.layer(name)
