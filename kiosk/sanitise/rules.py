"""The table of rules: what must not be in an image, why, and what is done about it. `recipes/sanitise/*.toml`.

Every rule carries its own test: examples that it must deal with, and counter-examples that it must leave alone.
A user's own folder may add rules, or put its own in place of one of kiosk's by giving it the same name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from kiosk import data
from kiosk.config import Settings, read_toml
from kiosk.errors import NotFoundError, UsageError
from kiosk.model.base import Document
from kiosk.sanitise.content import Kind

Action = Literal["remove", "empty", "truncate", "replace", "lines", "content", "accounts"]
RuleName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
Reason = Annotated[str, StringConstraints(min_length=15, max_length=300, pattern=r"^[A-Z][^\x00-\x1f]*\.$")]

EDITS = ("truncate", "replace", "lines")


def _pattern(text: str) -> str:
    parts = text.split("/")
    if "" in parts or "." in parts or ".." in parts:
        raise ValueError(f"{text!r} is not a path below the root: no leading or double slash, no '.' or '..'")
    if any("**" in part and part != "**" for part in parts):
        raise ValueError(f"{text!r}: '**' stands alone between slashes")
    if "~" in parts[1:] or (parts[0] == "~" and "**" in parts):
        raise ValueError(f"{text!r}: '~' (every home) comes first, and without '**'")
    return text


def _regex(text: str) -> str:
    try:
        re.compile(text.replace("{node}", "node"))
    except re.error as e:
        raise ValueError(f"{text!r} is not a regular expression: {e}") from None
    return text


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=300), AfterValidator(_pattern)]
Regex = Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_regex)]
Mode = Annotated[str, StringConstraints(pattern=r"^0[0-7]{3}$")]


class Example(Document):
    """A file, folder (`folder`) or link (`link`, its target) below the root, with text or a sample of a kind of
    secret as content. `after`: what the file must hold afterwards; without it, the path must be gone (of a
    counter-example: unchanged)."""

    path: Pattern
    text: str = ""
    sample: Kind | None = None
    folder: bool = False
    link: str | None = None
    after: str | None = None


class Rewrite(Document):
    """A regular expression and what every match in a line becomes (as in re.sub)."""

    match: Regex
    by: str


class Rule(Document):
    """One rule.

    `paths` are patterns below the root: `*`, `?`, `[…]` within a name, `**` for any number of folders, `~` for the
    home of every account. `keep` are paths that the rule leaves alone, with all that is below them.

    remove    what matches is removed, folders with all they hold; with `when`, files that match it
    empty     all that is in a folder that matches is removed; `folders` says that folders below stay, empty
    truncate  a file that matches becomes empty
    replace   a file that matches gets `text`, and `mode`; with `create`, also where there is none
    lines     of a file that matches, lines that `drop` matches go, `rewrite` changes what is left, and lines of
              `ensure` that are missing are added at the end; `{node}` in `drop` stands for any of the node's own
              names; `when` (a regular expression over the whole file, multi-line) restricts it to files that match
    content   a file that matches and is one of the kinds in `holds` is removed; `limit` bytes of it are read
    accounts  people's accounts, passwords, and what belongs to them (see kiosk.sanitise.accounts)

    `needs`: the rule is only for trees that have one of these. `builds`: it is also for trees made from recipes,
    which are new and hold what their recipe put there.
    """

    name: RuleName
    reason: Reason
    action: Action
    paths: Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=200)]
    keep: tuple[Pattern, ...] = ()
    needs: tuple[Pattern, ...] = ()
    builds: bool = False
    folders: bool = False
    text: str | None = None
    mode: Mode | None = None
    create: bool = False
    drop: tuple[Regex, ...] = ()
    rewrite: tuple[Rewrite, ...] = ()
    ensure: tuple[str, ...] = ()
    when: Regex | None = None
    holds: tuple[Kind, ...] = ()
    limit: Annotated[int, Field(ge=64, le=16 << 20)] = 1 << 20
    examples: Annotated[tuple[Example, ...], Field(min_length=1)]
    keeps: tuple[Example, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        only = {
            "folders": "empty",
            "text": "replace",
            "mode": "replace",
            "create": "replace",
            "drop": "lines",
            "rewrite": "lines",
            "ensure": "lines",
            "holds": "content",
        }
        for key, action in only.items():
            if getattr(self, key) not in (None, False, ()) and self.action != action:
                raise ValueError(f"{self.name}: {key} is for the action {action}")
        if self.when and self.action not in ("lines", "remove"):
            raise ValueError(f"{self.name}: when is for the actions lines and remove")
        wants = {"replace": self.text is not None, "content": bool(self.holds)}
        wants["lines"] = bool(self.drop or self.rewrite or self.ensure)
        if not wants.get(self.action, True):
            raise ValueError(f"{self.name}: the action {self.action} says nothing to do")
        if self.create and any("*" in p or "~" in p for p in self.paths):
            raise ValueError(f"{self.name}: create needs whole paths")
        if self.action in EDITS and any(p.startswith(("~", "home/", "tmp/", "**")) for p in self.paths):
            # A user may have linked a system's file there, which an edit would change as well.
            raise ValueError(f"{self.name}: what users can make is removed, not edited")
        return self


class _File(Document):
    rule: tuple[Rule, ...]


def load(folders: Sequence[Path] | None = None) -> tuple[Rule, ...]:
    """The rules of `folders` (each holds `sanitise/*.toml`; by default kiosk's own recipes), by file and place in it.

    The first folder that has a rule's name wins. UsageError names a file that does not fit, or a name that a
    folder has twice; NotFoundError, where there is no rule at all.
    """
    found: dict[str, Rule] = {}
    for folder in folders if folders is not None else (data.folder("recipes"),):
        own = {rule.name: rule for rules in by_subject(folder).values() for rule in rules}
        found |= {name: rule for name, rule in own.items() if name not in found}
    if not found:
        raise NotFoundError("there are no rules for sanitising", hint="recipes/sanitise/*.toml")
    return tuple(found.values())


def by_subject(folder: Path) -> dict[str, tuple[Rule, ...]]:
    """The rules of one folder by the names of their files, without `.toml`."""
    found: dict[str, tuple[Rule, ...]] = {}
    names: set[str] = set()
    for file in sorted((folder / "sanitise").glob("*.toml")):
        found[file.stem] = read_toml(file, _File).rule
        for rule in found[file.stem]:
            if rule.name in names:
                raise UsageError(f"there are two rules {rule.name!r}", where=str(file))
            names.add(rule.name)
    return found


def load_for(settings: Settings) -> tuple[Rule, ...]:
    """The rules in the user's folder (settings.recipes), where there is one, and kiosk's."""
    own = (settings.recipes,) if settings.recipes else ()
    return load((*own, data.folder("recipes")))
