"""What is told by where it lies: state, identity and histories at the places that `places.toml` lists.

Only files that hold something count (empty ones are what a clean image has), and not those that are to the byte what
their package brought.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from kiosk.audit.model import Hit
from kiosk.audit.sample import Sample
from kiosk.config import read_toml
from kiosk.disk.volume import Node
from kiosk.model.base import Document
from kiosk.model.manifest import GuestPath


class Place(Document):
    """Paths of one program's state. `links` when symbolic links count as well, `when` what must stand in the file
    (an expression; a line of its own with `^`)."""

    check: str
    what: str
    paths: tuple[GuestPath, ...]
    links: bool = False
    when: str | None = None


class Table(Document):
    """The file `places.toml`."""

    place: tuple[Place, ...]


@cache
def places() -> tuple[Place, ...]:
    """All places, as the file has them."""
    return read_toml(Path(__file__).with_name("places.toml"), Table).place


def state(nodes: Iterable[Node], pristine: Collection[bytes]) -> Iterator[Hit]:
    """The places at which something lies. `pristine` are the files that are what their package brought."""
    for node in nodes:
        found = _place(node.path, with_content=False)
        if found is None:
            continue
        is_file = stat.S_ISREG(node.mode) and node.size > 0 and node.path not in pristine
        if is_file or (found.links and stat.S_ISLNK(node.mode)):
            yield Hit(found.check, node.path, found.what)


def held(sample: Sample) -> Iterator[Hit]:
    """The same for places at which a file counts only when something stands in it."""
    found = _place(sample.path, with_content=True)
    if found is not None and found.when is not None and not sample.pristine:
        m = re.search(found.when.encode(), sample.data, re.M)
        if m is not None:
            yield sample.hit(found.check, found.what, m.start())


def _place(path: bytes, *, with_content: bool) -> Place | None:
    by_path, by_name = _compiled(with_content)
    m = by_name.fullmatch(path.rpartition(b"/")[2]) or by_path.fullmatch(path)
    return places()[m.lastindex - 1] if m is not None and m.lastindex is not None else None


@cache
def _compiled(with_content: bool) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """One expression for paths and one for names in any folder, which is most of the work; in both the number of
    the group is that of the place."""
    paths, names = [], []
    for found in places():
        counts = with_content == (found.when is not None)
        anywhere = [p for p in found.paths if p.startswith("/**/") and "/" not in p[4:]] if counts else []
        fixed = [p for p in found.paths if p not in anywhere] if counts else []
        paths.append(_either(fixed))
        names.append(_either([p[4:] for p in anywhere]))
    by_path, by_name = (re.compile("|".join(each).encode(), re.DOTALL) for each in (paths, names))
    return by_path, by_name


def _either(patterns: Sequence[str]) -> str:
    return "(" + ("|".join(map(_expression, patterns)) or "(?!)") + ")"


def _expression(pattern: str) -> str:
    """A pattern as an expression for bytes."""
    out = ""
    for part in re.findall(r"/\*\*/|\*\*|\*|\[[^\]]+\]|[^*\[/]+|/", pattern):
        if part == "/**/":
            out += "/(?:.*/)?"
        elif part == "**":
            out += ".+"
        elif part == "*":
            out += "[^/]*"
        elif part.startswith("["):
            out += part
        else:
            out += re.escape(part)
    return out
