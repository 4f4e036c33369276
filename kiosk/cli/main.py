"""The command line. One module a group of commands; this one puts them together."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated

import typer

from kiosk import config
from kiosk.cli import (
    agent,
    audit,
    build,
    common,
    context,
    demo,
    diff,
    export,
    fetch,
    fleet,
    golden,
    history,
    host,
    imports,
    key,
    layer,
    mirror,
    publish,
    push,
    recipe,
    revoke,
    rollout,
    scheduler,
    serve,
    show,
    store,
    vm,
)
from kiosk.errors import Interrupted, UsageError

app = common.app("Build, sign, distribute and contextualize virtual worker nodes for batch farms.")
GROUPS = (
    build,
    recipe,
    golden,
    audit,
    imports,
    export,
    key,
    publish,
    revoke,
    rollout,
    scheduler,
    show,
    history,
    diff,
    fetch,
    layer,
    store,
    serve,
    fleet,
    push,
    mirror,
    host,
    agent,
    vm,
    context,
    demo,
)
for group in GROUPS:
    group.register(app)


def version(wanted: bool) -> None:
    """Prints the version and ends."""
    if wanted:
        common.say(f"kiosk {importlib.metadata.version('kiosk')}")
        raise typer.Exit


@app.callback()
def start(
    ctx: typer.Context,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Configuration file (default /etc/kiosk/kiosk.toml).")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Reads the settings once for all commands."""
    common.verbosity(verbose, quiet)
    ctx.obj = config.load(config_file)


WrongUsage: type[BaseException] = typer.BadParameter.__mro__[1]
"""UsageError of the click that this typer uses: its own copy in newer versions, the package before."""


def call() -> None:
    """Runs a command; what is wrong with its arguments becomes a UsageError, Ctrl-C stays what it is."""
    try:
        status = app(standalone_mode=False, prog_name="kiosk")
    except WrongUsage as e:
        context = getattr(e, "ctx", None)
        where = context.command_path if context else None
        said = e.format_message() if hasattr(e, "format_message") else str(e)
        if not said:  # no arguments: the help was printed instead
            sys.exit(UsageError.exit_code)
        raise UsageError(said, where=where, hint=f"See {where or 'kiosk'} --help") from None
    if status == Interrupted.exit_code:  # typer has made an exit of KeyboardInterrupt
        raise KeyboardInterrupt
    if isinstance(status, int) and status != 0:  # typer.Exit(status)
        sys.exit(status)


def main() -> None:
    """The entry point of the `kiosk` command."""
    sys.exit(common.guard(call))
