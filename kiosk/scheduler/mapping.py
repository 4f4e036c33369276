"""Which types of nodes serve which jobs, and how many nodes they ask for. Pure.

Rules are data (scheduler.toml): the first that fits a job names the types that may serve it, in the order of
preference; where none fits, every type may, in the order of the file. Of those, the ones that hold the job serve it. A
job that no type serves is reported with the reason, never dropped. Jobs that are alike are handled as one, so that the
work grows with the number of kinds, not of jobs.

Nodes are counted by what a node really holds: as many jobs as fit its slots *and* its memory. A job group that
several types serve goes to the first of them up to its maximum, then to the next; what exceeds all maxima stays with
the first, where it waits.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase

from kiosk.batch.api import Look, Pending, Requirements, Running
from kiosk.errors import UsageError
from kiosk.scheduler.model import Claim, Need, NodeType, Supply, Unserved
from kiosk.scheduler.settings import Rule

MOST_UNSERVED = 1000
"""So many kinds of unserved jobs are told apart; the rest is summed up in one line."""
MOST_TEXT = 200
LONGEST = 4096
"""No pattern is searched in more characters of a resource string."""
Fit = tuple[tuple[str, float], ...]
"""The types that serve a kind of job, in the order of preference, each with the nodes that one job fills."""


def serves(type: NodeType, r: Requirements, answered: frozenset[str]) -> str | None:
    """None where a node of this type (or several, for a job that may be on several) runs such a job, otherwise why
    not. `answered` are the tags and keys of values that a rule answers for."""
    if type.maximum == 0:
        return "its maximum is 0"
    if r.one_host and r.cores > type.slots:
        return f"needs {r.cores} cores on one host, has {type.slots} slots"
    if r.memory is not None and r.memory > type.memory:
        each = "" if r.one_host else " for each core"
        return f"needs {r.memory} MiB{each}, has {type.memory} MiB"
    lacking = sorted(r.tags - type.tags - answered)
    if lacking:
        return f"lacks {', '.join(map(_shown, lacking[:5]))}"
    other = sorted((k, v) for k, v in r.values - type.values if k not in answered)
    if other:
        return f"is not {', '.join(_shown(f'{k} = {v}') for k, v in other[:5])}"
    return None


def nodes_for(type: NodeType, r: Requirements) -> float:
    """How much of a node of this type one such job fills (1 for a whole one, more for a job on several)."""
    memory = r.memory or 0
    if r.one_host:
        at_once = type.slots // max(1, r.cores)
        return 1 / max(1, min(at_once, type.memory // memory) if memory else at_once)
    cores = min(type.slots, type.memory // memory) if memory else type.slots
    return max(1, r.cores) / max(1, cores)


def needs(
    look: Look, types: Mapping[str, NodeType], rules: Sequence[Rule], own: Mapping[str, Supply] | None = None
) -> tuple[dict[str, Need], list[Unserved]]:
    """What each type is asked for, and what no type serves. `own` (see kiosk.scheduler.supply) says how full each
    type's nodes are; without it that is taken from what runs. Jobs that are held are no need; of a queue's jobs only as
    many as its limit lets run. Raises UsageError for a pattern that is none."""
    mapping = Matcher(types, rules)
    running, _ = mapping.kinds(look.running, look)
    waiting, unserved = mapping.kinds([p for p in look.pending if not p.held], look)
    totals = {name: _Total() for name in types}
    filled = dict.fromkeys(types, 0.0)
    for fit, kind in running:
        for name, jobs, nodes in _pour(fit, kind.jobs, types, filled):
            totals[name].running += nodes
            _add(totals[name].holds, kind.claims, nodes / kind.jobs if jobs else 0.0)
    if own is not None:
        filled = {name: own[name].used + own[name].draining if name in own else 0.0 for name in types}
    for fit, kind in waiting:
        for name, jobs, nodes in _pour(fit, kind.jobs, types, filled):
            total = totals[name]
            total.pending += nodes
            if jobs and kind.oldest is not None:
                total.oldest = max(total.oldest, (look.at - kind.oldest).total_seconds())
            _add(total.claims, kind.claims, nodes / kind.jobs if jobs else 0.0)
    return {name: total.need() for name, total in totals.items()}, unserved


@dataclass(slots=True)
class _Kind:
    """Jobs that the same types serve."""

    jobs: float = 0.0
    oldest: datetime | None = None
    claims: dict[Claim, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Total:
    pending: float = 0.0
    running: float = 0.0
    oldest: float = 0.0
    claims: dict[Claim, float] = field(default_factory=dict)
    holds: dict[Claim, float] = field(default_factory=dict)

    def need(self) -> Need:
        by_queue: dict[str, float] = defaultdict(float)
        by_share: dict[str, float] = defaultdict(float)
        for (queue, user, _), nodes in self.claims.items():
            by_queue[queue] += nodes
            by_share[user] += nodes
        return Need(
            self.pending + self.running, self.pending, self.running, dict(by_queue), dict(by_share),
            max(0.0, self.oldest), self.claims, self.holds,
        )  # fmt: skip


class Matcher:
    """The rules for one look. What depends on a word alone (a queue's name, a resource string) is worked out once for
    each, as a set of rules in the bits of a number: the lowest bit that all sets share is the first that fits."""

    def __init__(self, types: Mapping[str, NodeType], rules: Sequence[Rule]) -> None:
        self.types = types
        self.rules = rules
        self.all = (1 << len(rules)) - 1
        self.texts = [(1 << n, _pattern(rule.text)) for n, rule in enumerate(rules) if rule.text is not None]
        self.without = self.all & ~sum(bit for bit, _ in self.texts)
        self.wanted = [(1 << n, rule.tags, frozenset(rule.values.items())) for n, rule in enumerate(rules)]
        self.any = _any([rule.text for rule in rules if rule.text is not None])
        self.who: dict[tuple[str, str, str | None], int] = {}
        self.words: dict[tuple[str, str | None], int] = {}
        self.text: dict[str, int] = {}
        self.asked: dict[tuple[frozenset[str], frozenset[tuple[str, str]]], tuple[int, int]] = {}
        self.fits: dict[tuple[object, ...], Fit | str] = {}
        self.known: dict[Fit, Fit] = {}

    def kinds(
        self, groups: Iterable[Pending] | Iterable[Running], look: Look
    ) -> tuple[list[tuple[Fit, _Kind]], list[Unserved]]:
        """Jobs by the types that serve them, those with the least choice first, and what none serves."""
        found: dict[int, tuple[Fit, _Kind]] = {}
        lost: dict[tuple[str, str, str, str], int] = defaultdict(int)
        allowed = _within_limits(groups, look)
        for g in groups:
            fit = self.fit(g)
            if isinstance(fit, str):
                lost[(_shown(g.queue), _shown(g.user), _shown(g.requirements.text), fit)] += g.jobs
                continue
            kind = found.get(id(fit))
            if kind is None:
                kind = found[id(fit)] = (fit, _Kind())
            claims, claim = kind[1].claims, (g.queue, g.user, g.group or "")
            claims[claim] = claims.get(claim, 0.0) + (
                g.jobs * allowed.get(g.queue, 1.0) if allowed else g.jobs
            )
            if isinstance(g, Pending) and (kind[1].oldest is None or g.oldest < kind[1].oldest):
                kind[1].oldest = g.oldest
        for _, one in found.values():
            one.jobs = sum(one.claims.values())
        return sorted(found.values(), key=lambda item: len(item[0])), _summed(lost)

    def fit(self, g: Pending | Running) -> Fit | str:
        """The types that serve such jobs, or why none does."""
        r = g.requirements
        asked = (r.tags, r.values)
        found = self.asked.get(asked)
        if found is None:
            fitting = sum(bit for bit, tags, values in self.wanted if tags <= r.tags and values <= r.values)
            found = self.asked[asked] = (fitting, len(self.asked))
        rule = self._rule(g.queue, g.user, g.group, r.text) & found[0]
        rule = (rule & -rule).bit_length() - 1
        key = (rule, r.cores, r.one_host, r.memory, found[1])
        fit = self.fits.get(key)
        if fit is None:
            fit = self.fits[key] = self._serving(rule, r)
        return fit

    def _rule(self, queue: str, user: str, group: str | None, text: str) -> int:
        """The rules that fit by who and by the resource string."""
        who = (queue, user, group)
        bits = self.who.get(who)
        if bits is None:
            bits = self.all
            for kind, word in zip(("queue", "user", "group"), who, strict=True):
                bits &= self._by_word(kind, word)
            self.who[who] = bits
        if self.texts and bits & ~self.without:
            fitting = self.text.get(text)
            if fitting is None:
                fitting = self.text[text] = self._by_text(text[:LONGEST])
            bits &= fitting
        return bits

    def _by_text(self, text: str) -> int:
        if self.any is not None and not self.any.search(text):
            return self.without
        return self.without | sum(bit for bit, pattern in self.texts if pattern.search(text))

    def _by_word(self, kind: str, word: str | None) -> int:
        found = self.words.get((kind, word))
        if found is None:
            found = self.words[(kind, word)] = self._matching(kind, word)
        return found

    def _matching(self, kind: str, word: str | None) -> int:
        patterns = (getattr(rule, kind) for rule in self.rules)
        return sum(1 << n for n, p in enumerate(patterns) if p is None or (word and fnmatchcase(word, p)))

    def _serving(self, rule: int, r: Requirements) -> Fit | str:
        names = self.rules[rule].types if rule >= 0 else tuple(self.types)
        answered = self.rules[rule].answers if rule >= 0 else frozenset()
        fit, reasons = [], []
        for name in names:
            why = "there is no such type" if name not in self.types else serves(self.types[name], r, answered)
            if why is None:
                fit.append((name, nodes_for(self.types[name], r)))
            else:
                reasons.append(f"{name} {why}")
        if fit:
            made = tuple(fit)
            return self.known.setdefault(made, made)  # the same object for the same types: found by its id
        more = f" and {len(reasons) - 3} more types do not fit" if len(reasons) > 3 else ""
        return "; ".join(reasons[:3]) + more


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as e:
        raise UsageError(f"{text!r} is no regular expression: {e}", where="rules: text") from None


def _any(texts: Sequence[str]) -> re.Pattern[str] | None:
    """One pattern that finds what any of these would, since most resource strings have none of them; None where they
    can't be joined (flags and references to groups hold for one pattern alone)."""
    if not texts or any(re.search(r"\\[1-9]|\(\?[(P]", text) for text in texts):
        return None
    try:
        return re.compile("|".join(f"(?:{text})" for text in texts))
    except re.error:
        return None


def _within_limits(groups: Iterable[Pending] | Iterable[Running], look: Look) -> dict[str, float]:
    """The part of each queue's waiting jobs that its limit of slots would let run."""
    limits = {q.name: q.limit for q in look.queues if q.limit is not None}
    if not limits or groups is look.running:
        return {}
    cores: dict[str, int] = defaultdict(int)
    for g in groups:
        cores[g.queue] += g.jobs * g.requirements.cores
    left = dict(limits)
    for r in look.running:
        if r.queue in left:
            left[r.queue] -= r.jobs * r.requirements.cores
    return {name: min(1.0, max(0, free) / cores[name]) for name, free in left.items() if cores[name]}


def _pour(
    fit: Fit, jobs: float, types: Mapping[str, NodeType], filled: dict[str, float]
) -> Iterable[tuple[str, float, float]]:
    """Gives jobs to types in the order of preference, each up to its maximum: type, jobs, nodes."""
    given = dict.fromkeys((name for name, _ in fit), 0.0)
    left = jobs
    for name, each in fit:
        here = min(left, max(0.0, types[name].maximum - filled[name]) / each)
        given[name] += here
        filled[name] += here * each
        left -= here
        if left <= 0:
            break
    given[fit[0][0]] += max(0.0, left)
    return [(name, given[name], given[name] * each) for name, each in fit if given[name] > 0]


def _add(into: dict[Claim, float], claims: Mapping[Claim, float], factor: float) -> None:
    if not into:
        into.update({claim: jobs * factor for claim, jobs in claims.items()})
        return
    for claim, jobs in claims.items():
        into[claim] = into.get(claim, 0.0) + jobs * factor


def _summed(lost: Mapping[tuple[str, str, str, str], int]) -> list[Unserved]:
    most = sorted(lost.items(), key=lambda item: (-item[1], item[0]))
    told = [Unserved(jobs, *key) for key, jobs in most[:MOST_UNSERVED]]
    rest = sum(jobs for _, jobs in most[MOST_UNSERVED:])
    if rest:
        told.append(Unserved(rest, "*", "*", "", f"{len(most) - MOST_UNSERVED} more kinds of jobs"))
    return told


def _shown(text: str) -> str:
    """Text of users, fit to be printed on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:MOST_TEXT])
