"""The rules' own tests: a rule's examples are planted in a tree, and must be dealt with when it has been applied."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from kiosk.model.accounts import AccountPolicy
from kiosk.sanitise.content import Kind
from kiosk.sanitise.engine import sanitise
from kiosk.sanitise.rules import Example, Rule

Samples = Mapping[Kind, Callable[[], bytes]]
"""Makes a file of each kind of secret."""


def plant(root: Path, example: Example, samples: Samples) -> None:
    """Makes what an example describes, and the folders that it needs."""
    path = root / example.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if example.folder:
        path.mkdir(exist_ok=True)
    elif example.link is not None:
        path.symlink_to(example.link)
    else:
        path.write_bytes(samples[example.sample]() if example.sample else example.text.encode())


def faults(rule: Rule, root: Path, samples: Samples) -> list[str]:
    """Plants a rule's examples and counter-examples in an empty folder, applies the rule twice, and says what is
    not as it must be: an example that is still there, a counter-example that changed, work left for a second run."""
    for path in rule.needs:
        plant(root, Example(path=path.replace("*", "x")), samples)
    for example in (*rule.examples, *rule.keeps):
        plant(root, example, samples)
    before = {example.path: _state(root / example.path) for example in rule.keeps}
    sanitise(root, [rule], AccountPolicy())
    found = [f"{e.path}: {fault}" for e in rule.examples if (fault := _fault(root / e.path, e))]
    found += [f"{path}: was changed" for path, state in before.items() if _state(root / path) != state]
    found += [f"{done.path}: {done.what} in a second run" for done in sanitise(root, [rule], AccountPolicy())]
    return found


def _fault(path: Path, example: Example) -> str | None:
    if example.after is None:
        return "is still there" if path.exists() or path.is_symlink() else None
    if example.folder:
        return None if path.is_dir() and not any(path.iterdir()) else "is not an empty folder"
    if not path.is_file():
        return "is gone"
    text = path.read_text(errors="surrogateescape")
    return None if text == example.after else f"holds {text!r}, not {example.after!r}"


def _state(path: Path) -> tuple[int, bytes | str | None, int] | None:
    if not path.exists() and not path.is_symlink():
        return None
    found = path.lstat()
    content: bytes | str | None = None
    if stat.S_ISREG(found.st_mode):
        content = path.read_bytes()
    elif stat.S_ISLNK(found.st_mode):
        content = str(path.readlink())
    return found.st_mode, content, found.st_mtime_ns
