"""Account files without people and passwords: passwd, group, shadow, gshadow, subuid and subgid, consistent.

Pure: bytes in, bytes out. What stays keeps its place and its bytes; what is no account's line is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kiosk.model.accounts import AccountPolicy

FILES = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")
NOBODY = (b"nobody", b"nfsnobody")
NO_PASSWORD = (b"*", b"!", b"!!", b"!*")
"""Password fields that no password fits."""


@dataclass(frozen=True)
class Account:
    """A line of passwd."""

    name: bytes
    uid: int
    gid: int
    home: bytes


@dataclass(frozen=True)
class Outcome:
    """New content by file, the accounts that were removed and that stay, and whose passwords were locked."""

    files: Mapping[str, bytes]
    removed: tuple[Account, ...]
    kept: tuple[Account, ...]
    locked: tuple[bytes, ...]


def accounts(passwd: bytes) -> tuple[Account, ...]:
    """All accounts of a passwd file."""
    return tuple(found for fields in _lines(passwd, 7) if (found := _account(fields)) is not None)


def revise(files: Mapping[str, bytes], policy: AccountPolicy) -> Outcome:
    """Takes out of account files what the policy does not name. `files` may lack any of them.

    Removed are people's accounts, second accounts with uid 0 and NIS entries (`+…`), with their own groups,
    memberships, shadow lines and subordinate ids; all that is left has no password.
    """
    keep = {name.encode() for name in policy.keep}
    before = accounts(files.get("passwd", b""))
    removed = tuple(a for a in before if not _stays(a, keep, policy.first))
    kept = tuple(a for a in before if _stays(a, keep, policy.first))
    names = {a.name for a in kept}
    gone = {a.name for a in removed} - names
    used = {a.gid for a in kept}
    left = {a.gid for a in removed} - used
    new: dict[str, bytes] = {}
    locked: set[bytes] = set()
    shadowed = {fields[0] for fields in _lines(files.get("shadow", b""), 9)}

    stay = set(kept)
    passwd = [f for f in _lines(files.get("passwd", b""), 7) if _account(f) in stay]
    hidden = {name: b"x" if name in shadowed else b"*" for name in names}
    new["passwd"] = _text([_locked(f, hidden[f[0]], (b"x",), locked) for f in passwd])
    shadow = [f for f in _lines(files.get("shadow", b""), 9) if f[0] in names]
    new["shadow"] = _text([_locked(f, b"*", (), locked) for f in shadow])

    groups = []
    for fields in _lines(files.get("group", b""), 4):
        gid = _number(fields[2])
        members = [m for m in fields[3].split(b",") if m in names]
        people = fields[0] in gone or gid in left
        own = gid is not None and gid >= policy.first and gid not in used and people and not members
        if gid is None or own or fields[0].startswith((b"+", b"-")):
            continue
        groups.append(
            [fields[0], b"x" if fields[1] not in NO_PASSWORD else fields[1], fields[2], b",".join(members)]
        )
    new["group"] = _text(groups)
    known = {fields[0] for fields in groups}
    gshadow = []
    for fields in _lines(files.get("gshadow", b""), 4):
        if fields[0] in known:
            # Empty in gshadow is no password either: only members may enter the group.
            password = fields[1] if fields[1] in (*NO_PASSWORD, b"") else b"!"
            lists = [b",".join(m for m in field.split(b",") if m in names) for field in fields[2:]]
            gshadow.append([fields[0], password, *lists])
    new["gshadow"] = _text(gshadow)

    owners = names | {str(a.uid).encode() for a in kept}
    for name in ("subuid", "subgid"):
        new[name] = _text([f for f in _lines(files.get(name, b""), 3) if f[0] in owners])
    return Outcome({n: d for n, d in new.items() if n in files}, removed, kept, tuple(sorted(locked)))


def _stays(account: Account, keep: set[bytes], first: int) -> bool:
    if account.uid == 0:
        return account.name == b"root" or account.name in keep
    if account.name in keep or account.name in NOBODY:
        return True
    return account.uid < first and not account.name.startswith((b"+", b"-"))


def _account(fields: list[bytes]) -> Account | None:
    uid, gid = _number(fields[2]), _number(fields[3])
    if uid is None or gid is None or not fields[0] or fields[0].startswith(b"#"):
        return None
    return Account(fields[0], uid, gid, fields[5])


def _number(field: bytes) -> int | None:
    return int(field) if field.isdigit() and len(field) <= 10 else None


def _locked(fields: list[bytes], by: bytes, also: tuple[bytes, ...], locked: set[bytes]) -> list[bytes]:
    if fields[1] in (*NO_PASSWORD, *also):
        return fields
    locked.add(fields[0])
    return [fields[0], by, *fields[2:]]


def _lines(data: bytes, count: int) -> list[list[bytes]]:
    """The fields of all lines that have as many as they should."""
    split = [line.split(b":") for line in data.split(b"\n")]
    return [fields for fields in split if len(fields) == count and not fields[0].startswith(b"#")]


def _text(lines: list[list[bytes]]) -> bytes:
    return b"".join(b":".join(fields) + b"\n" for fields in lines)
