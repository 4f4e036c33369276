"""LSF's tables: read by their headers, whatever columns there are, from JSON or text; half a table is an error.

Lines before the table (`Cannot connect to LSF. Please wait ...`) are passed over. A row that does not have the
header's columns is an error and never left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace

import orjson

from kiosk.batch.ask import Answer, plain
from kiosk.errors import BatchError

NO_JOBS = re.compile(r"\bNo (?:[a-z]+ ){0,3}jobs? found", re.IGNORECASE)
NO_OPTION = re.compile(
    r"\b(?:unknown|invalid|illegal|unrecognized|unsupported)\b.{0,60}\b(?:option|field|format|command)"
    r"|not a valid|cannot be used|\busage\s*:",
    re.IGNORECASE,
)
"""What a command says of an option, or a column, that it does not know."""
UNREACHED = re.compile(
    r"Cannot (?:locate|connect)|not responding|still trying|Communication time ?out|LSF is down|daemon (?:is )?down"
    r"|Failed in an LSF library call|batch (?:system|daemon)",
    re.IGNORECASE,
)
LONGEST = 1 << 24
"""Characters of one record."""
OPENING = re.compile(r'(?:\A|\n)\{[^\[]*?"RECORDS"\s*:\s*\[')
BETWEEN = re.compile(r"[\s,]*")
DECODER = json.JSONDecoder()
HINT = "is LSF up on its master? `lsid` and `badmin showstatus` say; nothing is concluded until it answers"


def records(answer: Answer, count: str) -> list[dict[str, str]]:
    """The records of a JSON answer, as many as `count` (JOBS, HOSTS, QUEUES) says. BatchError otherwise."""
    start, end = _beginning(answer.text), answer.text.rfind("}")
    if start < 0 or end < start:
        raise unread(answer, "printed no JSON")
    try:
        document = orjson.loads(answer.text[start : end + 1].encode(errors="replace"))
    except orjson.JSONDecodeError as e:
        raise unread(answer, f"printed JSON that can't be read ({e})") from None
    found = document.get("RECORDS") if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise unread(answer, "printed JSON without RECORDS")
    if any("ERROR" in record for record in found):
        error = next(record["ERROR"] for record in found if "ERROR" in record)
        raise unread(answer, f"printed an error: {plain(str(error))}")
    said = str(document.get(count, len(found)))
    if said != str(len(found)):
        raise unread(answer, f"says {count} {plain(said)}, but printed {len(found)} of them")
    return found


class Streamed:
    """The records of a JSON answer, read while they are printed, as many as `count` says. `begun` is whether there was
    JSON at all; `answer` is how the command ended, with what it printed where that was none."""

    def __init__(self, pieces: Generator[str, None, Answer], count: str) -> None:
        self._pieces, self._count = pieces, count
        self.begun = False
        self.answer = Answer("bjobs -json", 0, "", "")

    def __iter__(self) -> Iterator[dict[str, str]]:
        text, head = "", None
        while head is None:
            more = self._more()
            if more is None or len(text) > LONGEST:
                self.answer = replace(self.answer, text=text)
                return
            text += more
            head = OPENING.search(text)
        self.begun = True
        number, at, ended = 0, head.end(), False
        while not ended:
            at = BETWEEN.match(text, at).end()  # type: ignore[union-attr]
            ended = text[at : at + 1] == "]"
            record, after = (None, at) if ended else self._record(text, at)
            if record is not None:
                number, at = number + 1, after
                yield record
            elif not ended:
                more = self._more()
                if more is None or len(text) - at > LONGEST:
                    raise unread(self.answer, "printed JSON that ends in the middle")
                text, at = text[at:] + more, 0
        self._confirm(head[0] + text[at : at + LONGEST], number)

    def _more(self) -> str | None:
        try:
            return next(self._pieces)
        except StopIteration as end:
            self.answer = end.value
            return None

    def _record(self, text: str, at: int) -> tuple[dict[str, str] | None, int]:
        try:
            found, after = DECODER.raw_decode(text, at)
        except ValueError:
            return None, at
        except RecursionError:
            raise unread(self.answer, "printed JSON that is nested too deeply") from None
        if not isinstance(found, dict):
            raise unread(self.answer, "printed JSON with records that are none")
        if "ERROR" in found:
            raise unread(self.answer, f"printed an error: {plain(str(found['ERROR']))}")
        return found, after

    def _confirm(self, around: str, number: int) -> None:
        """Sees that all of it was there; `around` is what stands before and behind the records."""
        while (more := self._more()) is not None:
            around = around[:LONGEST] + more
        if "}" not in around:
            raise unread(self.answer, "printed JSON that ends in the middle")
        said = re.search(rf'"{self._count}"\s*:\s*"?([0-9]+)', around)
        if said and int(said[1]) != number:
            raise unread(self.answer, f"says {self._count} {plain(said[1])}, but printed {number} of them")


def _beginning(text: str) -> int:
    """Where the JSON begins: at a line that begins with a brace."""
    return 0 if text.startswith("{") else text.find("\n{") + 1 or -1


def is_json(answer: Answer) -> bool:
    """Whether an answer is meant to be JSON."""
    return _beginning(answer.text) >= 0


def rows(answer: Answer, first: str) -> list[dict[str, str]]:
    """The rows of a text table whose header begins with the column `first`. The last column takes what is left of a
    line, so that RESOURCES may have blanks in it."""
    header: list[str] = []
    found: list[dict[str, str]] = []
    for line in _whole(answer).split("\n"):
        words = line.split()
        if words[:1] == [first]:
            header = words
        elif header and words:
            cells = line.split(None, len(header) - 1)
            if len(cells) < len(header) and not _silent(cells, header):
                raise unread(answer, f"printed half a row: {plain(line)!r}")
            found.append(dict(zip(header, (cell.strip() for cell in cells), strict=False)))
    if not header:
        raise unread(answer, f"printed no table with a column {first}")
    return found


def _silent(cells: Sequence[str], header: Sequence[str]) -> bool:
    """Whether a short row is that of a host that does not answer (`lsload` and `lshosts` leave out its figures)."""
    return len(cells) >= 2 and (cells[1] in ("unavail", "unreach") or header[-1] == "RESOURCES")


def _whole(answer: Answer) -> str:
    """The text of an answer that ended well, with the end of its last line."""
    if answer.status != 0:
        raise unread(answer, "failed")
    if answer.text and not answer.text.endswith("\n"):
        raise unread(answer, "ended in the middle of a line")
    return answer.text


def cell(record: Mapping[str, object], *names: str) -> str:
    """The first of some columns that a record has, as text; empty where it has none of them."""
    for name in names:
        value = record.get(name)
        if value is not None:
            return str(value).strip()
    return ""


def number(text: str, answer: Answer, column: str) -> int | None:
    """A number of a column, None for `-` and nothing; BatchError for anything else."""
    if text in ("-", ""):
        return None
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise unread(answer, f"has {plain(text)!r} in the column {column}, which is no number")
    return int(text)


def unread(answer: Answer, what: str) -> BatchError:
    """An answer that can't be understood, or is none."""
    silent = UNREACHED.search(answer.error) or UNREACHED.search(answer.text[:2000])
    return answer.refused("does not reach the batch system" if silent else what, HINT)
