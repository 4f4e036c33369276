"""`kiosk export`: published images for elsewhere, as files with a signed HEPiX image list."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kiosk.cli.common import DryRun, Json, emit, passphrase_source, say, settings, size, table
from kiosk.cli.key import PassphraseFile
from kiosk.cli.publish import Root, reader
from kiosk.cli.vm_common import seconds
from kiosk.errors import UsageError

if TYPE_CHECKING:
    from kiosk.config import Settings
    from kiosk.exchange.export import Order, Written
    from kiosk.model.manifest import ImageManifest


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("export")(export)


def export(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME[@VERSION]...", help="Published images.")],
    list_identifier: Annotated[
        str, typer.Option(metavar="UUID", help="The list's identifier: always the same for one list.")
    ],
    endorser_cert: Annotated[Path, typer.Option(help="The endorser's X.509 certificate, PEM.")],
    endorser_key: Annotated[Path, typer.Option(help="Its key, PEM, encrypted or not.")],
    uri_base: Annotated[str, typer.Option(help="Where the files will be served: https://...")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write into.")],
    hepix: Annotated[
        bool, typer.Option("--hepix", help="Write a HEPiX image list (the only kind there is).")
    ] = False,
    expires: Annotated[str, typer.Option(help="How long the list is valid: 28d, 12h.")] = "28d",
    format: Annotated[
        Literal["raw", "qcow2"], typer.Option(help="What the images' files are to be.")
    ] = "raw",
    gzip: Annotated[bool, typer.Option("--gzip", help="Compress the files (.gz).")] = False,
    vo: Annotated[str | None, typer.Option(help="The virtual organisation that the list is for.")] = None,
    title: Annotated[str | None, typer.Option(help="The list's title.")] = None,
    email: Annotated[
        str | None, typer.Option(help="The endorser's address (default: the certificate's).")
    ] = None,
    passphrase_file: PassphraseFile = None,
    root: Root = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Writes published images as files, and a signed HEPiX image list of them for vmcatcher and its like.

    `kiosk export --hepix debian-12-worker --list-identifier 7b2c... --endorser-cert usercert.pem
    --endorser-key userkey.pem --uri-base https://kiosk.example.org/hepix --output /srv/hepix`
    """
    from kiosk import clock
    from kiosk.exchange.export import Order, check
    from kiosk.exchange.export import export as run
    from kiosk.store import locate
    from kiosk.trust.signing.endorser import read_endorser

    if not hepix:
        raise UsageError("say what kind of list to write", hint="--hepix")
    s = settings(ctx)
    endorser = read_endorser(endorser_cert, endorser_key, passphrase_source(passphrase_file))
    order = Order(
        identifier=_uuid(list_identifier),
        uri_base=uri_base,
        output=output,
        lasts=timedelta(seconds=seconds(expires)),
        format=format,
        gzip=gzip,
        vo=_line(vo, "--vo"),
        title=_line(title, "--title"),
        email=_line(email, "--email"),
    )
    check(order, endorser, clock.now())
    manifests = _published(s, names, root)
    if dry_run:
        _show_plan(order, manifests, endorser.name, json=json)
        return
    source = locate.source(s.url or s.repository, s.proxy, s.s3)
    _show_written(run(order, endorser, manifests, source, clock.now), endorser.name, json=json)


def _uuid(text: str) -> uuid.UUID:
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise UsageError(f"{text[:80]!r} is not a UUID", hint="Make one once with `uuidgen`, and keep it.")
    return uuid.UUID(text)


def _line(text: str | None, option: str) -> str | None:
    if text is not None and (not text or len(text) > 300 or not text.isprintable()):
        raise UsageError(f"{option} is not one line of at most 300 characters")
    return text


def _published(s: Settings, names: list[str], root: Path | None) -> list[ImageManifest]:
    """The manifests of images, verified. Each name once: a list has one version of an image."""
    from kiosk.model.manifest import ImageManifest
    from kiosk.model.names import ImageRef

    found: list[ImageManifest] = []
    with reader(s, root) as repository:
        for text in names:
            manifest = repository.manifest(ImageRef.parse(text))
            assert isinstance(manifest, ImageManifest)
            if manifest.name in [m.name for m in found]:
                raise UsageError(f"{manifest.name} is named twice: a list has one version of an image")
            found.append(manifest)
    return found


def _show_plan(order: Order, manifests: list[ImageManifest], signer: str, *, json: bool) -> None:
    if json:
        emit({"images": [str(m.ref) for m in manifests], "signer": signer, "output": order.output})
        return
    for manifest in manifests:
        say(f"would write {manifest.ref} as {order.format}{'.gz' if order.gzip else ''} into {order.output}")
    say(f"would sign the list {order.identifier} as {signer}")


def _show_written(done: Written, signer: str, *, json: bool) -> None:
    if json:
        emit(
            {
                "list": done.path,
                "version": done.version,
                "expires": done.expires.isoformat(),
                "signer": signer,
                "images": [
                    {
                        "image": str(i.manifest.ref),
                        "identifier": str(i.identifier),
                        "file": i.path,
                        "size": i.size,
                        "sha512": i.sha512,
                    }
                    for i in done.images
                ],
            }
        )
        return
    table(
        ["image", "identifier", "file", "size#"],
        [(i.manifest.ref, i.identifier, i.path.name, size(i.size)) for i in done.images],
    )
    say(
        f"{done.path}: version {done.version}, valid until {done.expires:%Y-%m-%d %H:%M} UTC, signed by {signer}"
    )
