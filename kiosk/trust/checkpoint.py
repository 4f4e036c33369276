"""The last good state: a consistent copy of all that a client has verified, replaced as a whole.

python-tuf keeps each file as soon as it verifies, so a read that fails half-way leaves files of two states
side by side. That is right for the next read, and useless for a guest. `good` always points at one whole
state, with the floors that its roles list: a newer floor takes the place of an older one in `targets`. The state
before it stays for those who are just reading it, and for a role that a newer state lacks, the last one that has it.

    good -> good.VERSION.DIGEST    ROLE.json   targets/.../floor.json   held.json: {role: good.VERSION.DIGEST}
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from kiosk.files import point, storage_errors, write

GOOD = "good"
HELD = "held.json"


def keep(
    metadata_dir: Path, versions: Mapping[str, int], floors: Mapping[str, bytes], lacking: Iterable[str] = ()
) -> None:
    """Makes the roles named (with their versions), and their floors by target path, the last good state. Of the
    roles that it lacks though they are offered, the last state that has them is held."""
    held = _held_for(metadata_dir, lacking)
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in floors.items()}
    state = json.dumps([versions, digests, held], sort_keys=True).encode()
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
            for path, data in floors.items():
                write(partial / "targets" / path, data)
            write(partial / HELD, json.dumps(held).encode())
            partial.rename(folder)
        point(link, name)
        for old in metadata_dir.glob(f"{GOOD}.*"):
            if old.name not in (name, before, *held.values(), *_held(metadata_dir / str(before)).values()):
                shutil.rmtree(old, ignore_errors=True)


def holder(good: Path, role: str) -> Path | None:
    """The last state before `good` that has a role which `good` lacks."""
    name = _held(good).get(role)
    found = good.with_name(name) if name is not None else None
    return found if found is not None and (found / f"{role}.json").exists() else None


def _held_for(metadata_dir: Path, roles: Iterable[str]) -> dict[str, str]:
    """Which states have these roles: the one that is good now, or those that it holds."""
    good = last_good(metadata_dir)
    if good is None:
        return {}
    found = {role: good.name if (good / f"{role}.json").exists() else holder(good, role) for role in roles}
    return {role: Path(state).name for role, state in found.items() if state is not None}


def _held(state: Path) -> dict[str, str]:
    """What a state holds of roles that it lacks."""
    try:
        return dict(json.loads((state / HELD).read_bytes()))
    except FileNotFoundError:
        return {}


def last_good(metadata_dir: Path) -> Path | None:
    """The folder of the last good state; None before the first."""
    folder = (metadata_dir / GOOD).resolve()
    return folder if folder.is_dir() else None
