"""The bill of materials of an image: CycloneDX 1.6, as JSON.

It lists the packages of the image's own database, the Python distributions of kiosk's agent, and the kernel and
initrd that are published beside the disk. The same image gives the same bytes: its serial number comes from its
content, its time is the image's source date.
"""

from __future__ import annotations

import importlib.metadata
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6

from kiosk.model.manifest import Artifact
from kiosk.packages.installed import Installed
from kiosk.packages.purl import purl, wheel
from kiosk.packages.wheels import Wheel

SERIAL = uuid.UUID("6f0c6f3a-5a0d-5d6e-9a52-0b7c3c6c6b10")
FILES = ("kernel", "initrd")


@dataclass(frozen=True)
class Image:
    """What the bill is of. `date` is the source date in seconds, `artifacts` the files made so far."""

    name: str
    version: str
    description: str
    os: str
    release: str
    date: int
    artifacts: Mapping[str, Artifact]


def sbom(image: Image, packages: Sequence[Installed], wheels: Sequence[Wheel] = ()) -> bytes:
    """The bill as JSON."""
    bom = Bom(serial_number=uuid.UUID(int=0))
    bom.metadata.timestamp = datetime.fromtimestamp(image.date, UTC)
    version = importlib.metadata.version("kiosk")
    bom.metadata.tools.components.add(
        Component(name="kiosk", version=version, type=ComponentType.APPLICATION)
    )
    whole = Component(
        name=image.name,
        version=image.version,
        description=image.description or None,
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref=f"{image.name}@{image.version}",
        hashes=_hashes(image.artifacts["disk"]),
        properties=[
            Property(name="kiosk:os", value=image.os),
            Property(name="kiosk:release", value=image.release),
        ],
    )
    bom.metadata.component = whole
    parts = list(_components(image, packages, wheels))
    bom.components.update(parts)
    bom.register_dependency(whole, parts)
    found = json.loads(JsonV1Dot6(bom).output_as_string())
    del found["serialNumber"]
    text = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    found["serialNumber"] = uuid.uuid5(SERIAL, text).urn
    return (json.dumps(found, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def _components(image: Image, packages: Sequence[Installed], wheels: Sequence[Wheel]) -> Iterator[Component]:
    for package in packages:
        url = purl(package, image.os, image.release)
        yield Component(
            name=package.name,
            version=package.version,
            bom_ref=url.to_string(),
            purl=url,
            publisher=package.vendor or None,
            licenses=[DisjunctiveLicense(name=name) for name in package.licences],
            properties=_properties(package),
        )
    for one in wheels:
        url = wheel(one.name, one.version)
        licences = [DisjunctiveLicense(name=one.licence)] if one.licence else []
        yield Component(
            name=one.name, version=one.version, bom_ref=url.to_string(), purl=url, licenses=licences
        )
    for key in FILES:
        if (artifact := image.artifacts.get(key)) is not None:
            yield Component(
                name=artifact.file,
                type=ComponentType.FILE,
                bom_ref=f"file:{artifact.file}",
                hashes=_hashes(artifact),
                description=f"The {key} that is published beside the disk",
            )


def _properties(package: Installed) -> Iterator[Property]:
    """What CycloneDX has no field for."""
    if (package.source, package.source_version) != (package.name, package.version):
        yield Property(name="kiosk:source", value=f"{package.source}@{package.source_version}")
    if package.header is not None:
        yield Property(name="kiosk:rpm:sha256header", value=package.header)


def _hashes(artifact: Artifact) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=artifact.digest.removeprefix("sha256:"))]
