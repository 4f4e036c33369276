"""`kiosk store`: what the repository's store holds, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

import typer

from kiosk.cli import common
from kiosk.cli.common import Json, emit, say, settings, table
from kiosk.errors import CorruptError, NotFoundError


def register(app: typer.Typer) -> None:
    """Adds `store`."""
    group = common.app("What the repository's store holds, and whether it is whole.")
    group.command()(stats)
    group.command()(verify)
    app.add_typer(group, name="store")


def stats(ctx: typer.Context, json: Json = False) -> None:
    """Count versions, objects, and bytes.

    Example: `kiosk store stats --json`
    """
    from kiosk.store import inventory

    found = inventory.stats(_repository(ctx))
    if json:
        emit(found)
        return
    rows = [
        ("versions", found.versions, ""),
        ("their files", found.files, common.size(found.file_bytes)),
        ("objects", found.objects, common.size(found.object_bytes)),
        ("  packs", found.packs, common.size(found.pack_bytes)),
        ("  indexes", found.indexes, common.size(found.index_bytes)),
        ("  named by no version", found.unnamed, common.size(found.unnamed_bytes)),
    ]
    table(["", "number#", "size#"], rows)


def verify(ctx: typer.Context, json: Json = False) -> None:
    """Read every object again and name those that are damaged or missing (exit code 5).

    Example: `kiosk store verify`
    """
    from kiosk.progress import bar
    from kiosk.store import inventory
    from kiosk.store.directory import DirectoryStore

    root = _repository(ctx)
    with bar("verify", sum(o.size for o in DirectoryStore(root).objects())) as shown:
        found = inventory.verify(root, shown.update)
    if json:
        emit(found)
    else:
        for fault in found.damaged:
            say(f"{fault.path}: {fault.what}; needed by {', '.join(fault.versions) or 'no version'}")
    if found.damaged:
        raise CorruptError(
            f"{len(found.damaged)} of {found.objects} objects are damaged or missing",
            where=str(root),
            hint="Publish the versions named again from their built folders, or copy the objects from a mirror.",
        )
    if not json:
        say(f"{found.objects} objects, {common.size(found.object_bytes)}: all whole")


def _repository(ctx: typer.Context) -> Path:
    root = settings(ctx).repository
    if not root.is_dir():
        raise NotFoundError("there is no repository", where=str(root), hint="Make one with: kiosk init")
    return root
