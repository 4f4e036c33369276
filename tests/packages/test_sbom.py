"""The bill of materials: valid, always the same, and quick."""

from __future__ import annotations

import json
import time
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from kiosk.model.manifest import Artifact
from kiosk.packages import Installed
from kiosk.packages.sbom import Image, sbom
from kiosk.packages.wheels import Wheel

ARTIFACTS = {
    key: Artifact(file=file, size=1, digest="sha256:" + digit * 64)
    for key, file, digit in [("disk", "disk.raw", "1"), ("kernel", "vmlinuz", "2"), ("initrd", "initrd", "3")]
}


def image(os: str = "debian", release: str = "bookworm") -> Image:
    return Image("worker", "20260301.1", "A node", os, release, 1_780_000_000, ARTIFACTS)


def deb(name: str, version: str, **more: Any) -> Installed:
    fields = {"architecture": "amd64", "source": name, "source_version": version, **more}
    return Installed(kind="deb", name=name, version=version, **fields)


DEBS = [
    deb("libssl3", "3.0.11-1~deb12u2", source="openssl", licences=("Apache-2.0", "GPL-1+ or Artistic")),
    deb("less", "1:590-2", vendor="Milan <milan@example.org>"),
    deb("libc6", "2.36-9"),
    deb("libc6", "2.36-9", architecture="i386"),
]
OPENSSL = Installed(
    "rpm",
    "openssl",
    "1:3.0.7-27.el9",
    "x86_64",
    "openssl",
    "3.0.7-27.el9",
    "AlmaLinux",
    ("ASL 2.0",),
    "a" * 64,
)


def test_it_holds_against_the_schema_and_names_all_that_is_in_the_image() -> None:
    data = sbom(image(), DEBS, [Wheel("urllib3", "2.8.0", "MIT")])
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    found = json.loads(data)
    whole = found["metadata"]["component"]
    assert (whole["name"], whole["version"], whole["type"]) == ("worker", "20260301.1", "operating-system")
    assert whole["hashes"] == [{"alg": "SHA-256", "content": "1" * 64}]
    assert found["metadata"]["timestamp"].startswith("2026-05-28T")
    urls = [c.get("purl") or c["bom-ref"] for c in found["components"]]
    assert sorted(urls) == [
        "file:initrd",
        "file:vmlinuz",
        "pkg:deb/debian/less@1:590-2?arch=amd64&distro=bookworm",
        "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=bookworm",
        "pkg:deb/debian/libc6@2.36-9?arch=i386&distro=bookworm",
        "pkg:deb/debian/libssl3@3.0.11-1~deb12u2?arch=amd64&distro=bookworm",
        "pkg:pypi/urllib3@2.8.0",
    ]
    openssl = next(c for c in found["components"] if c["name"] == "libssl3")
    assert openssl["properties"] == [{"name": "kiosk:source", "value": "openssl@3.0.11-1~deb12u2"}]
    depends = next(d for d in found["dependencies"] if d["ref"] == whole["bom-ref"])
    assert len(depends["dependsOn"]) == 7


def test_rpms_are_named_as_scanners_know_them() -> None:
    data = sbom(image("almalinux", "9"), [OPENSSL])
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    found = next(c for c in json.loads(data)["components"] if c["name"] == "openssl")
    assert found["purl"] == ("pkg:rpm/almalinux/openssl@3.0.7-27.el9?arch=x86_64&distro=almalinux-9&epoch=1")
    assert {"name": "kiosk:rpm:sha256header", "value": "a" * 64} in found["properties"]


def test_the_same_image_has_the_same_bill_and_another_another_number() -> None:
    first = sbom(image(), DEBS)
    assert first == sbom(image(), list(reversed(DEBS)))
    other = json.loads(sbom(image(), DEBS[1:]))
    assert other["serialNumber"] != json.loads(first)["serialNumber"]
    assert other["serialNumber"].startswith("urn:uuid:")


def test_the_bill_of_a_large_image_takes_less_than_a_second() -> None:
    many = [
        deb(f"package-{n}", f"1.{n}-1", vendor="X <x@example.org>", licences=("MIT",)) for n in range(600)
    ]
    began = time.process_time()
    data = sbom(image(), many)
    assert time.process_time() - began < 1
    assert len(json.loads(data)["components"]) == 602
