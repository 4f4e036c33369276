"""`kiosk list`, `show`: what the repository offers, and what one version of it is, verified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kiosk.cli.common import Json, emit, say, settings, size, table
from kiosk.cli.publish import Root, read_artifact, reader
from kiosk.config import Settings

if TYPE_CHECKING:
    from kiosk.model.manifest import Manifest
    from kiosk.trust.client import RoleInfo


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("list")(list_all)
    app.command("show")(show)


def list_all(ctx: typer.Context, root: Root = None, json: Json = False) -> None:
    """Lists what the repository offers, verified. `kiosk list --json`

    Reads the URL in the settings (or KIOSK_URL), else the repository on this machine.
    """
    with reader(settings(ctx), root) as repository:
        rows = [entry(repository.manifest(ref)) for ref in repository.manifests()]
        problems = dict(repository.problems)
    if json:
        emit(rows)
    else:
        table(
            ["name", "version", "created (UTC)", "size#", "signed by"],
            [
                (r["name"], r["version"], r["created"][:16].replace("T", " "), size(r["size"]), r["role"])
                for r in rows
            ],
        )
    for problem in problems.values():
        raise problem


def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="An image or a layer.")],
    root: Root = None,
    json: Json = False,
) -> None:
    """Shows a published version: files, digests, packages, who signed it and until when.

    `kiosk show debian-12-minimal`, `kiosk show site/cern/batch@4 --json`
    """
    from kiosk.model.names import parse_ref

    with reader(settings(ctx), root) as repository:
        manifest = repository.manifest(parse_ref(name))
        versions = [str(r.version) for r in repository.versions(manifest.ref)]
        roles = {r.name: r for r in repository.roles()}
    role = roles[manifest.ref.role]
    facts = {
        **entry(manifest),
        "versions": versions,
        "signers": list(role.keyids),
        "threshold": role.threshold,
        "expires": {n: r.expires.isoformat() for n, r in roles.items() if n in (*TOP, role.name)},
        "packages": package_count(settings(ctx), manifest),
        "manifest": manifest,
    }
    if json:
        emit(facts)
        return
    show_text(manifest, facts, role)


TOP = ("root", "targets", "snapshot", "timestamp")


def show_text(manifest: Manifest, facts: dict[str, Any], role: RoleInfo) -> None:
    """The same facts for people."""
    say(f"{manifest.ref}  {manifest.description}")
    say(f"created    {manifest.created:%Y-%m-%d %H:%M} UTC")
    say(f"versions   {', '.join(facts['versions'])}")
    if facts["packages"] is not None:
        say(f"packages   {facts['packages']}")
    say(f"signed by  {role.name}: {role.threshold} of {', '.join(k[:16] for k in role.keyids)}")
    for name, expires in facts["expires"].items():
        say(f"           {name} valid until {expires[:16].replace('T', ' ')} UTC")
    table(
        ["file", "size#", "digest"],
        [(a.file, size(a.size), a.digest) for a in manifest.artifacts.values()],
    )


def entry(manifest: Manifest) -> dict[str, Any]:
    """One line of the list."""
    return {
        "name": manifest.ref.base,
        "version": str(manifest.ref.version),
        "kind": "image" if manifest.schema_ == "kiosk.image/1" else "layer",
        "description": manifest.description,
        "created": manifest.created.isoformat(),
        "size": sum(a.size for a in manifest.artifacts.values()),
        "role": manifest.ref.role,
    }


def package_count(s: Settings, manifest: Manifest) -> int | None:
    """How many packages the version's own list has; None where it has no list."""
    import json

    artifact = manifest.artifacts.get("packages")
    if artifact is None or artifact.index is None or artifact.size > 64 << 20:
        return None
    return len(json.loads(read_artifact(s, artifact)))
