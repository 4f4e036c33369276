"""`kiosk import --hepix`: images that a HEPiX image list endorses. Without verification nothing is imported.

First the list: its signature by an authority that was given, its endorser the one whom the list itself names, its
dates, its version not below what was seen before. Then each image: its size and SHA-512 while it is fetched, before
anything looks at its bytes. Then it is imported as any other file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from kiosk import clock
from kiosk.build.version import Timing
from kiosk.clock import Clock
from kiosk.config import Settings
from kiosk.errors import NotFoundError, PolicyError, UsageError, VerificationError
from kiosk.exchange import seen, smime
from kiosk.exchange.anchors import read_anchors
from kiosk.exchange.download import Expected, copy, download, fetch_bounded
from kiosk.exchange.formats import Format
from kiosk.exchange.image_list import Image, ImageList, read_list, refuse_dates
from kiosk.exchange.imported import MOST, Imported, Wanted, alone, make, needs
from kiosk.files import scratch, sha256, storage_errors
from kiosk.model.manifest import ImageManifest
from kiosk.model.names import NAME, Version
from kiosk.progress import bar

LARGEST_LIST = smime.LARGEST
FORMATS: dict[str, Format] = {
    "raw": "raw", "img": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vdi": "vdi",
    "vhd": "vhd", "vpc": "vhd", "vhdx": "vhdx", "ova": "ova",
}  # fmt: skip
"""What lists write in hv:format, in lower case."""


@dataclass(frozen=True)
class Trust:
    """Whom to believe: the authorities (a file or a folder), and the endorser if it is known which one it must be."""

    authorities: Path
    endorser: str | None = None
    weak: bool = False


@dataclass(frozen=True)
class Verified:
    """A list that holds, and who signed it."""

    list: ImageList
    signed: smime.Signed


@dataclass(frozen=True)
class Choice:
    """An image of a list, and what it will be here."""

    image: Image
    name: str
    version: Version


def verified(settings: Settings, where: str, trust: Trust, now: Clock = clock.now) -> Verified:
    """Reads a list from a URL or a file and verifies it. VerificationError, or ExpiredError, where it does not hold.
    Nothing is remembered of it yet."""
    message = _read(settings, where)
    anchors = read_anchors(trust.authorities)
    signed = smime.verify(message, anchors, settings.home / "scratch", where=where, weak=trust.weak)
    found = read_list(signed.content, where=where)
    if (found.dn, found.ca) != (signed.signer, signed.authority):
        raise VerificationError(
            f"names {found.dn} (of {found.ca}) as its endorser, and is signed by {signed.signer} "
            f"(of {signed.authority})",
            where=where,
            hint="Nothing of it was used.",
        )
    if trust.endorser not in (None, signed.signer):
        raise VerificationError(f"is endorsed by {signed.signer}, not by {trust.endorser}", where=where)
    refuse_dates(found, now(), where=where)
    memory = seen.seen_of(found, signed)
    seen.refuse_older(seen_folder(settings), memory, where=where, pinned=trust.endorser is not None)
    return Verified(found, signed)


def seen_folder(settings: Settings) -> Path:
    """Where it is kept what was seen of lists."""
    return settings.home / "image-lists"


def _read(settings: Settings, where: str) -> bytes:
    if _remote(where):
        return fetch_bounded(where, settings.proxy, LARGEST_LIST)
    path = Path(where.removeprefix("file://"))
    try:
        with path.open("rb") as f:
            data = f.read(LARGEST_LIST + 1)
    except OSError as e:
        raise NotFoundError(f"can't be read: {e.strerror}", where=where) from None
    if len(data) > LARGEST_LIST:
        raise VerificationError(f"is larger than {LARGEST_LIST} bytes", where=where)
    return data


def _remote(where: str) -> bool:
    return "://" in where and not where.startswith("file:///")


def choose(
    found: ImageList, identifiers: list[str], *, everything: bool, name: str | None, version: str | None
) -> list[Choice]:
    """The images to import, by identifier or all, and their names and versions here."""
    images = [i for i in found.images if everything or i.identifier in identifiers]
    missing = sorted(set(identifiers) - {i.identifier for i in images})
    if missing or not images:
        raise NotFoundError(
            f"the list has no image {missing[0]}" if missing else "the list has no images",
            hint="`kiosk import --hepix LIST --ca ... --list` shows what it has.",
        )
    if len(images) > 1 and (name or version):
        raise UsageError("--name and --version are for one image", hint="Choose one with --image IDENTIFIER.")
    chosen = [
        Choice(i, name or name_from(i), Version.parse(version) if version else version_from(i))
        for i in images
    ]
    for one in chosen:
        same = [c.image.identifier for c in chosen if (c.name, c.version) == (one.name, one.version)]
        if len(same) > 1:
            raise UsageError(
                f"two images of the list would be {one.name}@{one.version}: {', '.join(same[:2])}",
                hint="Import them one by one, with --image IDENTIFIER --name NAME.",
            )
    return chosen


def name_from(image: Image) -> str:
    """An image's name here, made of its title."""
    found = re.sub(r"[^a-z0-9]+", "-", image.title.lower()).strip("-")[:48].strip("-")
    if not re.fullmatch(NAME, found):
        raise UsageError(f"the title {image.title!r} makes no name", hint="Choose one with --name NAME.")
    return found


def version_from(image: Image) -> Version:
    """An image's version here: the numbers of its hv:version, four at the most."""
    numbers = [str(int(n)) for n in re.findall(r"[0-9]+", image.version)[:4]]
    if not numbers or len(numbers[0]) > 14 or any(len(n) > 9 for n in numbers[1:]):
        raise UsageError(f"{image.version!r} makes no version", hint="Choose one with --version VERSION.")
    return Version.parse(".".join(numbers))


def import_images(
    settings: Settings, list_: Verified, chosen: list[Choice], *, where: str, most: int = MOST
) -> list[Imported]:
    """Fetches and imports images of a verified list, and remembers the list. An image that is here already, of the
    same file, is not fetched again."""
    needs()
    for choice in chosen:
        _refuse(choice.image)
    with alone(settings):
        memory = seen.seen_of(list_.list, list_.signed)
        seen.refuse_older(seen_folder(settings), memory, where=where, pinned=True)
        seen.remember(seen_folder(settings), memory, where=where)
        local = not _remote(where)
        return [_import(settings, list_, choice, most, local=local) for choice in chosen]


def _refuse(image: Image) -> None:
    """PolicyError for what can't be run here, whatever it is."""
    if image.arch.lower() not in ("x86_64", "amd64", "x86-64"):
        raise PolicyError(f"is for {image.arch}, and kiosk runs x86_64", where=image.identifier)
    if image.format is not None and image.format.lower() not in FORMATS:
        raise PolicyError(
            f"has the format {image.format}, which kiosk doesn't know",
            where=image.identifier,
            hint=f"Formats: {', '.join(sorted(FORMATS))}",
        )


def _held(settings: Settings, choice: Choice) -> Imported | None:
    """The version, where it is here and was made of the file that the list names."""
    folder = settings.images / choice.name / str(choice.version)
    try:
        data = (folder / "manifest.json").read_bytes()
        asked = json.loads((folder / "provenance.json").read_bytes())["predicate"]["buildDefinition"]
        same = asked["externalParameters"].get("sha512") == choice.image.sha512.lower()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    manifest = ImageManifest.from_json(data, where=str(folder / "manifest.json"))
    return Imported(manifest, folder, None, {}, already=True) if same and manifest.imported else None


def _import(settings: Settings, list_: Verified, choice: Choice, most: int, *, local: bool) -> Imported:
    """Fetches and imports one image. A list from this machine may name files of this machine; one that came over the
    network may not."""
    held = _held(settings, choice)
    if held is not None:
        return held
    image = choice.image
    timing = Timing()
    expected = Expected(image.size, image.sha512)
    shown = image.uri.rsplit("/", 1)[-1][:200] or image.identifier
    with scratch(settings.home / "scratch", prefix="import-") as folder:
        file = folder / "copy"
        with (
            timing.step("fetch"),
            bar(f"fetch {shown}", image.size) as progress,
            storage_errors(settings.home),
        ):
            if local and image.uri.startswith("file:///"):
                copy(Path(image.uri.removeprefix("file://")), file, expected, progress.update)
            else:
                download(image.uri, file, expected, settings.proxy, progress.update)
        wanted = Wanted(
            name=choice.name,
            version=choice.version,
            format=FORMATS[image.format.lower()] if image.format else None,
            description=image.title[:300],
            most=most,
            os=_word(image.os_name or image.os),
            release=_word(image.os_version),
            parameters=_parameters(list_, image),
        )
        return make(settings, file, shown, sha256(file), wanted, folder, timing)


def _word(text: str) -> str | None:
    found = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-")[:40]
    return found or None


def _parameters(list_: Verified, image: Image) -> dict[str, str]:
    """What the provenance says of where an image is from."""
    return {
        "image": image.identifier,
        "image_version": image.version,
        "uri": image.uri,
        "sha512": image.sha512.lower(),
        "list": list_.list.identifier,
        "list_version": list_.list.version,
        "endorser": list_.signed.signer,
        "authority": list_.signed.authority,
    }
