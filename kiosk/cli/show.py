"""`kiosk list`, `show`: what the repository offers, and what one version of it is, verified."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kiosk.cli import papers
from kiosk.cli.audit import published_report, verdict
from kiosk.cli.common import Json, emit, say, settings, size, table
from kiosk.cli.publish import Root, reader
from kiosk.config import Settings
from kiosk.errors import UsageError

if TYPE_CHECKING:
    from kiosk.model.manifest import Manifest
    from kiosk.trust.client import TrustedRepository
    from kiosk.trust.verified import RoleInfo


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("list")(list_all)
    app.command("show")(show)


def list_all(ctx: typer.Context, root: Root = None, json: Json = False) -> None:
    """Lists what the repository offers, verified, and what of it was revoked. `kiosk list --json`

    Reads the URL in the settings (or KIOSK_URL), else the repository on this machine.
    """
    with reader(settings(ctx), root) as repository:
        rows = [entry(repository, repository.manifest(ref)) for ref in repository.manifests()]
        problems = dict(repository.problems)
    if json:
        emit(rows)
    else:
        table(
            ["name", "version", "created (UTC)", "size#", "signed by", ""],
            [
                (
                    r["name"],
                    r["version"],
                    r["created"][:16].replace("T", " "),
                    size(r["size"]),
                    r["role"],
                    f"revoked: {r['revoked']}" if r["revoked"] else "",
                )
                for r in rows
            ],
        )
    for problem in problems.values():
        raise problem


def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="An image or a layer.")],
    root: Root = None,
    packages: Annotated[
        bool, typer.Option("--packages", help="Print its list of packages, as JSON.")
    ] = False,
    sbom: Annotated[
        bool, typer.Option("--sbom", help="Print its bill of materials: CycloneDX, as JSON.")
    ] = False,
    provenance: Annotated[
        bool, typer.Option("--provenance", help="Print where it came from: an in-toto statement, SLSA.")
    ] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Print the report of its audit, as JSON.")] = False,
    json: Json = False,
) -> None:
    """Shows a published version: files, digests, packages, who signed it and until when.

    `kiosk show debian-12-minimal`, `kiosk show debian-12-minimal@20260301.1 --sbom > sbom.json`

    What --packages, --sbom, --provenance and --audit print is the published file, byte for byte, verified.
    """
    from kiosk.model.names import parse_ref

    asked = {"packages": packages, "sbom": sbom, "provenance": provenance, "audit": audit}
    wanted = [paper for paper, yes in asked.items() if yes]
    if len(wanted) > 1:
        raise UsageError(f"one file at a time: {' or '.join(f'--{w}' for w in wanted)}")
    with reader(settings(ctx), root) as repository:
        manifest = repository.manifest(parse_ref(name))
        versions = [str(r.version) for r in repository.versions(manifest.ref)]
        roles = {r.name: r for r in repository.roles()}
        published = repository.published(manifest.ref)
        listed_as = entry(repository, manifest)
    if wanted:
        sys.stdout.buffer.write(papers.paper(settings(ctx), manifest, wanted[0]))
        sys.stdout.buffer.flush()
        return
    role = roles[manifest.ref.role]
    listed = papers.packages(settings(ctx), manifest)
    facts = {
        **listed_as,
        "published": published.isoformat() if published else None,
        "versions": versions,
        "signers": list(role.keyids),
        "threshold": role.threshold,
        "expires": {n: r.expires.isoformat() for n, r in roles.items() if n in (*TOP, role.name)},
        "packages": None if listed is None else len(listed),
        "builder": builder(settings(ctx), manifest),
        "audit": published_report(settings(ctx), manifest),
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
    if facts["revoked"]:
        say(f"REVOKED    {facts['revoked']}")
    say(f"created    {manifest.created:%Y-%m-%d %H:%M} UTC")
    if facts["published"]:
        say(f"published  {facts['published'][:16].replace('T', ' ')} UTC")
    say(f"versions   {', '.join(facts['versions'])}")
    if made_from(manifest):
        say(f"made from  {made_from(manifest)}")
    if facts["packages"] is not None:
        bill = manifest.artifacts.get("sbom")
        say(f"packages   {facts['packages']}" + (f"; bill of materials in {bill.file}" if bill else ""))
    if facts["builder"]:
        say(f"built by   {facts['builder']}")
    if facts["audit"] is not None:
        say(f"audit      {verdict(facts['audit'])} ({facts['audit'].date:%Y-%m-%d %H:%M} UTC)")
    say(f"signed by  {role.name}: {role.threshold} of {', '.join(k[:16] for k in role.keyids)}")
    for name, expires in facts["expires"].items():
        say(f"           {name} valid until {expires[:16].replace('T', ' ')} UTC")
    if manifest.torrent is not None:
        say(f"torrent    {manifest.torrent.infohash}")
    table(
        ["file", "size#", "digest"],
        [(a.file, size(a.size), a.digest) for a in manifest.artifacts.values()],
    )


def made_from(manifest: Manifest) -> str:
    """What an image was made from, and the beginning of its digest; nothing for a layer."""
    if manifest.schema_ != "kiosk.image/1":
        return ""
    source = manifest.source
    return f"{source.kind} {source.name} {source.digest.removeprefix('sha256:')[:12]}"


def builder(s: Settings, manifest: Manifest) -> str | None:
    """Who says in the version's provenance to have built it, and with what; None where nobody says so."""
    import json

    if manifest.artifacts.get("provenance") is None:
        return None
    try:
        found = json.loads(papers.paper(s, manifest, "provenance"))["predicate"]["runDetails"]["builder"]
        words = [str(found["id"]), *(f"{k} {v}" for k, v in sorted(found.get("version", {}).items()))]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return "".join(c if c.isprintable() else "?" for c in "  ".join(words))[:300]


def entry(repository: TrustedRepository, manifest: Manifest) -> dict[str, Any]:
    """One line of the list; `revoked` is the reason, where the version was."""
    floor = repository.floor(manifest.ref)
    return {
        "name": manifest.ref.base,
        "version": str(manifest.ref.version),
        "kind": "image" if manifest.schema_ == "kiosk.image/1" else "layer",
        "description": manifest.description,
        "created": manifest.created.isoformat(),
        "size": sum(a.size for a in manifest.artifacts.values()),
        "role": manifest.ref.role,
        "revoked": floor.reason if floor is not None and floor.fault(manifest.ref) else None,
    }
