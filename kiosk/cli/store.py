"""`kiosk store`: what the repository's store holds, whether it is whole, and how it is kept so."""

from __future__ import annotations

from pathlib import Path

import typer

from kiosk.cli import common, keeping
from kiosk.cli.common import Json, emit, say, settings, table
from kiosk.errors import CorruptError, NotFoundError


def register(app: typer.Typer) -> None:
    """Adds `store`."""
    group = common.app("What the repository's store holds, whether it is whole, and how it is kept so.")
    group.command()(stats)
    group.command()(verify)
    group.command()(keeping.prune)
    group.command()(keeping.repair)
    app.add_typer(group, name="store")


def stats(ctx: typer.Context, json: Json = False) -> None:
    """Count versions, objects, and bytes.

    Example: `kiosk store stats --json`
    """
    from kiosk.publish import signed
    from kiosk.store import inventory

    listed = signed.listed(settings(ctx))
    found = inventory.stats(_repository(ctx), listed.versions, listed.past)
    if json:
        emit(found)
        return
    share = found.dead_bytes / max(1, found.pack_bytes)
    rows = [
        ("versions", found.versions, ""),
        ("their files", found.files, common.size(found.file_bytes)),
        ("objects", found.objects, common.size(found.object_bytes)),
        ("  packs", found.packs, common.size(found.pack_bytes)),
        ("    of that used by no version", "", f"{common.size(found.dead_bytes)} ({share:.0%})"),
        ("  indexes", found.indexes, common.size(found.index_bytes)),
        ("  differences and sums", found.helpers, common.size(found.helper_bytes)),
        ("  named by no version", found.unnamed, common.size(found.unnamed_bytes)),
    ]
    table(["", "number#", "size#"], rows)


def verify(ctx: typer.Context, json: Json = False) -> None:
    """Read every object again and name those that are damaged or missing (exit code 5).

    Example: `kiosk store verify`
    """
    from kiosk.progress import bar
    from kiosk.publish import signed
    from kiosk.store import inventory
    from kiosk.store.directory import DirectoryStore

    root = _repository(ctx)
    listed = signed.listed(settings(ctx))
    with bar("verify", sum(o.size for o in DirectoryStore(root).objects())) as shown:
        found = inventory.verify(root, shown.update, [*listed.versions, *listed.past])
    found = found.model_copy(update={"damaged": (*listed.wrong, *found.damaged)})
    if json:
        emit(found)
    else:
        for fault in found.damaged:
            say(f"{fault.path}: {fault.what}; needed by {', '.join(fault.versions) or 'no version'}")
    if found.damaged:
        raise CorruptError(
            f"{len(found.damaged)} of {found.objects} objects are damaged or missing",
            where=str(root),
            hint="Mend them from a mirror or from the built folders: kiosk store repair",
        )
    if not json:
        say(f"{found.objects} objects, {common.size(found.object_bytes)}: all whole")


def _repository(ctx: typer.Context) -> Path:
    root = settings(ctx).repository
    if not root.is_dir():
        raise NotFoundError("there is no repository", where=str(root), hint="Make one with: kiosk init")
    return root
