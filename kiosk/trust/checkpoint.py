"""The last good state: a consistent copy of all that a client has verified, replaced as a whole.

python-tuf keeps each file as soon as it verifies, so a read that fails half-way leaves files of two states
side by side. That is right for the next read, and useless for a guest. `good` always points at one whole
state; the one before it stays for those who are just reading it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from kiosk.files import point, storage_errors, write

GOOD = "good"


def keep(metadata_dir: Path, versions: Mapping[str, int]) -> None:
    """Makes the roles named (with their versions) the last good state."""
    state = json.dumps(versions, sort_keys=True).encode()
    name = f"{GOOD}.{versions['timestamp']}.{hashlib.sha256(state).hexdigest()[:12]}"
    folder, link = metadata_dir / name, metadata_dir / GOOD
    with storage_errors(metadata_dir):
        before = str(link.readlink()) if link.is_symlink() else None
        if before == name:
            return
        if not folder.exists():
            partial = folder.with_name(f".{name}.new")
            shutil.rmtree(partial, ignore_errors=True)
            for file in (metadata_dir / "root_history").glob("*.root.json"):
                write(partial / "root_history" / file.name, file.read_bytes())
            for role in versions:
                write(partial / f"{role}.json", (metadata_dir / f"{role}.json").read_bytes())
            partial.rename(folder)
        point(link, name)
        for old in metadata_dir.glob(f"{GOOD}.*"):
            if old.name not in (name, before):
                shutil.rmtree(old, ignore_errors=True)


def last_good(metadata_dir: Path) -> Path | None:
    """The folder of the last good state; None before the first."""
    folder = (metadata_dir / GOOD).resolve()
    return folder if folder.is_dir() else None
