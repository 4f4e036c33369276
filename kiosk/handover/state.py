"""HOST/handover.json: what was handed over to where. Written whole, after each step; what can't be read is empty."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from kiosk.errors import VerificationError
from kiosk.files import remove_leftovers, write
from kiosk.log import logger
from kiosk.model.base import Digest, Document

log = logger(__name__)

LARGEST = 16 << 20


class Entry(Document):
    """A version at a place. `digest` is its disk's; `done` that it was handed over whole, `going` that it was taken
    back and the cache is to give it up; `tries` failed, the last with `error`. `at` is seconds of the epoch."""

    place: str
    ref: Annotated[str, StringConstraints(max_length=200)]
    digest: Digest
    done: bool = False
    going: bool = False
    tries: Annotated[int, Field(ge=0)] = 0
    error: str | None = None
    at: int


class State(Document):
    """All entries."""

    schema_: Literal["kiosk.handover/1"] = Field("kiosk.handover/1", alias="schema")
    entries: tuple[Entry, ...] = ()

    def find(self, place: str, ref: str) -> Entry | None:
        """The entry of a version at a place."""
        return next((e for e in self.entries if e.place == place and e.ref == ref), None)

    def with_entry(self, entry: Entry) -> State:
        """The same with an entry in the place of the one before."""
        return State(entries=(*self.without(entry.place, entry.ref).entries, entry))

    def without(self, place: str, ref: str) -> State:
        """The same without an entry."""
        return State(entries=tuple(e for e in self.entries if (e.place, e.ref) != (place, ref)))


def read(path: Path) -> State:
    """What the file says. Without one that can be read nothing is known to be handed over, and all is looked at."""
    try:
        with path.open("rb") as f:
            return State.from_json(f.read(LARGEST), where=str(path))
    except FileNotFoundError:
        return State()
    except (OSError, VerificationError) as e:
        log.warning("the record of what was handed over is begun anew: %s", e)
        return State()


def save(path: Path, state: State) -> None:
    """Replaces the file. For one who holds the lock."""
    remove_leftovers(path)
    write(path, state.to_json())
