"""Is the golden node up to date? Its own configuration management is asked; a node that isn't ready gives no image."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from kiosk.errors import PolicyError, UsageError
from kiosk.golden import hooks
from kiosk.golden.capture import Source
from kiosk.golden.settings import Ready


class NotReady(PolicyError):
    """The node's configuration management says that it is not up to date."""


def questions() -> Mapping[str, Mapping[str, Any]]:
    """The ready-made questions by name, each with `about` and `run`."""
    return tomllib.loads(files("kiosk.golden").joinpath("ready.toml").read_text(encoding="utf-8"))


def argv_of(ready: Ready) -> tuple[str, ...]:
    """The command that a `[ready]` table means; UsageError for a question that there is not."""
    if ready.run is not None:
        return ready.run
    known = questions()
    if ready.ask is None or ready.ask not in known:
        raise UsageError(
            f"ask: there is no question {ready.ask!r}", hint=f"Questions: {', '.join(sorted(known))}"
        )
    return tuple(known[ready.ask]["run"])


def ask(source: Source, ready: Ready | None) -> str | None:
    """Asks, and returns what was asked and answered, for the provenance; None where nothing is to be asked.

    NotReady with the last lines of the answer where the command's status is not 0; GuestError, NetworkError or
    BuildError where the question does not come to its end in `timeout` seconds.
    """
    if ready is None:
        return None
    argv = argv_of(ready)
    answer = (
        source.run(argv, timeout=ready.timeout) if ready.where == "node" else hooks.here(ready.timeout)(argv)
    )
    name = ready.ask or shlex.join(argv)
    said = hooks.last_lines(answer.output)
    if answer.status != 0:
        raise NotReady(
            f"the golden node is not ready: {name} ended with status {answer.status}"
            + (f"\n{said}" if said else ""),
            where=source.describe(),
            hint="Nothing was captured; the image of before stays.",
        )
    return f"{name}: {said.strip() or 'ready'}"
