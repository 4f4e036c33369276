"""What all commands share: settings, output for people and machines, errors as one clear message."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kiosk import config
from kiosk.errors import Interrupted, KioskError, UsageError
from kiosk.log import set_up
from kiosk.model.base import plain

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Wait = Annotated[
    float,
    typer.Option(min=0, metavar="SECONDS", help="Wait so long for another kiosk that has the repository."),
]


def app(help: str) -> typer.Typer:
    """A command group in the style of all the others."""
    return typer.Typer(
        help=help,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def settings(ctx: typer.Context) -> config.Settings:
    """The settings of this call, read once by the main callback."""
    found = ctx.find_root().obj
    assert isinstance(found, config.Settings)
    return found


def say(text: str = "") -> None:
    """Prints a line for people on standard output."""
    print(text, flush=True)


def emit(value: Any) -> None:
    """Prints a value as JSON on standard output."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False), flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a plain table; columns whose name ends in `#` are aligned right (the sign is not shown)."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(
            column.rstrip("#"), justify="right" if column.endswith("#") else "left", overflow="fold"
        )
    for row in rows:
        grid.add_row(*[str(cell) for cell in row])
    width = None if sys.stdout.isatty() else 160
    Console(markup=False, highlight=False, width=width).print(grid)


def size(n: float) -> str:
    """Bytes for people, in powers of 1000 as disks and networks are sold: 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n) < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def bytes_of(text: str) -> int:
    """A size as people write it: 20GB, 500MB, 1.5TB (powers of 1000), or bytes. UsageError."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([kMGT]?)B", text) or re.fullmatch(
        r"([0-9]{1,18})()", text
    )
    if found is None:
        raise UsageError(f"{text[:80]!r} is not a size", hint="Write 20GB, 500MB, or a number of bytes.")
    return int(float(found[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[found[2]])


def passphrase_source(file: Path | None, *, confirm: bool = False) -> Callable[[str], bytes]:
    """How a key's passphrase is asked for: a file, else KIOSK_PASSPHRASE_FILE, else the terminal."""
    named = file or (Path(v) if (v := os.environ.get("KIOSK_PASSPHRASE_FILE")) else None)

    def ask(key: str) -> bytes:
        if named is not None:
            try:
                return named.read_bytes().strip()
            except OSError as e:
                raise UsageError(f"can't read the passphrase: {e.strerror}", where=str(named)) from None
        if not sys.stdin.isatty():
            raise UsageError(
                f"the key {key} needs its passphrase and there is no terminal to ask on",
                hint="Use --passphrase-file FILE or set KIOSK_PASSPHRASE_FILE.",
            )
        return str(
            typer.prompt(f"Passphrase of {key}", hide_input=True, confirmation_prompt=confirm)
        ).encode()

    return ask


def report(error: KioskError) -> None:
    """Shows an error: one message on standard error, JSON where KIOSK_ERRORS=json."""
    if os.environ.get("KIOSK_ERRORS") == "json":
        fields: Mapping[str, object] = {
            "error": type(error).__name__,
            "what": error.what,
            "where": error.where,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        print(json.dumps(fields), file=sys.stderr)
    else:
        print(f"kiosk: {error}", file=sys.stderr)


def guard(call: Callable[[], object]) -> int:
    """Runs the command line and returns its exit code; SIGTERM ends it as Ctrl-C does, cleanly."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        call()
    except KioskError as e:
        report(e)
        return e.exit_code
    except (KeyboardInterrupt, typer.Abort):
        report(Interrupted("interrupted", hint="Nothing was left half-done; run the command again to go on."))
        return Interrupted.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def verbosity(verbose: bool, quiet: bool) -> None:
    """Sets the log level that --verbose and --quiet ask for."""
    set_up(logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING)
