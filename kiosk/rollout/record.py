"""What the kiosk remembers of a roll-out beside the signed document: its plan, how far the stage is, which hosts took
part, and what was found. Lost or damaged, the roll-out goes on by the plans of the settings, its stage begun anew."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from kiosk import files
from kiosk.config import Settings
from kiosk.errors import VerificationError
from kiosk.log import logger
from kiosk.model.base import Document
from kiosk.model.names import Ref, VersionText
from kiosk.model.report import Base, HostName
from kiosk.model.rollout import State
from kiosk.rollout.health import MOST_HOSTS, Health
from kiosk.rollout.plan import Plan
from kiosk.rollout.step import Progress

log = logger(__name__)
ENTRIES = 500
Count = Annotated[int, Field(ge=0)]


class Entry(Document):
    """What one look found, or a person did."""

    at: datetime
    share: Count
    state: State
    done: Count = 0
    failed: Count = 0
    working: Count = 0
    silent: Count = 0
    said: str = ""

    def of(self, health: Health) -> Entry:
        """The same with a look's counts."""
        counts = {w: getattr(health, w) for w in ("done", "failed", "working", "silent")}
        return self.model_copy(update=counts)


class Record(Document):
    """The memory of one name's roll-out. `looked` is the last look; `history` has what was new, oldest first."""

    schema_: Literal["kiosk.rollout-record/1"] = Field("kiosk.rollout-record/1", alias="schema")
    name: Base
    version: VersionText
    plan: Plan
    started: datetime
    progress: Progress | None = None
    hosts: Annotated[tuple[HostName, ...], Field(max_length=MOST_HOSTS)] = ()
    looked: Entry | None = None
    history: Annotated[tuple[Entry, ...], Field(max_length=ENTRIES)] = ()

    def with_entry(self, entry: Entry) -> Record:
        """The record after one more look. A look that found nothing new replaces the last one in the history."""
        last = self.history[-1] if self.history else None
        same = last is not None and _gist(last) == _gist(entry)
        history = self.history if same else (*self.history, entry)[-ENTRIES:]
        return self.model_copy(update={"looked": entry, "history": history})


def _gist(entry: Entry) -> tuple[object, ...]:
    return entry.share, entry.state, entry.done, entry.failed, entry.working, entry.silent


def path_of(settings: Settings, ref: Ref) -> Path:
    """Where the record of a name stands."""
    return settings.home / "rollouts" / f"{ref.folder}record.json"


def read(path: Path) -> Record | None:
    """The record in a file; None where there is none that can be read."""
    try:
        return Record.from_json(path.read_bytes(), where=str(path))
    except FileNotFoundError:
        return None
    except VerificationError as e:
        log.warning("%s; its stage begins anew, by the plan of the settings", e)
        return None


def write(path: Path, record: Record) -> None:
    """Replaces the record."""
    files.write(path, record.to_json())
