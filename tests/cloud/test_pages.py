"""The farms in the pages' examples are such that a guest would take them."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from contextualize import context as guest
from contextualize.farm.settings import checked, checked_secrets
from contextualize.farm.slurm import Slurm

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def test_the_context_pages_farm_is_joined_with_what_the_layers_page_declares() -> None:
    """The context has the secret, a site layer's declaration the settings."""
    (document,) = (b for b in blocks("context.md", "json") if '"farm"' in b)
    farm = guest.parse(document.encode()).farm
    assert farm is not None and farm.kind == Slurm.kind
    assert checked_secrets(farm, Slurm.secrets)
    (layer,) = (tomllib.loads(b) for b in blocks("layers.md", "toml") if "[farms." in b)
    (signed,) = layer["farms"].values()
    assert signed["kind"] == Slurm.kind
    assert checked(guest.Farm("slurm", "batch", signed["settings"], {}), Slurm.settings)


def test_the_farms_pages_example_is_complete() -> None:
    text = (DOCS / "farms.md").read_text()
    block = next(b for b in re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S) if b.startswith('"farm"'))
    found = json.loads("{" + block + "}")["farm"]
    key = dict.fromkeys(found["secrets"], bytes(32))
    farm = guest.Farm(found["kind"], found["name"], found["settings"], key)
    assert checked(farm, Slurm.settings) and checked_secrets(farm, Slurm.secrets)
