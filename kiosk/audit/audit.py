"""The audit of a finished image: what it must not have, found anew from its bytes.

It shares nothing with what sanitises or builds, looks at every file once, and writes nothing. Files that are to the
byte what a distribution's package brought to /usr are public: no secrets are looked for there. Whatever can't be
looked at is a finding; that the audit could not be finished is one that no exception accepts.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kiosk import clock
from kiosk.audit.accounts import accounts
from kiosk.audit.catalogue import CHECKS
from kiosk.audit.exceptions import apply
from kiosk.audit.identity import identity
from kiosk.audit.model import (
    MAX_FINDINGS,
    UNFINISHED,
    Counts,
    Facts,
    Finding,
    Hit,
    Report,
    UpdatesUnknownError,
    shown,
)
from kiosk.audit.modes import modes
from kiosk.audit.owners import Expected, Owners, owners
from kiosk.audit.places import held, state
from kiosk.audit.read import Looked, Reader
from kiosk.audit.sample import Sample
from kiosk.audit.tree import Tree
from kiosk.disk.volume import Node, Volume

_PUBLIC = (b"/usr/", b"/lib/", b"/bin/", b"/sbin/", b"/boot/", b"/lib64/")
_LOGGERS = (b"/usr/lib/systemd/systemd-journald", b"/usr/sbin/rsyslogd", b"/usr/sbin/syslog-ng", b"/sbin/syslogd",
            b"/usr/sbin/syslogd", b"/sbin/rsyslogd", b"/lib/systemd/systemd-journald")  # fmt: skip
MOST_HITS = 100_000
"""With so many findings no further file is looked at."""
Progress = Callable[[int], object]


@dataclass
class _Seen:
    """What the reading of all files gave."""

    hits: list[Hit] = field(default_factory=list)
    digests: dict[bytes, str] = field(default_factory=dict)
    pristine: set[bytes] = field(default_factory=set)


def audit(
    volume: Volume,
    facts: Facts,
    *,
    beside: Iterable[Hit] = (),
    progress: Progress = lambda n: None,
    now: clock.Clock = clock.now,
) -> Report:
    """Looks at the root file system of an image and reports. `beside` is what was seen outside of it (other
    partitions), `progress` is told bytes. Raises CorruptError when the file system can't be read at all."""
    tree = Tree(volume)
    owned = owners(tree)
    reader = Reader(volume, lambda sample: _by_name(sample, facts))
    seen = _read(tree, owned, reader, progress)
    hits = [*beside, *seen.hits, *state(tree.nodes.values(), seen.pristine)]
    for node in tree.nodes.values():
        hits += modes(node, owned)
    hits += _about_packages(owned, facts)
    if not any(tree.file(path) for path in _LOGGERS):
        hits.append(Hit("site-logging", b"/", "the image has no system log"))
    left_out: dict[str, str] = {}
    hits += _updates(owned, facts, system(tree) or (facts.os, facts.release), left_out)
    counts = Counts(
        names=len(tree.nodes),
        files=reader.files,
        bytes=reader.bytes,
        verified=len(seen.pristine),
        packages=len(owned.packages),
    )
    return _report(facts, hits, seen.digests, counts, left_out, now())


def _read(tree: Tree, owned: Owners, reader: Reader, progress: Progress) -> _Seen:
    """Reads every regular file, each once however many names it has, as long as the reader may."""
    seen = _Seen()
    names: dict[int, list[Node]] = {}
    for node in tree.nodes.values():
        if stat.S_ISREG(node.mode):
            names.setdefault(node.inode, []).append(node)
    skipped, reason = 0, ""
    expectations = {i: [owned.files.get(n.path) for n in same] for i, same in names.items()}
    packaged_first = sorted(names, key=lambda i: not any(e and e.digest for e in expectations[i]))
    for inode in packaged_first:
        reason = (
            reason
            or reader.over
            or (f"there are more than {MOST_HITS} findings" if len(seen.hits) > MOST_HITS else "")
        )
        if reason:
            skipped += 1
            continue
        same, expected = names[inode], expectations[inode]
        node = same[0]
        before = reader.bytes
        whole: bytes | None = None
        found: dict[str, str] = {}
        public = False
        known = next((e for e in expected if e is not None and e.digest), None)
        if known is not None:
            algorithm = known.digest.partition(":")[0]
            digest, looked = reader.digest(node, algorithm)
            found, whole = looked.digests, looked.whole
            public = _compare(same, expected, digest, looked, seen)
        if public and whole:
            seen.hits += reader.strong(same, whole)
        if node.size and not public:
            looked = reader.look(same, whole=whole, pristine=seen.pristine)
            found |= looked.digests
            seen.hits += _not_in_source(node, looked.hits, tree, reader, seen.pristine)
        for n in same:
            if "sha256" in found:
                seen.digests[n.path] = f"sha256:{found['sha256']}"
        progress(reader.bytes - before)
    if skipped:
        said = f"the audit is not finished: {skipped} files were not looked at, as {reason}"
        seen.hits.append(Hit("unexamined", b"/", said, item=UNFINISHED))
    return seen


def _not_in_source(
    node: Node, hits: list[Hit], tree: Tree, reader: Reader, pristine: set[bytes]
) -> list[Hit]:
    """The hits in a file but, where it is Python's compiled form of a public module beside it, those that the module
    has as well: examples in its documentation."""
    if not hits or not node.path.endswith(b".pyc"):
        return hits
    folder, _, name = node.path.rpartition(b"/")
    module = tree.nodes.get(folder.removesuffix(b"__pycache__") + name.partition(b".")[0] + b".py")
    if module is None or module.path not in pristine or not module.path.startswith(_PUBLIC):
        return hits
    known = {(h.check, h.message) for h in reader.look([module], pristine=pristine).hits}
    return [h for h in hits if (h.check, h.message) not in known]


def _compare(
    same: list[Node], expected: list[Expected | None], digest: str, looked: Looked, seen: _Seen
) -> bool:
    """Compares a file with what its packages say; whether it is public under all of its names."""
    seen.hits += looked.hits
    public = True
    for node, known in zip(same, expected, strict=True):
        if known is None or not known.digest:
            public = False
        elif known.digest == digest:
            seen.pristine.add(node.path)
            public &= node.path.startswith(_PUBLIC)
        else:
            public = False
            if not known.configuration:
                hit = Hit(
                    "package-file-changed", node.path, f"is not what the package {known.package} brought"
                )
                seen.hits.append(hit)
    return public


def _by_name(sample: Sample, facts: Facts) -> Iterator[Hit]:
    yield from accounts(sample, facts.accounts)
    yield from held(sample)
    yield from identity(sample, facts.partitions)


def _about_packages(owned: Owners, facts: Facts) -> Iterator[Hit]:
    """Whether the database is there, and says what was published."""
    database = {"dpkg": b"/var/lib/dpkg/status", "rpm": b"/var/lib/rpm"}.get(owned.kind, b"/")
    for fault in owned.faults:
        yield Hit("package-database", database, fault)
    if facts.packages is not None:
        here = {(p.name, p.version, p.architecture) for p in owned.packages}
        for name, version, architecture in sorted(here ^ facts.packages):
            there = "missing from" if (name, version, architecture) in here else "only in"
            yield Hit("package-list", database, f"{name} {version} {architecture} is {there} the published list",
                      item=f"{name}={version}")  # fmt: skip


def system(tree: Tree) -> tuple[str, str] | None:
    """The operating system and the name of its release (`debian`, `bookworm`), as the image says itself."""
    node = tree.file(b"/etc/os-release") or tree.file(b"/usr/lib/os-release")
    data = tree.content(node, 65536) if node is not None else None
    found = dict(re.findall(r"^([A-Z_]+)=[\"']?([^\"'\n]*)", (data or b"").decode("utf-8", "replace"), re.M))
    release = found.get("VERSION_CODENAME") or found.get("VERSION_ID", "")
    return (found["ID"], release) if "ID" in found else None


def _updates(owned: Owners, facts: Facts, of: tuple[str, str], left_out: dict[str, str]) -> Iterator[Hit]:
    if facts.updates is None:
        left_out["security-update"] = left_out["updates-unknown"] = "left out with --no-updates"
        return
    try:
        missing = facts.updates.missing(*of, owned.packages)
    except UpdatesUnknownError as e:
        yield Hit("updates-unknown", b"/", str(e))
        return
    for u in missing:
        message = f"{u.package} {u.installed}, and {u.available} is there"
        yield Hit("security-update", b"/var/lib/dpkg/status", message, item=u.package)


def _report(
    facts: Facts,
    hits: list[Hit],
    digests: Mapping[bytes, str],
    counts: Counts,
    left_out: Mapping[str, str],
    date: datetime,
) -> Report:
    order = {name: i for i, name in enumerate(CHECKS)}
    found: dict[tuple[object, ...], Hit] = {}
    for h in sorted(hits, key=lambda h: (order[h.check], h.path, h.line or 0, h.item or "", h.message)):
        found.setdefault((h.check, h.path, h.line, h.item), h)
    findings = [
        Finding(
            check=h.check,
            path=shown(h.path),
            item=h.item,
            line=h.line,
            message=h.message,
            digest=digests.get(h.path),
        )
        for h in found.values()
    ]
    left, accepted, stale = apply(findings, facts.exceptions)
    return Report(
        image=facts.image,
        disk=facts.disk,
        date=date,
        passed=not left,
        counts=counts,
        findings=tuple(left[:MAX_FINDINGS]),
        more=max(0, len(left) - MAX_FINDINGS),
        accepted=tuple(accepted[:MAX_FINDINGS]),
        stale=stale,
        left_out=left_out,
    )
