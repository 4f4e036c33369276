"""LSF's resource requirement strings, and those that a grid CE writes: what of them is understood, and no more.

`select[os==debian12 && kiosk] rusage[mem=2000] span[hosts=1]` says that a host must have the tag `kiosk`, the value
`debian12` of `os`, and 2000 MiB. A condition that is part of an `||`, a negation, a comparison of something else than
memory, a section with alternatives: they are kept as text and nothing is concluded from them. No string raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

LONGEST = 8192
"""Characters; of a longer string nothing is understood."""
SHOWN = 1000
ANYTHING = frozenset({"any", "local", "-", ""})
"""What `type` and `model` may equal and still ask for nothing."""
UNITS = {"": 1.0, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1048576.0, "P": 1073741824.0}
SECTION = re.compile(r"\b(select|rusage|span|order|same|cu|affinity|stream)\s*\[", re.IGNORECASE)
BRACKET = re.compile(r"[\[\]]")
TOKEN = re.compile(
    r"""\s*(?:(&&|\|\||==|!=|>=|<=|[<>()!=,:/])|"([^"]*)"|'([^']*)'|([\w.@%*?#\\$+~;-]+(?:/[\w.@%*?#\\$+~;-]+)*)|(\S))"""
)
NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{0,9})?)(?:([KMGTP])i?B?|MB)?$", re.IGNORECASE)
NAME = re.compile(r"[A-Za-z_][\w.@-]{0,99}$")
NUMERIC = frozenset({
    "r15s", "r1m", "r15m", "ut", "pg", "io", "ls", "it", "tmp", "swp", "ncpus", "ndisks", "maxswp", "maxtmp", "cpuf",
    "rexpri", "slots",
})  # fmt: skip
"""What `lsinfo` calls numeric; memory is told apart."""
PREFIX = re.compile(r"^(?:other|target|self)\.", re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """What was understood of a string. `memory` is MiB on a host, `task_memory` MiB for each task there; `hosts` is 1
    where all tasks must be on one host, `ptile` how many must be on each."""

    tags: frozenset[str] = frozenset()
    values: frozenset[tuple[str, str]] = frozenset()
    memory: int | None = None
    task_memory: int | None = None
    hosts: int | None = None
    ptile: int | None = None


@lru_cache(maxsize=65_536)
def understood(text: str) -> Wanted:
    """What a resource requirement string says that is understood."""
    if len(text) > LONGEST or "{" in text or ("||" in text and "||" in _outside(text)):
        return Wanted()  # compound and alternative strings: which part holds is LSF's choice
    tags: frozenset[str] = frozenset()
    values: frozenset[tuple[str, str]] = frozenset()
    floor: float | None = None
    hosts = ptile = None
    usage: dict[str, int] = {}
    for section, inside in sections(text):
        if section == "select":
            some, more, least = selected(inside)
            tags, values = tags | some, values | more
            floor = floor if least is None else max(least, floor or 0.0)
        elif section == "rusage":
            usage = {**usage, **reserved(inside)}
        elif section == "span":
            hosts, ptile = span(inside, hosts, ptile)
    memory = usage.get("host")
    if floor is not None:
        memory = max(math.ceil(floor), memory or 0)
    return Wanted(tags, values, memory, usage.get("task"), hosts, ptile)


@lru_cache(maxsize=20_000)
def selected(text: str) -> tuple[frozenset[str], frozenset[tuple[str, str]], float | None]:
    """What a `select` asks for: tags, values, and the least memory in MiB."""
    tags: set[str] = set()
    values: set[tuple[str, str]] = set()
    floor: float | None = None
    for tokens in conjuncts(tokenized(text)):
        found = condition(tokens)
        if isinstance(found, str):
            tags.add(found)
        elif isinstance(found, tuple):
            values.add(found)
        elif found is not None:
            floor = max(found, floor or 0.0)
    return frozenset(tags), frozenset(values), floor


def sections(text: str) -> Iterator[tuple[str, str]]:
    """The sections of a string in their order; what stands in none is a condition too (LSF's older form)."""
    at, loose = 0, []
    while found := SECTION.search(text, at):
        loose.append(text[at : found.start()])
        end = _closing(text, found.end())
        yield found[1].lower(), text[found.end() : end]
        at = end + 1
    loose.append(text[at:])
    rest = " ".join(loose).strip()
    if rest:
        yield "select", rest.removesuffix(";").removeprefix("Requirements =").strip(" ;")


def _closing(text: str, at: int) -> int:
    """Where the bracket that was opened before `at` is closed; the string's end where it is not."""
    end = text.find("]", at)
    if end >= 0 and "[" not in text[at:end]:
        return end
    depth = 1
    for found in BRACKET.finditer(text, at):
        depth += 1 if found[0] == "[" else -1
        if not depth:
            return found.start()
    return len(text)


def _outside(text: str) -> str:
    """What stands outside all sections, without what is in parentheses."""
    kept, at = [], 0
    while found := SECTION.search(text, at):
        kept.append(text[at : found.start()])
        at = _closing(text, found.end()) + 1
    return "".join(kept) if kept else ""


def tokenized(text: str) -> list[tuple[str, str]]:
    """Operators, quoted strings and words, each with its kind: `op`, `string`, `word`, and `?` for the rest."""
    tokens = []
    for op, double, single, word, other in TOKEN.findall(text):
        if op:
            tokens.append(("op", op))
        elif word:
            tokens.append(("word", word))
        elif other:
            tokens.append(("?", other))
        else:
            tokens.append(("string", double or single))
    return tokens


def conjuncts(tokens: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """The conditions that must all hold. What is joined by `||` stays together."""
    left = [tokens]
    while left:
        part = _bare(left.pop())
        depth, cuts, either = 0, [], False
        for i, token in enumerate(part):
            depth += (token == ("op", "(")) - (token == ("op", ")"))
            if depth == 0 and token == ("op", "||"):
                either = True
            if depth == 0 and token == ("op", "&&"):
                cuts.append(i)
        if either or not cuts or depth:
            yield part
            continue
        left += [part[a + 1 : b] for a, b in zip([-1, *cuts], [*cuts, len(part)], strict=True)]


def _bare(tokens: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the parentheses that are around all of it."""
    partner: dict[int, int] = {}
    opened: list[int] = []
    for i, token in enumerate(tokens):
        if token == ("op", "("):
            opened.append(i)
        elif token == ("op", ")"):
            if not opened:
                return tokens
            partner[opened.pop()] = i
    first, last = 0, len(tokens) - 1
    while first < last and partner.get(first) == last:
        first, last = first + 1, last - 1
    return tokens[first : last + 1]


def condition(tokens: list[tuple[str, str]]) -> str | tuple[str, str] | float | None:
    """A tag, a value that something must equal, the least memory in MiB, or None where it is none of them."""
    kinds, words = [kind for kind, _ in tokens], [word for _, word in tokens]
    if words[:2] == ["defined", "("] and len(words) == 4 and words[3] == ")":
        kinds, words = kinds[2:3], words[2:3]
    if kinds == ["word"] and NAME.match(words[0]) and words[0].lower() not in NUMERIC | {"mem", "maxmem"}:
        return words[0]
    if kinds[1:2] != ["op"] or len(words) != 3 or kinds[0] != "word" or kinds[2] not in ("word", "string"):
        return None
    name, op, value = PREFIX.sub("", words[0]), words[1], words[2]
    if not NAME.match(name):
        return None
    if name.lower() in ("mem", "maxmem"):
        return mebibytes(value) if op in (">", ">=", "==") else None
    if op not in ("==", "=") or name.lower() in NUMERIC:
        return None
    if name in ("type", "model") and value in ANYTHING:
        return None
    if kinds[2] == "word" and value == "1" and op == "=":
        return name  # the older form of a boolean resource
    if kinds[2] == "word" and value.lower() == "true":
        return name
    return (name, value)


def reserved(text: str) -> dict[str, int]:
    """The memory that `rusage` reserves, by `host` or by `task`."""
    if "||" in text:
        return {}
    for part in text.replace("&&", ",").split(","):
        name, _, value = part.strip().partition("=")
        if name.strip().lower() == "mem":
            amount, _, per = value.split(":")[0].strip().partition("/")
            found = mebibytes(amount.strip())
            if found is None or found <= 0:
                return {}
            return {"task" if per.strip().lower() in ("task", "slot") else "host": math.ceil(found)}
    return {}


def span(text: str, hosts: int | None, ptile: int | None) -> tuple[int | None, int | None]:
    """What `span` says of the hosts of a parallel job."""
    for part in text.split():
        name, _, value = part.partition("=")
        if name == "hosts" and value == "1":
            hosts = 1
        if name == "ptile" and value.isdecimal() and 0 < int(value) < 1_000_000:
            ptile = int(value)
    return hosts, ptile


def mebibytes(text: str) -> float | None:
    """An amount of memory; MiB where it has no unit. None where it is none."""
    found = NUMBER.match(text.strip())
    return float(found[1]) * UNITS[(found[2] or "").upper()] if found else None
