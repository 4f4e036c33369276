"""Home folders: where accounts have them, and which of them are nobody's once accounts are removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from kiosk.sanitise.accounts import Account, Outcome, accounts
from kiosk.sanitise.tree import Parts, Tree

SYSTEM = ("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "sys", "usr")
"""No home that is here is ever removed."""
SHARED = ("var", "opt", "srv", "tmp", "home", "mnt", "media", "data")


@dataclass(frozen=True)
class Home:
    """A home folder. One that is not its account's `own` (`/`, `/usr/sbin`, `/var/lib`) has only names with a
    leading dot in common with a home."""

    parts: Parts
    own: bool


def known(tree: Tree) -> tuple[Home, ...]:
    """All homes that are there: root's, those that passwd names, what is in /home, and what new homes begin with."""
    found = [("root",), ("etc", "skel")]
    found += [tuple(_home(account)) for account in _accounts(tree)]
    folder = tree.resolve(("home",))
    if folder is not None and tree.is_folder(folder):
        found += [(*folder, name) for name in tree.names(folder)]
    real = (tree.resolve(parts) for parts in found)
    there = dict.fromkeys(parts for parts in real if parts is not None and tree.is_folder(parts))
    return tuple(Home(parts, _own(parts)) for parts in there)


def spare(parts: Parts) -> bool:
    """Whether a folder may be emptied because a link leads to it: not, where the system itself is."""
    return bool(parts) and parts[0] not in SYSTEM and (len(parts) > 1 or parts[0] not in (*SHARED, "root"))


def _own(parts: Parts) -> bool:
    if not parts or (parts[0] in SYSTEM and parts != ("etc", "skel")):
        return False
    return len(parts) > (2 if parts[0] == "var" else 1 if parts[0] in SHARED else 0)


def unowned(tree: Tree, outcome: Outcome) -> Iterator[Parts]:
    """What is left of removed accounts: their homes, and whatever is in /home that belongs to no account that stays
    (users of a directory service have homes, too). A home that a remaining account has as well stays, as does one
    outside /home that does not belong to its user."""
    keep = [home for account in outcome.kept if (home := tree.resolve(_home(account))) is not None]
    folder = tree.resolve(("home",))
    if folder is not None and folder[:1] not in [(name,) for name in SYSTEM] and tree.is_folder(folder):
        yield from _not_kept(tree, folder, [home for home in keep if home[: len(folder)] == folder])
    for account in outcome.removed:
        home = tree.resolve(_home(account))
        if not home or home[0] in SYSTEM:
            continue
        found = tree.stat(home)
        shared = any(other[: len(home)] == home for other in keep)
        if found is not None and found.st_uid == account.uid and tree.is_folder(home) and not shared:
            yield home


def _not_kept(tree: Tree, folder: Parts, keep: list[Parts]) -> Iterator[Parts]:
    todo = [folder]
    while todo:
        here = todo.pop()
        if here in keep:
            continue
        for name in tree.names(here):
            parts = (*here, name)
            if any(home[: len(parts)] == parts for home in keep):
                todo.append(parts)
            else:
                yield parts


def _accounts(tree: Tree) -> tuple[Account, ...]:
    real = tree.resolve(("etc", "passwd"))
    return accounts((tree.read_all(real) if real is not None else None) or b"")


def _home(account: Account) -> list[str]:
    return os.fsdecode(account.home).split("/")
