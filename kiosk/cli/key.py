"""`kiosk init`, `kiosk key ...`, `kiosk delegate`: the keys of a repository, and who may sign what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kiosk.cli import common
from kiosk.cli.common import DryRun, Json, emit, passphrase_source, say, settings, table
from kiosk.errors import UsageError

PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", help="File with the passphrase (else KIOSK_PASSPHRASE_FILE, else asked for)."
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("init")(init)
    app.command("delegate")(delegate)
    group = common.app("The keys of this machine.")
    group.command("list")(list_keys)
    group.command("create")(create_key)
    group.command("show")(show_key)
    app.add_typer(group, name="key")


def init(
    ctx: typer.Context,
    root_keys: Annotated[int, typer.Option(help="How many root keys to make.")] = 3,
    threshold: Annotated[int, typer.Option(help="How many of them must sign a new root together.")] = 2,
    root_days: Annotated[int, typer.Option(help="Validity of the root, days.")] = 365,
    targets_days: Annotated[int, typer.Option(help="Validity of targets and delegated roles, days.")] = 90,
    snapshot_days: Annotated[int, typer.Option(help="Validity of the snapshot and of roll-outs, days.")] = 7,
    timestamp_hours: Annotated[int, typer.Option(help="Validity of the timestamp, hours.")] = 24,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Makes a repository: its keys, and empty signed metadata. `kiosk init --root-keys 3 --threshold 2`

    All keys get the same passphrase and stand in KIOSK_HOME/keys. Move `root-*.pem` to offline media
    afterwards (at least two places); signing images never needs them. `metadata/1.root.json` is the root of
    trust to give to hypervisors and images.
    """
    from pydantic import ValidationError

    from kiosk.model.base import explain
    from kiosk.trust.signing.create import create
    from kiosk.trust.signing.keys import Keys
    from kiosk.trust.signing.periods import Periods

    s = settings(ctx)
    try:
        periods = Periods(
            root=root_days, targets=targets_days, snapshot=snapshot_days, timestamp_hours=timestamp_hours
        )
    except ValidationError as e:
        raise UsageError(f"a period is out of range: {explain(e)}") from None
    made = create(
        s.repository,
        Keys(s.keys),
        passphrase_source(passphrase_file, confirm=True),
        root_keys=root_keys,
        threshold=threshold,
        periods=periods,
    )
    if json:
        emit(
            {
                "repository": s.repository,
                "root": made.root,
                "threshold": made.threshold,
                "keys": [{"name": k.name, "keyid": k.keyid} for k in made.keys],
            }
        )
        return
    say(f"Made the repository {s.repository}")
    say(f"and {len(made.keys)} keys in {s.keys}: {', '.join(k.name for k in made.keys)}")
    say(f"Root of trust, for hypervisors and images: {made.root}")
    say(f"A new root takes {made.threshold} of the root keys: move root-*.pem to offline media now.")
    say("The timestamp lasts " + f"{timestamp_hours} h: run `kiosk resign` from a timer.")


def list_keys(ctx: typer.Context, json: Json = False) -> None:
    """Lists the keys that are here and the roles they sign. `kiosk key list`"""
    from kiosk.trust.signing.keys import Keys

    s = settings(ctx)
    keys = Keys(s.keys)
    roles = signed_roles(ctx)
    rows = [
        {
            "name": name,
            "keyid": keys.public(name).keyid,
            "private": keys.has_private(name),
            "roles": roles.get(keys.public(name).keyid, []),
        }
        for name in keys.names()
    ]
    if json:
        emit(rows)
        return
    table(
        ["key", "signs", "private half", "key id"],
        [
            (
                r["name"],
                ", ".join(roles.get(str(r["keyid"]), [])) or "-",
                "here" if r["private"] else "-",
                str(r["keyid"])[:16],
            )
            for r in rows
        ],
    )


def signed_roles(ctx: typer.Context) -> dict[str, list[str]]:
    """Key id to the roles of the local repository that name it; empty where there is no repository."""
    from kiosk.errors import NotFoundError
    from kiosk.trust.signing.keys import Keys
    from kiosk.trust.signing.repository import Repository

    s = settings(ctx)
    try:
        return Repository(s.repository, Keys(s.keys), lambda _: b"").signers()
    except NotFoundError:
        return {}


def create_key(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="site-SITE, experiment-VO, or another name.")],
    out: Annotated[Path | None, typer.Option(help="Folder for it (default KIOSK_HOME/keys).")] = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Makes a key. `kiosk key create site-cern`

    Hand the .pub file to the kiosk's operator, who runs `kiosk delegate site/cern --key site-cern.pub`.
    """
    from kiosk.trust.signing.keys import Keys

    keys = Keys(out or settings(ctx).keys)
    made = keys.create(name, passphrase_source(passphrase_file, confirm=True)(name))
    public = keys.folder / f"{name}.pub"
    if json:
        emit({"name": name, "keyid": made.keyid, "public": public})
        return
    say(f"Made the key {name} ({made.keyid[:16]})")
    say(f"Public half, to hand over: {public}")


def show_key(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A key's name, or a .pub file.")],
    json: Json = False,
) -> None:
    """Shows the public half of a key. `kiosk key show site-cern`"""
    from kiosk.trust.signing.keys import Keys, read_public

    keys = Keys(settings(ctx).keys)
    found = read_public(Path(name)) if name.endswith(".pub") else keys.public(name)
    roles = signed_roles(ctx).get(found.keyid, [])
    if json:
        emit({"name": found.name, "keyid": found.keyid, "public": found.public, "roles": roles})
        return
    say(f"name     {found.name}")
    say(f"key id   {found.keyid}")
    say(f"public   {found.keytype} {found.public}")
    say(f"signs    {', '.join(roles) or '-'}")


def delegate(
    ctx: typer.Context,
    party: Annotated[str, typer.Argument(help="site/SITE, experiment/VO, images, or rollouts.")],
    key: Annotated[list[Path], typer.Option("--key", help="Public key file; may be given several times.")],
    threshold: Annotated[int, typer.Option(help="How many of the keys must sign together.")] = 1,
    replace: Annotated[bool, typer.Option(help="Exchange the keys of a delegation that exists.")] = False,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Lets a site or an experiment sign its own layers. `kiosk delegate site/cern --key site-cern.pub`

    Needs the keys targets, snapshot and timestamp; of the party only the public half.
    """
    from kiosk.trust.names import delegated_role, role_patterns
    from kiosk.trust.signing.keys import Keys, read_public
    from kiosk.trust.signing.repository import Repository

    s = settings(ctx)
    role = delegated_role(party)
    publics = [read_public(path) for path in key]
    repository = Repository(s.repository, Keys(s.keys), passphrase_source(passphrase_file))
    with repository.locked():
        if dry_run:
            repository.check_delegation(role, replace=replace)
            signatures = []
        else:
            signatures = repository.delegate(role, [p.key for p in publics], threshold, replace)
    if json:
        emit(
            {
                "role": role,
                "paths": role_patterns(role),
                "keys": [p.keyid for p in publics],
                "dry_run": dry_run,
            }
        )
        return
    who, what = ", ".join(p.name for p in publics), ", ".join(role_patterns(role))
    say(f"Would let {who} sign {what}" if dry_run else f"From now on {who} signs {what}")
    for done in signatures:
        say(f"signed {done.role} {done.version}, valid until {done.expires:%Y-%m-%d %H:%M} UTC")
