"""Logging: one line an event, on standard error; levels by --verbose and --quiet."""

from __future__ import annotations

import logging
import sys


def logger(name: str) -> logging.Logger:
    """The logger of a module: `log = logger(__name__)`."""
    return logging.getLogger(name)


def set_up(level: int) -> None:
    """Sends records of `level` and above to standard error. Called once, by the command line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("kiosk")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False
