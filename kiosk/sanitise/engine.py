"""Takes out of a root tree what the rules name. The second run finds nothing left to do.

What is done depends on the tree and the rules alone. Nothing outside of the tree is touched (see
kiosk.sanitise.tree), and whatever a rule does not name stays as it is, to the time of its last change.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiosk.files import storage_errors
from kiosk.model.accounts import AccountPolicy
from kiosk.sanitise import accounts as books
from kiosk.sanitise import homes, lines
from kiosk.sanitise.content import BY_BEGINNING, kinds
from kiosk.sanitise.patterns import Kept, compiled
from kiosk.sanitise.rules import Rule
from kiosk.sanitise.tree import EDITED, Parts, Tree, shown

BEGINNING = 64


@dataclass(frozen=True)
class Done:
    """One thing that was done: by which rule, at which path (safe to print), and what."""

    rule: str
    path: str
    what: str


def sanitise(root: Path, rules: Iterable[Rule], accounts: AccountPolicy) -> tuple[Done, ...]:
    """Applies the rules to the tree: accounts first, then by path in the table's order, then by content.

    Raises StorageError when the disk is full or read-only, PolicyError for a file that can't be edited safely, and
    OSError where something is mounted in the tree. Then the tree is in between, and can be sanitised again.
    """
    table = tuple(rules)
    with storage_errors(root), Tree(root) as tree:
        work = _Work(tree, accounts)
        for rule in (
            *(r for r in table if r.action == "accounts"),
            *(r for r in table if r.action in ACTIONS),
        ):
            work.apply(rule)
        work.by_content([r for r in table if r.action == "content" and work.needed(r)])
        return tuple(work.done)


class _Work:
    """One run over one tree."""

    def __init__(self, tree: Tree, policy: AccountPolicy) -> None:
        self.tree = tree
        self.policy = policy
        self.homes = homes.known(tree)
        self.node = lines.node_names(tree)
        self.done: list[Done] = []

    def needed(self, rule: Rule) -> bool:
        return not rule.needs or any(self.tree.glob(pattern) for pattern in rule.needs)

    def apply(self, rule: Rule) -> None:
        if not self.needed(rule):
            return
        if rule.action == "accounts":
            self.accounts(rule)
            return
        kept = Kept(rule.keep)
        for parts in self.matches(rule):
            if not kept.covers(parts):
                ACTIONS[rule.action](self, rule, parts, kept)

    def matches(self, rule: Rule) -> list[Parts]:
        found: dict[Parts, None] = {}
        for pattern in rule.paths:
            if pattern.startswith("~/"):
                # A link in a home was made by a user, who must not choose what is removed outside of it.
                for home in self.homes:
                    if home.own or pattern.startswith("~/."):
                        found |= dict.fromkeys(self.tree.glob(pattern[2:], home.parts, follow=False))
                continue
            named = self.tree.glob(pattern)
            if not named and rule.create:
                named = [tuple(pattern.split("/"))]
            found |= dict.fromkeys(self._led(rule, parts) for parts in named)
        return list(found)

    def _led(self, rule: Rule, parts: Parts) -> Parts:
        """Where a link leads, for rules about what is in a file or folder; itself, where it must not be followed."""
        real = self.tree.resolve(parts) if rule.action != "remove" else parts
        if real is None or (rule.action == "empty" and real != parts and not homes.spare(real)):
            return parts
        return real

    def note(self, rule: Rule, parts: Parts, what: str) -> None:
        self.done.append(Done(rule.name, shown(parts), what))

    def remove(self, rule: Rule, parts: Parts, kept: Kept) -> None:
        if self.tree.stat(parts) is None:
            return  # it was below something that is gone already
        if rule.when and not re.search(rule.when, self._text(parts), re.MULTILINE):
            return
        if self.tree.is_folder(parts) and kept.patterns:
            if self._clear(parts, kept, folders=False):
                self.note(rule, parts, "removed but for what the rule keeps")
            return
        self.tree.remove(parts)
        self.note(rule, parts, "removed")

    def _text(self, parts: Parts) -> str:
        return (self.tree.read(parts, EDITED) or b"").decode(errors="surrogateescape")

    def empty(self, rule: Rule, parts: Parts, kept: Kept) -> None:
        if not self.tree.is_folder(parts):
            return
        if kept.patterns or rule.folders:
            count = self._clear(parts, kept, folders=rule.folders)
        else:
            names = self.tree.names(parts)
            count = len(names)
            for name in names:
                self.tree.remove((*parts, name))
        if count:
            self.note(rule, parts, "emptied")

    def _clear(self, top: Parts, kept: Kept, *, folders: bool) -> int:
        """Removes what is below a folder, and counts it."""
        count = 0
        for parts, is_dir in reversed(list(self.tree.walk(top))):
            if kept.covers(parts):
                continue
            if not is_dir:
                self.tree.remove(parts)
                count += 1
            elif not folders and self.tree.remove_empty(parts):
                count += 1
        return count

    def truncate(self, rule: Rule, parts: Parts, kept: Kept) -> None:
        if self.tree.read(parts, 1):
            self.tree.write(parts, b"")
            self.note(rule, parts, "emptied")

    def replace(self, rule: Rule, parts: Parts, kept: Kept) -> None:
        text = (rule.text or "").encode()
        mode = int(rule.mode, 8) if rule.mode else None
        if not self.tree.is_file(parts):
            if not rule.create:
                return
            if self.tree.stat(parts) is not None:
                self.tree.remove(parts)  # a link that leads nowhere, a folder, a device
            above = self._above(parts)
            self.tree.create((*above, parts[-1]), text, mode or 0o644)
            self.note(rule, parts, "created")
            return
        changed = mode is not None and self.tree.chmod(parts, mode)
        if self.tree.read(parts, len(text) + 1) != text:
            self.tree.write(parts, text)
            changed = True
        if changed:
            self.note(rule, parts, "replaced" if text else "emptied")

    def _above(self, parts: Parts) -> Parts:
        """Where the folder of a path really is, as far as it exists."""
        for n in range(len(parts) - 1, 0, -1):
            real = self.tree.resolve(parts[:n])
            if real is not None and self.tree.is_folder(real):
                return (*real, *parts[n:-1])
        return parts[:-1]

    def lines(self, rule: Rule, parts: Parts, kept: Kept) -> None:
        data = self.tree.read_all(parts)
        if data is None:
            return
        old = data.decode(errors="surrogateescape")
        if rule.when and not re.search(rule.when, old, re.MULTILINE):
            return
        new = lines.revised(old, rule, self.node)
        if new != old:
            self.tree.write(parts, new.encode(errors="surrogateescape"))
            gone = old.count("\n") - new.count("\n")
            self.note(rule, parts, f"{gone} lines dropped" if gone > 1 else "lines changed")

    def accounts(self, rule: Rule) -> None:
        files = {}
        where: dict[str, Parts] = {}
        for name in books.FILES:
            real = self.tree.resolve(("etc", name))
            data = self.tree.read_all(real) if real is not None else None
            if real is not None and data is not None:
                files[name], where[name] = data, real
        outcome = books.revise(files, self.policy)
        for name, new in outcome.files.items():
            if new != files[name]:
                self.tree.write(where[name], new)
                self.note(rule, where[name], "lines changed")
        for account in outcome.removed:
            self.note(rule, where["passwd"], f"account {_printable(account.name)} removed")
        for owner in outcome.locked:
            self.note(rule, where.get("shadow", where["passwd"]), f"password of {_printable(owner)} locked")
        for parts in homes.unowned(self.tree, outcome):
            self.tree.remove(parts)
            self.note(rule, parts, "removed")

    def by_content(self, rules: Sequence[Rule]) -> None:
        """One walk for all rules that look into files."""
        wanted = [(r, [compiled(p) for p in r.paths], Kept(r.keep), _beginnings(r)) for r in rules]
        for parts, is_dir in self.tree.walk(()):
            if is_dir:
                continue
            path = "/".join(parts)
            near = [
                (rule, starts)
                for rule, patterns, kept, starts in wanted
                if any(p.fullmatch(path) for p in patterns) and not kept.covers(parts)
            ]
            for rule, starts in near:
                found = self.tree.stat(parts)
                if found is None or not stat.S_ISREG(found.st_mode) or not found.st_size:
                    break
                head = self.tree.read(parts, BEGINNING) if starts else b""
                if head is None or (starts and not head.startswith(starts)):
                    continue
                data = self.tree.read(parts, rule.limit)
                kind = kinds(data, rule.holds) if data is not None else None
                if kind is not None:
                    self.tree.remove(parts)
                    self.note(rule, parts, f"removed: {kind}")
                    break


def _beginnings(rule: Rule) -> tuple[bytes, ...]:
    """How a file that the rule looks for begins; empty where that may be with anything."""
    if any(kind not in BY_BEGINNING for kind in rule.holds):
        return ()
    return tuple(start for kind in rule.holds for start in BY_BEGINNING[kind])


def _printable(name: bytes) -> str:
    return shown((os.fsdecode(name),))[1:]


ACTIONS: dict[str, Callable[[_Work, Rule, Parts, Kept], None]] = {
    "remove": _Work.remove,
    "empty": _Work.empty,
    "truncate": _Work.truncate,
    "replace": _Work.replace,
    "lines": _Work.lines,
}
