"""What is wrong at one place of a recipe, a base, or an element."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Fault:
    """`key` is the key of a TOML file, the line of a script, or empty for the whole file."""

    severity: Severity
    file: Path
    key: str
    what: str
    hint: str = ""
