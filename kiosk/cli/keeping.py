"""`kiosk store prune` and `repair`: what keeps the repository's store small and whole."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from kiosk.cli.common import DryRun, Json, Wait, emit, passphrase_source, say, settings, size
from kiosk.cli.key import PassphraseFile
from kiosk.errors import CorruptError, NotFoundError, UsageError

if TYPE_CHECKING:
    from kiosk.publish.prune import Pruned


def prune(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Images and layers; all, if none are named."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="Keep the newest N versions of each name (`keep` in kiosk.toml)."),
    ] = None,
    keep_days: Annotated[
        int | None, typer.Option(min=0, help="Keep what was made in the last D days (`keep_days`).")
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option(min=0, metavar="HOURS", help="Leave what is unneeded for so long (`grace_hours`: 24)."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    wait: Wait = 0,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Withdraw old versions, and remove what no version has needed for the grace period.

    A version is kept if `--keep` or `--keep-days` keeps it; without both, all are. The newest always is.

    Example: `kiosk store prune --keep 5 --keep-days 30 --dry-run`
    """
    from kiosk.model.names import parse_ref
    from kiosk.publish.prune import prune as work
    from kiosk.publish.retention import Rule

    s = settings(ctx)
    refs = [parse_ref(name) for name in names or []]
    for ref in refs:
        if ref.version is not None:
            raise UsageError(f"{ref} is one version", hint=f"Name the image or layer: {ref.base}")
    chosen = keep is not None or keep_days is not None
    rule = Rule(keep, keep_days) if chosen else Rule(s.keep, s.keep_days)
    hours = s.grace_hours if grace is None else grace
    ask = passphrase_source(passphrase_file)
    done = work(s, ask, rule, refs, grace=timedelta(hours=hours), dry_run=dry_run, wait=wait)
    if json:
        emit({**vars(done), "dry_run": dry_run, **_lists(done)})
        return
    _show(done, dry_run=dry_run)


def repair(
    ctx: typer.Context,
    mirror: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="URL|FOLDER", help="A repository that has the same objects: a mirror."
        ),
    ] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Mend damaged or missing objects: from a mirror, else from the built files where they are still there.

    Exit code 5 when something could not be mended; it is named, with the versions that need it.

    Example: `kiosk store repair --from https://mirror.example.org/kiosk`
    """
    from kiosk.progress import bar
    from kiosk.publish.repair import repair as work
    from kiosk.store.directory import DirectoryStore

    s = settings(ctx)
    if not s.repository.is_dir():
        raise NotFoundError(
            "there is no repository", where=str(s.repository), hint="Make one with: kiosk init"
        )
    with bar("repair", sum(o.size for o in DirectoryStore(s.repository).objects())) as shown:
        done = work(s, mirror, shown.update, dry_run=dry_run)
    if json:
        emit({"objects": done.objects, "mends": [vars(m) for m in done.mends], "dry_run": dry_run})
    else:
        for one in done.mends:
            way = "not mended" if one.way is None else f"{'would be ' if dry_run else ''}mended {one.way}"
            say(f"{one.path}: {one.what}; {way}; needed by {', '.join(one.versions) or 'no version'}")
    if done.left:
        raise CorruptError(
            f"{len(done.left)} of {len(done.mends)} damaged or missing files could not be mended",
            where=str(s.repository),
            hint="Name a mirror that has them with --from, or publish the versions named anew as higher versions.",
        )
    if not json:
        say(f"{done.objects} objects read, {len(done.mends)} files were wrong.")


def _lists(done: Pruned) -> dict[str, object]:
    return {"left": [vars(one) for one in done.left], "signatures": [vars(one) for one in done.signatures]}


def _show(done: Pruned, *, dry_run: bool) -> None:
    would = "Would withdraw" if dry_run else "Withdrew"
    say(f"{would} {', '.join(done.withdrawn) or 'no version'}.")
    for left in done.left:
        say(f"Not withdrawn: {', '.join(left.versions)}: {left.reason}")
    would = "Would remove" if dry_run else "Removed"
    say(f"{would} {done.removed} files, {size(done.removed_bytes)}.")
    if done.next is not None:
        say(
            f"{done.waiting} files, {size(done.waiting_bytes)}, wait for the end of their grace, "
            f"the first until {done.next:%Y-%m-%d %H:%M} UTC."
        )
    share = done.dead_bytes / max(1, done.pack_bytes)
    say(f"Packs have {size(done.pack_bytes)}, {share:.0%} of it used by no version.")
    if done.avoided_packs:
        say(f"{done.avoided_packs} of them will not be used by later versions, and go with the old ones.")
