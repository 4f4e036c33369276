"""The Python distributions that kiosk's agent brings into the guest, by their own metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path

from kiosk.errors import CorruptError
from kiosk.packages.installed import line
from kiosk.packages.tree import Folder, content

PLACE = "usr/lib/kiosk/python"
LARGEST = 1 << 20
FOLDER = re.compile(r"([A-Za-z0-9][A-Za-z0-9._]{0,100})-([A-Za-z0-9][A-Za-z0-9.!+_]{0,60})\.dist-info")


@dataclass(frozen=True)
class Wheel:
    """A distribution: its normalised name, its version, and its licence in its own words."""

    name: str
    version: str
    licence: str = ""


def wheels(root: Path) -> list[Wheel]:
    """Those below /usr/lib/kiosk/python of a tree, sorted. CorruptError for one without readable metadata."""
    tree = Folder(root)
    found = []
    for folder in tree.names(PLACE):
        if (name := FOLDER.fullmatch(folder)) is None:
            continue
        where = f"{PLACE}/{folder}/METADATA"
        data = content(tree, where, LARGEST)
        if data is None:
            raise CorruptError("is missing", where=f"/{where}")
        metadata = BytesParser().parsebytes(data, headersonly=True)
        licence = metadata.get("License-Expression") or metadata.get("License") or ""
        short = line(str(licence)) if len(str(licence)) <= 100 else ""
        found.append(Wheel(re.sub(r"[-_.]+", "-", name[1]).lower(), name[2], short))
    return sorted(found, key=lambda w: w.name)
