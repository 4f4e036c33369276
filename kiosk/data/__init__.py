"""The data folders, `recipes/` and `server/`, wherever kiosk is installed or checked out."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """The path of a data folder: beside this file when installed, at the top of the checkout otherwise."""
    installed = Path(__file__).parent / name
    return installed if installed.is_dir() else Path(__file__).parents[2] / name
