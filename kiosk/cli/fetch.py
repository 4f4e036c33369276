"""`kiosk fetch`: an image straight from the kiosk to a file or a block device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kiosk.cli.common import DryRun, Json, emit, say, settings, size
from kiosk.cli.publish import Root, reader
from kiosk.errors import NotFoundError
from kiosk.progress import bar

if TYPE_CHECKING:
    from kiosk.model.manifest import Artifact, Manifest


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("fetch")(fetch)


def fetch(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="An image or a layer.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A file, or a block device (an LVM volume).")
    ],
    format: Annotated[Literal["raw", "qcow2"], typer.Option(help="What the file is to be.")] = "raw",
    file: Annotated[
        str | None, typer.Option(help="Which file of the version (default: its disk, or the layer).")
    ] = None,
    seed: Annotated[
        list[Path] | None,
        typer.Option(help="A local file, raw or qcow2, that may hold some of the bytes (may be repeated)."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The kiosk (default: KIOSK_URL or the configuration).")
    ] = None,
    proxy: Annotated[str | None, typer.Option(help="An HTTP proxy, such as the site's Squid.")] = None,
    root: Root = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Fetches an image to a file or a block device, verified. `kiosk fetch debian-12-worker -o /dev/vg/node1`

    A file appears when it is complete. A block device is written in place and complete only when the command
    ends with exit code 0; run it again after any other end, and it goes on from what is there. A version that was
    revoked is not fetched.
    """
    from kiosk.model.names import parse_ref
    from kiosk.store import locate
    from kiosk.sync.output import check, put

    s = settings(ctx)
    s = s.model_copy(update={"url": url or s.url, "proxy": proxy or s.proxy})
    check(output, format)
    with reader(s, root) as repository:
        manifest = repository.manifest(parse_ref(name))
        repository.refuse_revoked(manifest.ref)
    artifact = _artifact(manifest, file)
    facts = {
        "name": manifest.ref.base,
        "version": str(manifest.ref.version),
        "file": artifact.file,
        "size": artifact.size,
        "digest": artifact.digest,
        "output": output,
        "format": format,
        "dry_run": dry_run,
    }
    if dry_run:
        if json:
            emit(facts)
        else:
            say(f"Would make {output} {artifact.file} of {manifest.ref}, {size(artifact.size)} ({format}).")
        return
    source = locate.source(s.url or s.repository, s.proxy, s.s3)
    with bar(f"fetch {manifest.ref}", artifact.size) as progress:
        done = put(artifact, source, output, format=format, seeds=seed or (), progress=progress.update)
    if json:
        emit({**facts, **vars(done), "seconds": round(done.seconds, 3)})
        return
    say(
        f"{output} is {artifact.file} of {manifest.ref}, verified: {size(done.moved)} moved in "
        f"{done.requests} requests, {size(done.reused)} of {size(artifact.size)} were here already, "
        f"{done.seconds:.1f} s."
    )


def _artifact(manifest: Manifest, file: str | None) -> Artifact:
    """A file of a version by its key or its name; the disk or the layer when none is named."""
    found = manifest.artifacts
    if file is None:
        return found["disk"] if "disk" in found else found["layer"]
    for key, artifact in found.items():
        if file in (key, artifact.file):
            return artifact
    raise NotFoundError(f"{manifest.ref} has no file {file!r}", hint=f"Its files: {', '.join(sorted(found))}")
