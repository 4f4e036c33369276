"""Whatever the commands print: a Look, or a BatchError, and nothing else; no other error, no endless time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.batch.ask import Answer
from kiosk.batch.lsf import hosts, queues
from kiosk.batch.lsf import jobs as lsf_jobs
from kiosk.batch.lsf.tables import Streamed
from kiosk.batch.lsf.times import reader
from kiosk.batch.slurm import jobs as slurm_jobs
from kiosk.batch.slurm import nodes, shares
from kiosk.errors import BatchError
from tests.batch.programs import RECORDED, recorded
from tests.batch.test_lsf_ibm import RUNS, SHARES, WAITING, said, seat
from tests.batch.test_slurm_recorded import SHARES as SSHARE

WHEN = reader(datetime(2026, 11, 25, tzinfo=UTC))


def text_of(file: str, command: str) -> str:
    text = recorded(file)[command].text
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def slurm(name: str) -> str:
    return (RECORDED / "slurm" / name).read_text()


def pieces(answer: Answer) -> Generator[str, None, Answer]:
    """As the command's output comes: in pieces of whole lines."""
    lines = answer.text.splitlines(keepends=True)
    for i in range(0, len(lines), 5):
        yield "".join(lines[i : i + 5])
    return answer


def paragraphs(answer: Answer) -> object:
    found, _ = lsf_jobs.from_paragraphs(pieces(answer), WHEN, 0.0)
    return found.tally.pending(), found.tally.running()


def counted(read: Callable[[Answer], Any]) -> Callable[[Answer], object]:
    def both(answer: Answer) -> object:
        found = read(answer)
        return found.tally.pending(), found.tally.running()

    return both


COLUMNS = "^".join(name.upper() for name in lsf_jobs.FIELDS)
ROW = "^".join(RUNS[name.upper()] for name in lsf_jobs.FIELDS)
PARSERS: dict[str, tuple[Callable[[Answer], object], str]] = {
    "bjobs -l": (paragraphs, text_of("bjobs.txt", "bjobs -l -u all")),
    "bjobs -json": (
        counted(lambda a: lsf_jobs.from_json(Streamed(pieces(a), "JOBS"), WHEN, 0.0)),
        said("bjobs", "JOBS", WAITING, RUNS),
    ),
    "bjobs -o": (counted(lambda a: lsf_jobs.from_columns(a, WHEN, 0.0)), f"{COLUMNS}\n{ROW}\n{ROW}\n"),
    "bhosts -l": (hosts.seats, text_of("bhosts.txt", "bhosts -l")),
    "bhosts -w": (hosts.seats, text_of("bhosts.txt", "bhosts -w")),
    "bhosts -json": (hosts.seats, said("bhosts", "HOSTS", seat("wn1", "ok"))),
    "lshosts": (hosts.machines, text_of("lshosts.txt", "lshosts -w")),
    "bqueues -l": (queues.queues, SHARES),
    "bqueues": (queues.queues, text_of("bqueues.txt", "bqueues")),
    "squeue": (counted(lambda a: slurm_jobs.from_columns(a, 0.0)), slurm("squeue.txt")),
    "squeue --json": (counted(lambda a: slurm_jobs.from_json(a, 0.0)), slurm("squeue.json")),
    "sinfo --json": (lambda a: nodes.nodes(a, {}), slurm("sinfo.json")),
    "partitions": (nodes.partitions, slurm("partitions.txt")),
    "sshare": (shares.shares, SSHARE),
}
SIGNS = st.text(alphabet='\n\t "|^\x1f{}[]<>:,-09aZé\x00\x1b', max_size=8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("name", PARSERS)
def test_as_recorded_it_is_read(name: str) -> None:
    read, text = PARSERS[name]
    assert read(Answer(name, 0, text, ""))


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_damaged_it_is_read_or_refused(name: str, data: st.DataObject) -> None:
    read, text = PARSERS[name]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        until = at + data.draw(st.sampled_from([0, 1, 5, 80, 2000]))
        text = text[:at] + data.draw(SIGNS) + text[until:]
    with contextlib.suppress(BatchError):
        read(Answer(name, 0, text, ""))


@pytest.mark.parametrize("name", [name for name, (_, text) in PARSERS.items() if text.startswith("{")])
@given(data=st.data())
def test_json_of_other_kinds_is_read_or_refused(name: str, data: st.DataObject) -> None:
    read, text = PARSERS[name]
    document = json.loads(text)
    records = next(value for value in document.values() if isinstance(value, list) and value)
    record = records[data.draw(st.integers(0, len(records) - 1))]
    for key in data.draw(st.lists(st.sampled_from(sorted(record)), min_size=1, max_size=3)):
        record[key] = data.draw(ANYTHING)
    if data.draw(st.booleans()):
        document[data.draw(st.sampled_from(sorted(document)))] = data.draw(ANYTHING)
    with contextlib.suppress(BatchError):
        read(Answer(name, 0, json.dumps(document), ""))


@pytest.mark.parametrize("name", PARSERS)
@given(text=st.text(max_size=300))
def test_any_text_is_read_or_refused(name: str, text: str) -> None:
    read, _ = PARSERS[name]
    with contextlib.suppress(BatchError):
        read(Answer(name, 0, text, ""))
