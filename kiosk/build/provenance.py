"""Where an image came from: an in-toto statement (v1) with a SLSA provenance predicate (v1).

It names every file of the version, all that the image was made from with its digest where one is known, and says
nothing that differs between two makings of the same tree. It is an artifact of the signed manifest, which vouches
for it; it needs no signature of its own.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kiosk.model.base import plain
from kiosk.model.manifest import Artifact, Source
from kiosk.packages import Installed
from kiosk.packages.purl import purl, wheel
from kiosk.packages.wheels import Wheel

BUILD_TYPE = "https://kiosk.invalid/build/{kind}/v1"
BUILDER = "https://kiosk.invalid/build/local"
FOLDERS = {"recipe": "recipes/images", "golden-node": "recipes/golden"}
TOOLS = {"recipe": ("kiosk", "diskimage-builder"), "golden-node": ("kiosk",)}


def statement(
    version: str,
    source: Source,
    os: tuple[str, str],
    *,
    external: Mapping[str, Any],
    internal: Mapping[str, Any],
    artifacts: Mapping[str, Artifact],
    packages: Sequence[Installed],
    wheels: Sequence[Wheel] = (),
) -> bytes:
    """The statement as JSON. `external` is what was asked for (a recipe, a golden node's definition), `internal`
    what kiosk found or chose by itself (a node's method of capture, its answer to whether it is ready); `os` the
    image's operating system and its release."""
    subjects = [{"name": a.file, "digest": _digest(a.digest)} for a in artifacts.values()]
    value = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": sorted(subjects, key=lambda s: str(s["name"])),
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE.format(kind=source.kind),
                "externalParameters": {**external, "version": version},
                "internalParameters": {**internal, "sourceDate": source.date},
                "resolvedDependencies": [*_sources(source), *_parts(os, packages, wheels)],
            },
            "runDetails": {
                "builder": {
                    "id": BUILDER,
                    "version": {name: importlib.metadata.version(name) for name in TOOLS[source.kind]},
                }
            },
        },
    }
    return (json.dumps(plain(value), sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def _sources(source: Source) -> Iterator[Mapping[str, Any]]:
    """What the image was made from, as a whole."""
    yield {"name": f"{FOLDERS[source.kind]}/{source.name}.toml", "digest": _digest(source.digest)}
    yield {"name": "tree", "digest": _digest(source.tree)}


def _parts(
    os: tuple[str, str], packages: Sequence[Installed], wheels: Sequence[Wheel]
) -> Iterator[Mapping[str, Any]]:
    """What was brought into it. A package database keeps no digest of the package files; of rpm's it has that of
    the header, which signatures cover."""
    for package in packages:
        part: dict[str, Any] = {"uri": purl(package, *os).to_string()}
        if package.header is not None:
            part["annotations"] = {"rpmHeaderSha256": package.header}
        yield part
    for one in wheels:
        yield {"uri": wheel(one.name, one.version).to_string()}


def _digest(text: str) -> dict[str, str]:
    return {"sha256": text.removeprefix("sha256:")}
