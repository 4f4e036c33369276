"""The workload file: groups of jobs that are alike, each with when it is submitted. Read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from kiosk.batch.api import Queue, Requirements
from kiosk.config import read_toml
from kiosk.model.base import Document

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/@+-]{1,100}$")]
GroupName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
MOST = 20_000
"""Jobs of a file."""
SLEEP = "/usr/bin/sleep"


def _argument(text: str) -> str:
    if "\0" in text or len(text) > 4096:
        raise ValueError("an argument has at most 4096 characters and no NUL")
    return text


class Jobs(Document):
    """`[[jobs]]`: `count` jobs, submitted `after` seconds after the file was first read with them. Each runs
    `command` (its program by an absolute path), or sleeps for `seconds`. One that takes longer than `limit` seconds is
    ended. `memory` is in MiB; `tags` and `values` are what its node must offer."""

    name: GroupName
    count: Annotated[int, Field(ge=1, le=MOST)] = 1
    cores: Annotated[int, Field(ge=1, le=4096)] = 1
    memory: Annotated[int, Field(ge=1, le=1 << 30)] | None = None
    seconds: Annotated[float, Field(gt=0, le=30 * 86400)] | None = None
    command: (
        Annotated[tuple[Annotated[str, AfterValidator(_argument)], ...], Field(min_length=1, max_length=100)]
        | None
    ) = None
    after: Annotated[float, Field(ge=0, le=366 * 86400)] = 0.0
    limit: Annotated[int, Field(ge=1, le=366 * 86400)] | None = None
    queue: Word = "default"
    user: Word = "workload"
    group: Word | None = None
    tags: Annotated[tuple[Word, ...], Field(max_length=100)] = ()
    values: Annotated[dict[Word, Word], Field(max_length=100, default_factory=dict)]

    @model_validator(mode="after")
    def _runs_something(self) -> Self:
        if (self.seconds is None) == (self.command is None):
            raise ValueError(f"the jobs {self.name} need `seconds` or `command`, and not both")
        if self.command is not None and not self.command[0].startswith("/"):
            raise ValueError(f"the program of the jobs {self.name} is not an absolute path")
        return self

    @property
    def argv(self) -> tuple[str, ...]:
        """What runs in the guest."""
        return self.command if self.command is not None else (SLEEP, f"{self.seconds:g}")

    @property
    def requirements(self) -> Requirements:
        """What one of the jobs needs."""
        return Requirements(
            cores=self.cores, memory=self.memory, run_limit=self.limit, tags=frozenset(self.tags),
            values=frozenset(self.values.items()),
        )  # fmt: skip


class QueueTable(Document):
    """`[queues.NAME]`: jobs of a higher `priority` go first."""

    priority: Annotated[int, Field(ge=0, le=1_000_000)] = 10


class WorkloadFile(Document):
    """The whole file."""

    jobs: Annotated[tuple[Jobs, ...], Field(min_length=1, max_length=1000)]
    queues: Annotated[dict[Word, QueueTable], Field(max_length=1000, default_factory=dict)]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        names = [one.name for one in self.jobs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two groups of jobs have the name {twice[0]}")
        if (total := sum(one.count for one in self.jobs)) > MOST:
            raise ValueError(f"there are {total} jobs, and a file has at most {MOST}")
        return self

    @classmethod
    def read(cls, path: Path) -> WorkloadFile:
        """Reads a file; UsageError names file and key."""
        return read_toml(path, cls)

    def queue(self, name: str) -> Queue:
        """A queue that jobs name, said in the file or not."""
        return Queue(name, self.queues.get(name, QueueTable()).priority, is_open=True)
