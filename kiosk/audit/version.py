"""The audit of a built version: what its manifest says goes in, and the report that is published comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from kiosk import clock
from kiosk.audit.audit import Progress
from kiosk.audit.disk import audit_disk
from kiosk.audit.model import Facts, Report, Updates
from kiosk.errors import PolicyError
from kiosk.model import census
from kiosk.model.manifest import ImageManifest, Manifest

SHOWN = 5
FILE = "audit.json"


def facts_of(manifest: ImageManifest, folder: Path, updates: Updates | None) -> Facts:
    """What a built version's manifest says of the image."""
    return Facts(
        image=str(manifest.ref),
        disk=manifest.artifacts["disk"].digest,
        os=manifest.os,
        release=manifest.release,
        partitions=frozenset(p.uuid.lower() for p in manifest.partitions),
        accounts=frozenset(manifest.accounts),
        packages=_packages(manifest, folder),
        exceptions=manifest.exceptions,
        updates=updates,
    )


def audit_version(
    manifest: ImageManifest,
    folder: Path,
    updates: Updates | None,
    *,
    progress: Progress = lambda n: None,
    now: clock.Clock = clock.now,
) -> Report:
    """Audits the finished disk of a built version."""
    facts = facts_of(manifest, folder, updates)
    return audit_disk(folder / manifest.artifacts["disk"].file, facts, progress=progress, now=now)


@dataclass(frozen=True)
class Gate:
    """What `publish` asks before anything is signed: raises PolicyError while findings are left, else gives the report
    as a file of the version. `without` is a reason for which nothing is looked at, which the report then says;
    `looking` shows the progress over a disk's bytes."""

    updates: Updates | None
    without: str | None = None
    looking: Callable[[Path], AbstractContextManager[Progress]] = lambda path: nullcontext(lambda n: None)
    now: clock.Clock = clock.now

    def __call__(self, manifest: Manifest, folder: Path) -> Mapping[str, bytes]:
        if not isinstance(manifest, ImageManifest):
            return {}
        if self.without is not None:
            disk = manifest.artifacts["disk"].digest
            report = Report(image=str(manifest.ref), disk=disk, date=self.now(), audited=False,
                            reason=self.without, passed=False)  # fmt: skip
            return {FILE: report.to_json()}
        with self.looking(folder / manifest.artifacts["disk"].file) as progress:
            report = audit_version(manifest, folder, self.updates, progress=progress, now=self.now)
        if not report.passed:
            raise refusal(report)
        return {FILE: report.to_json()}


def refusal(report: Report) -> PolicyError:
    """What the audit found, as the error that ends a publication."""
    first = [f"{f.check}: {f.place}: {f.message}" for f in report.findings[:SHOWN]]
    count = len(report.findings) + report.more
    rest = [f"and {count - SHOWN} more"] if count > SHOWN else []
    return PolicyError(
        f"{report.image or 'the image'} did not pass the audit ({count} findings)\n  "
        + "\n  ".join(first + rest),
        hint=f"`kiosk audit {report.image or 'IMAGE'}` shows all and what to do; a recipe may accept a finding with a "
        "reason (`exceptions`).",
    )


def _packages(manifest: ImageManifest, folder: Path) -> frozenset[tuple[str, str, str]] | None:
    """The published list of packages; None where the version has none."""
    artifact = manifest.artifacts.get("packages")
    if artifact is None or artifact.size > census.LARGEST:
        return None
    path = folder / artifact.file
    listed = census.read_packages(path.read_bytes(), where=str(path))
    return frozenset((p.name, p.version, p.architecture) for p in listed)
