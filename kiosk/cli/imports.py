"""`kiosk import`: images from elsewhere, files and those of HEPiX image lists."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kiosk.cli.common import DryRun, Json, emit, say, settings, size, table
from kiosk.errors import UsageError

if TYPE_CHECKING:
    from kiosk.config import Settings
    from kiosk.exchange.formats import Format
    from kiosk.exchange.hepix import Choice, Verified
    from kiosk.exchange.imported import Imported, Wanted

GB = 1_000_000_000
FormatName = Literal["raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx", "ova"]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("import")(import_)


def import_(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A disk image.")] = None,
    name: Annotated[str | None, typer.Option(help="The image's name here.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Its version (default: the day's next one, or that of the list).")
    ] = None,
    format: Annotated[
        FormatName | None, typer.Option(help="The file's format (default: by its first bytes).")
    ] = None,
    description: Annotated[str, typer.Option(help="A line that says what it is.")] = "",
    max_size: Annotated[int, typer.Option(min=1, metavar="GB", help="The largest disk to accept.")] = 200,
    hepix: Annotated[
        str | None, typer.Option(metavar="URL|FILE", help="A HEPiX image list to import from.")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            help="Certification authorities that may vouch for the list's endorser: a PEM file or a folder."
        ),
    ] = None,
    endorser: Annotated[
        str | None, typer.Option(metavar="DN", help="The only endorser to believe, /DC=ch/.../CN=Jane Doe.")
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option(metavar="IDENTIFIER", help="An image of the list; repeat for more.")
    ] = None,
    all_list: Annotated[bool, typer.Option("--all-list", help="All images of the list.")] = False,
    show_list: Annotated[
        bool, typer.Option("--list", help="Show what the list has, and import nothing.")
    ] = False,
    allow_sha1: Annotated[
        bool, typer.Option("--allow-sha1", help="Believe lists and certificates that are signed with SHA-1.")
    ] = False,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Makes a version of an image from elsewhere, kept as it is; `kiosk publish` publishes it like any other.

    `kiosk import server.qcow2 --name legacy-server --version 3`

    `kiosk import --hepix https://cernvm.example.org/image.list --ca /etc/grid-security/certificates --list`

    Of a HEPiX list nothing is used before its signature, endorser, dates and version hold, and each image has its
    size and SHA-512. Exit code 5: something does not hold. 10: an image is refused, such as one that names others.
    """
    s = settings(ctx)
    if (file is None) == (hepix is None):
        raise UsageError("name a FILE, or a list with --hepix", hint="See kiosk import --help")
    if file is not None:
        if name is None:
            raise UsageError("the image needs a name", hint="--name NAME")
        if ca or endorser or image or all_list or show_list:
            raise UsageError("--ca, --endorser, --image, --all-list and --list are for --hepix")
        wanted = _wanted(name, version, format, description, max_size, file)
        _import_file(s, file, wanted, json=json, dry_run=dry_run)
        return
    assert hepix is not None
    if ca is None:
        raise UsageError(
            "a list is believed only if an authority vouches for its endorser",
            hint="Name it with --ca FILE or --ca /etc/grid-security/certificates",
        )
    if format is not None or description:
        raise UsageError("--format and --description are for a FILE: a list says them itself")
    from kiosk.exchange.hepix import Trust, choose, verified

    found = verified(s, hepix, Trust(ca, endorser, allow_sha1))
    if show_list:
        _show_list(found, json=json)
        return
    if bool(image) == all_list:
        raise UsageError(
            "say which images of the list", hint="--image IDENTIFIER, or --all-list; --list shows them"
        )
    chosen = choose(found.list, image or [], everything=all_list, name=name, version=version)
    _import_list(s, found, chosen, hepix, max_size * GB, json=json, dry_run=dry_run)


def _wanted(
    name: str, version: str | None, format: Format | None, description: str, max_size: int, file: Path
) -> Wanted:
    from kiosk.exchange.imported import Wanted
    from kiosk.model.names import ImageRef, Version

    ref = ImageRef.parse(name)
    if ref.version is not None and version is not None:
        raise UsageError("the version is named twice")
    if len(description) > 300 or not description.isprintable():
        raise UsageError("the description is not one line of at most 300 characters")
    return Wanted(
        name=ref.name,
        version=Version.parse(version) if version else ref.version,
        format=format,
        description=description,
        most=max_size * GB,
        parameters={"file": file.name},
    )


def _import_file(s: Settings, file: Path, wanted: Wanted, *, json: bool, dry_run: bool) -> None:
    from kiosk.exchange.imported import import_file, look

    if dry_run:
        format, compression = look(file, wanted.format)
        target = s.images / wanted.name / str(wanted.version or "VERSION")
        facts = {"file": file, "format": format, "compression": compression, "target": target}
        said = f"{format}, compressed with {compression}" if compression else format
        emit(facts) if json else say(f"would import {file} ({said}) into {target}")
        return
    _show_imported([import_file(s, file, wanted)], json=json)


def _import_list(
    s: Settings, found: Verified, chosen: list[Choice], where: str, most: int, *, json: bool, dry_run: bool
) -> None:
    from kiosk.exchange.hepix import import_images

    if dry_run:
        rows = [
            {
                "image": f"{c.name}@{c.version}",
                "identifier": c.image.identifier,
                "uri": c.image.uri,
                "size": c.image.size,
            }
            for c in chosen
        ]
        if json:
            emit(rows)
        else:
            for c in chosen:
                say(f"would import {c.name}@{c.version} from {c.image.uri}, {size(c.image.size)}")
        return
    _show_imported(import_images(s, found, chosen, where=where, most=most), json=json)


def _show_imported(done: list[Imported], *, json: bool) -> None:
    if json:
        emit(
            [
                {
                    "image": str(one.manifest.ref),
                    "folder": one.folder,
                    "format": one.format,
                    "already": one.already,
                    "unread": one.unread,
                    "seconds": one.seconds,
                    "manifest": one.manifest,
                }
                for one in done
            ]
        )
        return
    for one in done:
        manifest, disk = one.manifest, one.manifest.artifacts["disk"]
        if one.already:
            say(f"{manifest.ref} is here already, of the same file.")
            continue
        say(f"{manifest.ref}  {size(disk.size)}  {sum(one.seconds.values()):.0f} s (from {one.format})")
        say(f"  file      {manifest.source.name} {manifest.source.digest}")
        say(f"  disk      {disk.digest}")
        system = " ".join(dict.fromkeys((manifest.os, manifest.release)))
        say(f"  system    {system}, {len(manifest.partitions)} partitions")
        if one.unread is not None:
            say(f"            (its disk can't be read here: {one.unread})")
        say(f"  folder    {one.folder}")
        say("  It is kept as it came: no verity, no kernel beside its disk, no report when it is booted.")


def _show_list(found: Verified, *, json: bool) -> None:
    images = found.list.images
    if json:
        head = found.list.model_dump(mode="json", exclude={"entries", "endorser"})
        signed = {
            "signer": found.signed.signer,
            "authority": found.signed.authority,
            "digest": found.signed.digest,
        }
        emit({**head, **signed, "images": [i.model_dump(mode="json") for i in images]})
        return
    one = found.list
    say(f"{one.title or one.identifier}, version {one.version}, valid until {one.expires:%Y-%m-%d %H:%M} UTC")
    say(f"endorsed by {found.signed.signer}")
    say(f"        (of {found.signed.authority})")
    table(
        ["identifier", "title", "version", "system", "format", "size#"],
        [
            (
                i.identifier,
                i.title,
                i.version,
                " ".join(dict.fromkeys(x for x in (i.os_name or i.os, i.os_version, i.arch) if x)),
                i.format or "",
                size(i.size),
            )
            for i in images
        ],
    )
