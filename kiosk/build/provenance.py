"""Where an image came from: an in-toto statement (v1) with a SLSA provenance predicate (v1)."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kiosk.model.manifest import Artifact, Source

BUILD_TYPE = "https://kiosk.invalid/build/{kind}/v1"
FOLDERS = {"recipe": "recipes/images", "golden-node": "recipes/golden"}


def statement(
    parameters: Mapping[str, Any],
    version: str,
    source: Source,
    artifacts: Mapping[str, Artifact],
    packages: Sequence[Mapping[str, str]],
    release: str,
) -> bytes:
    """The statement as JSON. It says nothing that differs between two builds of the same tree."""
    subjects = [
        {"name": a.file, "digest": {"sha256": a.digest.removeprefix("sha256:")}} for a in artifacts.values()
    ]
    tools = {name: importlib.metadata.version(name) for name in ("kiosk", "diskimage-builder")}
    materials = [
        {
            "name": f"{FOLDERS[source.kind]}/{source.name}.toml",
            "digest": {"sha256": source.digest.removeprefix("sha256:")},
        },
        {"name": "tree", "digest": {"sha256": source.tree.removeprefix("sha256:")}},
        *(
            {"uri": f"pkg:deb/debian/{p['name']}@{p['version']}?arch={p['architecture']}&distro={release}"}
            for p in packages
        ),
    ]
    value = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": sorted(subjects, key=lambda s: str(s["name"])),
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE.format(kind=source.kind),
                "externalParameters": {**parameters, "version": version},
                "internalParameters": {"sourceDate": source.date},
                "resolvedDependencies": materials,
            },
            "runDetails": {"builder": {"id": "https://kiosk.invalid/build/local", "version": tools}},
        },
    }
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()
