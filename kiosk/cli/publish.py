"""`kiosk publish`, `resign`: what gets into the repository; and the verified reader of one, for all commands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiosk import files
from kiosk.cli.audit import NoUpdates, gate
from kiosk.cli.common import DryRun, Json, Wait, emit, passphrase_source, say, settings, size, table
from kiosk.cli.key import PassphraseFile
from kiosk.config import Settings
from kiosk.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from kiosk.model.manifest import Artifact
    from kiosk.publish import Published, Together
    from kiosk.trust.client import TrustedRepository
    from kiosk.trust.signing.repository import Signature

Rolled = Annotated[
    bool,
    typer.Option("--rollout", help="Offer it to a few hosts first, then to more (see `kiosk rollout`)."),
]
Root = Annotated[
    Path | None, typer.Option("--root", help="Root of trust, needed the first time a URL is read.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("publish")(publish_image)
    app.command("resign")(resign)


def publish_image(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE[@VERSION]", help="A built image.")],
    passphrase_file: PassphraseFile = None,
    differences: Annotated[
        int | None,
        typer.Option(
            min=0, max=16, help="Versions before it to make differences to (default: the settings', 1)."
        ),
    ] = None,
    no_updates: NoUpdates = False,
    without_audit: Annotated[
        str | None,
        typer.Option(
            metavar="REASON", help="Publish without an audit, for this reason, which is published too."
        ),
    ] = None,
    rollout: Rolled = False,
    wait: Wait = 0,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Audits and signs a built image and puts it into the repository. `kiosk publish debian-12-minimal`

    The finished disk is audited first (`kiosk audit` alone shows all that it finds), and the report is published.
    Interrupted at any point it can be run again; readers see the old or the new state. A difference is a shorter
    way for hypervisors that hold that version; it takes about `difference_seconds` (settings; 2.5) of work.
    """
    from kiosk.model.names import ImageRef
    from kiosk.publish import built_folder, publish

    s = settings(ctx)
    if differences is not None:
        s = s.model_copy(update={"differences": differences})
    folder = built_folder(s, ImageRef.parse(image))
    checks = [gate(s, no_updates=no_updates, without=without_audit)]
    begin = together(s, dry_run=dry_run) if rollout else None
    ask = passphrase_source(passphrase_file)
    done = publish(s, folder, ask, checks=checks, together=begin, dry_run=dry_run, wait=wait)
    show_published(done, json=json, dry_run=dry_run)
    show_offer(s, done, asked=rollout, json=json, dry_run=dry_run)


def together(s: Settings, *, dry_run: bool) -> Together:
    """Begins a roll-out, by the plan of the settings, in the change that publishes a version."""
    from kiosk.rollout import sign
    from kiosk.rollout.plan import plans_file, read_plans

    plans = read_plans(plans_file(s))
    return sign.together(s, lambda ref: plans.of(ref.base), dry_run=dry_run)


def show_offer(s: Settings, done: Published, *, asked: bool, json: bool, dry_run: bool) -> None:
    """Says which hosts get a version that was published, where a roll-out decides that. PolicyError where a roll-out
    was asked for and the version had been published without one."""
    from kiosk.cli.rollout import known, offer
    from kiosk.errors import PolicyError

    found = [r for r, _ in known(s, None) if r.name == done.ref.base]
    mine = any(r.version == str(done.ref.version) for r in found)
    if asked and done.already and not mine:
        raise PolicyError(
            f"{done.ref} was published before, without this roll-out",
            hint=f"`kiosk rollout start {done.ref}` begins one.",
        )
    if json or dry_run or not found:
        return
    say(f"Roll-out: {offer(found[0])}.")
    if not mine:
        say(f"No host gets {done.ref} until `kiosk rollout start {done.ref}`.")


def show_published(done: Published, *, json: bool, dry_run: bool) -> None:
    """Says what a publication stored and signed (for layers as well)."""
    if json:
        emit(
            {
                "name": done.ref.base,
                "version": str(done.ref.version),
                "role": done.role,
                "already": done.already,
                "dry_run": dry_run,
                "size": done.size,
                "new_objects": done.new_objects,
                "new_bytes": done.new_bytes,
                "seconds": round(done.seconds, 3),
                "artifacts": [vars(a) for a in done.artifacts],
                "signatures": [vars(g) for g in done.signatures],
            }
        )
        return
    if done.already:
        say(f"{done.ref} is published already, the same to the byte.")
        return
    if dry_run:
        table(["file", "size#"], [(a.name, size(a.size)) for a in done.artifacts])
        say(f"Would store what is new of {size(done.size)} and sign {done.role}, snapshot, timestamp.")
        return
    table(
        ["file", "size#", "new objects#", "stored#", "difference#"],
        [
            (
                a.name,
                size(a.size),
                a.new_objects,
                size(a.new_bytes),
                " ".join(map(size, a.differences.values())),
            )
            for a in done.artifacts
        ],
    )
    say(
        f"Published {done.ref}: {size(done.size)}, of which {size(done.new_bytes)} in {done.new_objects} objects "
        f"had to be stored, in {done.seconds:.1f} s."
    )
    show_signatures(done.signatures)


def show_signatures(signatures: Sequence[Signature]) -> None:
    """Says what was signed, by which keys, until when."""
    table(
        ["signed", "version#", "by", "valid until (UTC)"],
        [(g.role, g.version, ", ".join(g.keys), f"{g.expires:%Y-%m-%d %H:%M}") for g in signatures],
    )


def resign(
    ctx: typer.Context,
    passphrase_file: PassphraseFile = None,
    wait: Wait = 0,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Renews the timestamp, and all that is near its end and whose key is here. `kiosk resign`

    Run it from a timer several times a day: the timestamp lasts 24 h, and readers refuse an expired one.
    """
    from kiosk.trust.signing.keys import Keys
    from kiosk.trust.signing.repository import Repository

    s = settings(ctx)
    ask = passphrase_source(passphrase_file)
    repository = Repository(s.repository, Keys(s.keys), ask, wait=wait)
    with repository.locked():
        if dry_run:
            near = repository.due()
            emit(near) if json else say(f"Would renew {', '.join(near)}.")
            return
        signatures, left = repository.resign()
    if json:
        emit(
            {
                "renewed": [vars(g) for g in signatures],
                "left": [{"role": r, "expires": e, "reason": why} for r, e, why in left],
            }
        )
        return
    show_signatures(signatures)
    for role, expires, why in left:
        say(f"{role} ends {expires:%Y-%m-%d %H:%M} UTC and was not renewed: {why}")


def read_artifact(s: Settings, artifact: Artifact) -> bytes:
    """A small file of a published version, verified."""
    from kiosk.store import locate
    from kiosk.store.fetch import fetch

    with files.scratch(s.home / "client") as folder:
        fetch(artifact, folder / artifact.file, locate.source(s.url or s.repository, s.proxy, s.s3))
        return (folder / artifact.file).read_bytes()


@contextlib.contextmanager
def reader(s: Settings, root: Path | None) -> Iterator[TrustedRepository]:
    """The verifying reader: of the URL in the settings with what it has seen kept, or of the local folder."""
    from kiosk.trust.client import TrustedRepository

    given = read_root(root or s.root)
    if s.url:
        known = s.host / "metadata" / "trusted-root.json"
        given = given or (read_root(known) if known.exists() else None)
        folder = s.home / "client"
        with files.locked(folder / "lock", what="the list of images"):
            yield TrustedRepository(folder / "metadata", s.url, given, s.proxy, s.s3)
        return
    anchor = s.repository / "metadata" / "1.root.json"
    if not anchor.exists():
        raise NotFoundError(
            "there is no repository here, and no URL of one is set",
            where=str(s.repository),
            hint="`kiosk init` makes one; KIOSK_URL (or `url` in kiosk.toml) names one elsewhere.",
        )
    with files.scratch(s.home / "client") as folder:
        yield TrustedRepository(folder / "metadata", s.repository, given or anchor.read_bytes())


def read_root(path: Path | None) -> bytes | None:
    """The root of trust that was named, of bounded size."""
    if path is None:
        return None
    try:
        with path.open("rb") as f:
            return f.read(1 << 20)
    except OSError as e:
        raise UsageError(f"can't read the root of trust: {e.strerror}", where=str(path)) from None
