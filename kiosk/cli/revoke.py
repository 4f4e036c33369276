"""`kiosk revoke`: versions that nobody may start any more."""

from __future__ import annotations

from typing import Annotated

import typer

from kiosk.cli.common import DryRun, Json, Wait, emit, passphrase_source, say, settings
from kiosk.cli.key import PassphraseFile
from kiosk.cli.publish import show_signatures


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("revoke")(revoke)


def revoke(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="An image, or a layer as KIND/OWNER/NAME.")],
    below: Annotated[str, typer.Option(metavar="VERSION", help="The lowest version that is still good.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, in a line that operators will read.")],
    force: Annotated[bool, typer.Option("--force", help="Also where no version is left then.")] = False,
    passphrase_file: PassphraseFile = None,
    wait: Wait = 0,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Revokes the versions of an image or layer below one: hosts don't start them, guests don't boot them.

    It is signed with the key that signs the versions, and can't be taken back: a floor only goes up.

    Example: `kiosk revoke debian-12-worker --below 20260301.2 --reason "CVE-2026-1234 in openssl"`
    """
    from kiosk.model.names import Version, parse_ref
    from kiosk.publish.revoke import revoke as sign

    ask = passphrase_source(passphrase_file)
    lowest = Version.parse(below)
    done = sign(settings(ctx), parse_ref(name), lowest, reason, ask, force=force, dry_run=dry_run, wait=wait)
    if json:
        emit(
            {
                "floor": done.floor,
                "revoked": done.revoked,
                "left": done.left,
                "already": done.already,
                "dry_run": dry_run,
                "signatures": [vars(g) for g in done.signatures],
            }
        )
        return
    versions = (
        f"revokes {', '.join(done.revoked)}" if done.revoked else "revokes no version that is published"
    )
    would = "Would sign: the" if dry_run and not done.already else "The"
    already = " (it was there already)" if done.already else ""
    say(f"{would} floor of {done.floor.name} at {done.floor.below} {versions}{already}.")
    if not done.left:
        say(f"No version of {done.floor.name} is left that may be started: publish one.")
    if done.signatures:
        show_signatures(done.signatures)
