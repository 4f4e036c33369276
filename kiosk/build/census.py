"""What a tree holds: its digest, its files. (Its packages: kiosk.packages.)"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from kiosk.build.clean import walk
from kiosk.model.census import FileEntry


def tree_digest(root: Path) -> str:
    """The digest of a tree: paths, types, owners, modes, times, extended attributes, links and bytes."""
    digest = hashlib.sha256()
    links: dict[tuple[int, int], str] = {}
    for path in [root, *walk(root)]:
        found = path.lstat()
        name = path.relative_to(root).as_posix()
        fields: list[object] = [name, found.st_mode, found.st_uid, found.st_gid, int(found.st_mtime)]
        fields += [(k, os.getxattr(path, k, follow_symlinks=False)) for k in _attributes(path)]
        if stat.S_ISLNK(found.st_mode):
            fields.append(str(path.readlink()))
        elif stat.S_ISREG(found.st_mode):
            first = links.setdefault((found.st_dev, found.st_ino), name)
            if first == name:
                with path.open("rb") as f:
                    fields.append(hashlib.file_digest(f, "sha256").hexdigest())
            else:
                fields.append(f"link to {first}")
        elif stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode):
            fields.append(found.st_rdev)
        digest.update(repr(fields).encode())
    return "sha256:" + digest.hexdigest()


def _attributes(path: Path) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


def files(root: Path) -> list[FileEntry]:
    """All that a tree holds, as the guest sees it, sorted by path."""
    return sorted((_entry(root, path) for path in walk(root)), key=lambda entry: entry.path)


def _entry(root: Path, path: Path) -> FileEntry:
    found = path.lstat()
    size = digest = target = device = None
    if stat.S_ISREG(found.st_mode):
        with path.open("rb") as f:
            size, digest = found.st_size, hashlib.file_digest(f, "sha256").hexdigest()[:32]
    elif stat.S_ISLNK(found.st_mode):
        target = _text(path.readlink())
    elif stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode):
        device = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return FileEntry(
        path="/" + _text(path.relative_to(root)),
        mode=f"{found.st_mode:06o}",
        owner=f"{found.st_uid}:{found.st_gid}",
        size=size,
        digest=digest,
        target=target,
        device=device,
    )


def _text(path: Path) -> str:
    """A path as text; bytes that are not UTF-8 are shown as \\xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")
