"""The statement of where an image came from, for recipes and for golden nodes."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from kiosk.build.provenance import statement
from kiosk.model.manifest import Artifact, Source
from kiosk.packages import Installed
from kiosk.packages.wheels import Wheel

ARTIFACTS = {
    key: Artifact(file=file, size=1, digest="sha256:" + digit * 64)
    for key, file, digit in [
        ("disk", "disk.raw", "1"),
        ("sbom", "sbom.json", "2"),
        ("kernel", "vmlinuz", "3"),
    ]
}
BASH = Installed("deb", "bash", "5.2-1", "amd64", "bash", "5.2-1")
OPENSSL = Installed("rpm", "openssl", "1:3.0.7-1", "x86_64", "openssl", "3.0.7-1", header="a" * 64)


def made(kind: Any, *packages: Installed, **internal: Any) -> dict[str, Any]:
    source = Source(
        kind=kind, name="node", digest="sha256:" + "d" * 64, tree="sha256:" + "e" * 64, date=1_780_000_000
    )
    data = statement(
        "20260528.1",
        source,
        ("almalinux", "9"),
        external={"definition": {"host": "golden.example.org"}},
        internal=internal,
        artifacts=ARTIFACTS,
        packages=packages,
        wheels=[Wheel("tuf", "7.0.1")],
    )
    again = statement(
        "20260528.1",
        source,
        ("almalinux", "9"),
        external={"definition": {"host": "golden.example.org"}},
        internal=dict(reversed(internal.items())),
        artifacts=dict(reversed(ARTIFACTS.items())),
        packages=packages,
        wheels=[Wheel("tuf", "7.0.1")],
    )
    assert again == data
    found: dict[str, Any] = json.loads(data)
    return found


def test_a_statement_has_the_fields_of_its_types_and_no_others() -> None:
    found = made("recipe", BASH)
    assert set(found) == {"_type", "subject", "predicateType", "predicate"}
    assert (found["_type"], found["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    assert [(s["name"], s["digest"]["sha256"][0]) for s in found["subject"]] == [
        ("disk.raw", "1"),
        ("sbom.json", "2"),
        ("vmlinuz", "3"),
    ]
    predicate = found["predicate"]
    assert set(predicate) == {"buildDefinition", "runDetails"}
    definition = predicate["buildDefinition"]
    assert set(definition) == {
        "buildType",
        "externalParameters",
        "internalParameters",
        "resolvedDependencies",
    }
    assert definition["externalParameters"]["version"] == "20260528.1"
    assert set(predicate["runDetails"]["builder"]) == {"id", "version"}
    for one in definition["resolvedDependencies"]:
        assert {"uri", "digest", "content"} & set(one), one  # a descriptor without any of them names nothing
        assert set(one) <= {"uri", "digest", "name", "annotations"}


def test_what_an_image_was_made_from_is_named_with_its_digests() -> None:
    parts = made("recipe", BASH, OPENSSL)["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert parts[0] == {"name": "recipes/images/node.toml", "digest": {"sha256": "d" * 64}}
    assert parts[1] == {"name": "tree", "digest": {"sha256": "e" * 64}}
    assert parts[3]["uri"] == "pkg:rpm/almalinux/openssl@3.0.7-1?arch=x86_64&distro=almalinux-9&epoch=1"
    assert parts[3]["annotations"] == {"rpmHeaderSha256": "a" * 64}
    assert parts[4] == {"uri": "pkg:pypi/tuf@7.0.1"}


def test_a_golden_node_says_how_it_was_captured_and_what_it_answered() -> None:
    found = made("golden-node", BASH, capture="qemu-backup", ready={"status": 0, "day": date(2026, 5, 28)})
    definition = found["predicate"]["buildDefinition"]
    assert definition["buildType"] == "https://kiosk.invalid/build/golden-node/v1"
    assert definition["externalParameters"]["definition"] == {"host": "golden.example.org"}
    assert definition["internalParameters"] == {
        "capture": "qemu-backup",
        "ready": {"status": 0, "day": "2026-05-28"},
        "sourceDate": 1_780_000_000,
    }
    assert definition["resolvedDependencies"][0]["name"] == "recipes/golden/node.toml"
