"""Where an image came from: an in-toto statement (v1) with a SLSA provenance predicate (v1)."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence

from kiosk.model.manifest import Artifact, Source
from kiosk.model.recipe import Base, Recipe

BUILD_TYPE = "https://kiosk.invalid/build/recipe/v1"


def statement(
    recipe: Recipe,
    base: Base,
    version: str,
    source: Source,
    artifacts: Mapping[str, Artifact],
    packages: Sequence[Mapping[str, str]],
) -> bytes:
    """The statement as JSON. It says nothing that differs between two builds of the same tree."""
    subjects = [
        {"name": a.file, "digest": {"sha256": a.digest.removeprefix("sha256:")}} for a in artifacts.values()
    ]
    tools = {name: importlib.metadata.version(name) for name in ("kiosk", "diskimage-builder")}
    materials = [
        {
            "name": f"recipes/images/{recipe.name}.toml",
            "digest": {"sha256": source.digest.removeprefix("sha256:")},
        },
        {"name": "tree", "digest": {"sha256": source.tree.removeprefix("sha256:")}},
        *(
            {
                "uri": f"pkg:deb/debian/{p['name']}@{p['version']}?arch={p['architecture']}&distro={recipe.release}"
            }
            for p in packages
        ),
    ]
    value = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": sorted(subjects, key=lambda s: str(s["name"])),
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "recipe": recipe.model_dump(mode="json"),
                    "base": base.model_dump(mode="json"),
                    "version": version,
                },
                "internalParameters": {"sourceDate": source.date},
                "resolvedDependencies": materials,
            },
            "runDetails": {"builder": {"id": "https://kiosk.invalid/build/local", "version": tools}},
        },
    }
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()
