"""`kiosk export --hepix`: published images as files, and the signed HEPiX image list that names them.

Only what is published is exported, from the verified repository. The images come first and the list last, so that a
list never names a file that is not there; a list's version is above the one that stood there before.
"""

from __future__ import annotations

import email
import email.message
import gzip
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from kiosk import files
from kiosk.clock import Clock
from kiosk.errors import PolicyError, UsageError
from kiosk.exchange.image_list import DATE, order_of
from kiosk.model.manifest import ImageManifest
from kiosk.progress import bar
from kiosk.store.objects import ObjectSource
from kiosk.store.partial import index_file
from kiosk.sync.output import put
from kiosk.trust.signing.endorser import Endorser

OutFormat = Literal["raw", "qcow2"]
LIST_NAME = "image.list"
SYSTEMS = {
    "debian": "Debian",
    "almalinux": "AlmaLinux",
    "rocky": "Rocky Linux",
    "ubuntu": "Ubuntu",
    "centos": "CentOS",
}
PIECE = 1 << 20


@dataclass(frozen=True)
class Order:
    """What a list is to be: its identifier (a UUID), where its files will be served, how long it lasts."""

    identifier: uuid.UUID
    uri_base: str
    output: Path
    lasts: timedelta
    format: OutFormat = "raw"
    gzip: bool = False
    vo: str | None = None
    title: str | None = None
    email: str | None = None


@dataclass(frozen=True)
class Exported:
    """A file of the list."""

    manifest: ImageManifest
    identifier: uuid.UUID
    path: Path
    size: int
    sha512: str


@dataclass(frozen=True)
class Written:
    """A list that was written, and its files."""

    path: Path
    version: str
    expires: datetime
    images: tuple[Exported, ...]


def check(order: Order, endorser: Endorser, now: datetime) -> str:
    """Checks an order before anything is done, and returns the endorser's e-mail address. UsageError, ExpiredError,
    or PolicyError where the list would outlive the certificate that signs it."""
    if not re.fullmatch(r"https?://[\x21-\x7e]+", order.uri_base):
        raise UsageError(f"{order.uri_base!r} is not an http or https address", hint="--uri-base https://...")
    if not order.output.is_dir():
        raise UsageError("is not a folder", where=str(order.output))
    endorser.refuse_expired(now)
    endorser.refuse_other_use()
    ends = endorser.certificate.not_valid_after_utc
    if now + order.lasts > ends:
        raise PolicyError(
            f"the list would last until {now + order.lasts:%Y-%m-%d}, and its endorser's certificate ends "
            f"{ends:%Y-%m-%d}",
            hint=f"Use --expires {max(1, (ends - now).days)}d, or renew the certificate.",
        )
    address = order.email or endorser.email
    if not address:
        raise UsageError("the certificate has no e-mail address", hint="Give one with --email ADDRESS.")
    return address


def export(
    order: Order, endorser: Endorser, images: Sequence[ImageManifest], source: ObjectSource, now: Clock
) -> Written:
    """Writes the images' files and the signed list."""
    address = check(order, endorser, now())
    with files.locked(order.output / ".kiosk-export.lock", what="this export"):
        created = now()
        version = _version(order.output / LIST_NAME, created)
        exported = tuple(_image(order, manifest, source) for manifest in images)
        expires = created + order.lasts
        document = _document(order, endorser, address, version, created, expires, exported)
        content = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True).encode()
        files.write(order.output / LIST_NAME, endorser.sign(content))
    return Written(order.output / LIST_NAME, version, expires, exported)


def image_identifier(order: Order, name: str) -> uuid.UUID:
    """An image's identifier: the same for all versions of a name in one list, and no other's."""
    return uuid.uuid5(order.identifier, name)


def _image(order: Order, manifest: ImageManifest, source: ObjectSource) -> Exported:
    disk = manifest.artifacts["disk"]
    path = order.output / f"{manifest.name}-{manifest.version}.{order.format}"
    final = path.with_name(path.name + ".gz") if order.gzip else path
    with bar(f"export {manifest.ref}", disk.size) as progress:
        put(disk, source, path, format=order.format, progress=progress.update)
    index_file(path).unlink(missing_ok=True)
    if order.gzip:
        _compress(path, final)
    size, digest = _measure(final)
    return Exported(manifest, image_identifier(order, manifest.name), final, size, digest)


def _compress(path: Path, target: Path) -> None:
    """Compresses a file, without its date, and removes it."""
    with (
        path.open("rb") as f,
        files.replacing(target) as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as out,
    ):
        shutil.copyfileobj(f, out, PIECE)
    path.unlink()


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as f:
        digest = hashlib.file_digest(f, "sha512").hexdigest()
    return path.stat().st_size, digest


def _version(path: Path, created: datetime) -> str:
    """The new list's version: its moment. UsageError where the list that stands there has a higher one."""
    version = created.strftime("%Y%m%d.%H%M%S")
    before = _before(path)
    if before is not None and order_of(before) >= order_of(version):
        raise UsageError(
            f"the list there has the version {before}, and the new one would be {version}",
            where=str(path),
            hint="Readers refuse a version that is not higher. Is this machine's clock right?",
        )
    return version


def _before(path: Path) -> str | None:
    """The version of the list that is there; it is our own, so it is read without verifying it."""
    try:
        message = email.message_from_bytes(path.read_bytes())
    except FileNotFoundError:
        return None
    try:
        part = message.get_payload(0) if message.is_multipart() else message
        assert isinstance(part, email.message.Message)
        return str(json.loads(str(part.get_payload()))["hv:imagelist"]["hv:version"])
    except (ValueError, KeyError, TypeError, IndexError):
        raise UsageError(
            "is there, and is no image list",
            where=str(path),
            hint="Move it away, or choose another --output.",
        ) from None


def _document(
    order: Order,
    endorser: Endorser,
    address: str,
    version: str,
    created: datetime,
    expires: datetime,
    exported: Sequence[Exported],
) -> dict[str, Any]:
    base = order.uri_base.rstrip("/")
    title = order.title or "Images of kiosk"
    found: dict[str, Any] = {
        "dc:date:created": created.strftime(DATE),
        "dc:date:expires": expires.strftime(DATE),
        "dc:description": title,
        "dc:identifier": str(order.identifier),
        "dc:source": base,
        "dc:title": title,
        "hv:endorser": {
            "hv:x509": {
                "dc:creator": endorser.common_name,
                "hv:ca": endorser.authority,
                "hv:dn": endorser.name,
                "hv:email": address,
            }
        },
        "hv:images": [{"hv:image": _entry(order, one, base)} for one in exported],
        "hv:uri": f"{base}/{LIST_NAME}",
        "hv:version": version,
    }
    if order.vo:
        found["ad:vo"] = order.vo
    return {"hv:imagelist": found}


def _entry(order: Order, one: Exported, base: str) -> dict[str, Any]:
    """An image as readers of lists want it: none of their fields is missing or empty."""
    manifest = one.manifest
    return {
        "ad:mpuri": f"{base}/{one.identifier}:{manifest.version}/",
        "dc:description": manifest.description or manifest.name,
        "dc:identifier": str(one.identifier),
        "dc:title": manifest.name,
        "hv:format": order.format.upper(),
        "hv:hypervisor": "QEMU,KVM",
        "hv:size": one.size,
        "hv:uri": f"{base}/{one.path.name}",
        "hv:version": manifest.version,
        "sl:arch": manifest.architecture,
        "sl:checksum:sha512": one.sha512,
        "sl:comments": f"{manifest.ref}, made from the {manifest.source.kind} {manifest.source.name}",
        "sl:os": "Linux",
        "sl:osname": SYSTEMS.get(manifest.os, manifest.os),
        "sl:osversion": manifest.release,
    }
