"""From a clean tree, a kernel and an initrd to all files of a version: disk, lists, provenance, manifest.

The same tree, subject, origin, number and date give the same bytes, whether the tree came from a recipe or from a
golden node.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from kiosk.build import assemble, census, clean, ext4, provenance
from kiosk.errors import BuildError
from kiosk.files import fsync_dir, storage_errors
from kiosk.model.accounts import AccountName
from kiosk.model.base import Digest
from kiosk.model.census import write_files, write_packages
from kiosk.model.manifest import Artifact, AuditException, ImageManifest, LayerPolicy, Source
from kiosk.model.names import Version
from kiosk.packages import Installed, installed
from kiosk.packages.sbom import Image, sbom
from kiosk.packages.wheels import Wheel, wheels
from kiosk.progress import bar
from kiosk.sanitise.tree import Tree
from kiosk.store.regions import digests

MIB = 1 << 20
KIOSK = ("usr", "lib", "kiosk")
"""Where an image says what it is."""


@dataclass
class Timing:
    """Seconds by step."""

    steps: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Counts the time of a block to a step."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.steps[name] = round(time.monotonic() - start, 2)


@dataclass(frozen=True)
class Subject:
    """What an image is before any byte of it: what its recipe or its golden node's definition says. `accounts` are
    those of people that it has.
    `size` is the root partition's in MiB; without it, what the tree needs."""

    name: str
    description: str
    architecture: Literal["x86_64"]
    os: str
    release: str
    policy: LayerPolicy
    accounts: tuple[AccountName, ...] = ()
    exceptions: tuple[AuditException, ...] = ()
    size: int | None = None


@dataclass(frozen=True)
class Origin:
    """What an image is made from: `digest` identifies it, `parameters` are what was asked for, `internal` what was
    found out or chosen on the way (a golden node's capture), both as JSON and the same for the same tree."""

    kind: Literal["recipe", "golden-node"]
    name: str
    digest: Digest
    parameters: Mapping[str, Any]
    internal: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Making:
    """Makes all files of a version."""

    subject: Subject
    number: Version
    origin: Origin
    date: int
    trust: Path | None
    timing: Timing

    def version(self, root: Path, staged: Path, folder: Path) -> ImageManifest:
        """Assembles the clean tree `root` with `vmlinuz` and `initrd`, which are in `staged` already, and
        writes the artifacts and the manifest beside them. `folder` is private and for what comes between."""
        subject = self.subject
        size = subject.size * MIB if subject.size else None
        with self.timing.step("census"):
            ext4.refuse_too_large(root, size)
            clean.clamp(root, self.date)
            content = census.tree_digest(root)
            self._inject(root)
            clean.clamp(root, self.date)
            packages, brought = installed(root, folder), wheels(root)
            (staged / "packages.json").write_bytes(write_packages([p.row() for p in packages]))
            (staged / "files.json").write_bytes(write_files(census.files(root)))
        with self.timing.step("assemble"), bar(f"{subject.name}: assemble", None, unit="disk"):
            disk = assemble.assemble(
                root,
                assemble.Boot(staged / "vmlinuz", staged / "initrd"),
                staged / "disk.raw",
                name=subject.name,
                date=self.date,
                size=size,
                folder=folder,
            )
        origin = self.origin
        source = Source(
            kind=origin.kind, name=origin.name, digest=origin.digest, tree=content, date=self.date
        )
        with self.timing.step("digest"):
            artifacts = {
                key: artifact(staged / file)
                for key, file in {
                    "disk": "disk.raw",
                    "kernel": "vmlinuz",
                    "initrd": "initrd",
                    "packages": "packages.json",
                    "files": "files.json",
                }.items()
            }
        with self.timing.step("papers"):
            self._papers(staged, source, artifacts, packages, brought)
        manifest = ImageManifest(
            name=subject.name,
            version=str(self.number),
            description=subject.description,
            architecture=subject.architecture,
            os=subject.os,
            release=subject.release,
            created=datetime.fromtimestamp(self.date, UTC),
            source=source,
            partitions=disk.partitions,
            verity=disk.verity,
            cmdline=disk.cmdline,
            policy=subject.policy,
            accounts=subject.accounts,
            exceptions=subject.exceptions,
            artifacts=artifacts,
        )
        (staged / "manifest.json").write_bytes(manifest.to_json())
        return manifest

    def _papers(
        self,
        staged: Path,
        source: Source,
        artifacts: dict[str, Artifact],
        packages: Sequence[Installed],
        brought: Sequence[Wheel],
    ) -> None:
        """The bill of materials, and the statement of where all of it came from."""
        subject, number = self.subject, str(self.number)
        image = Image(
            subject.name, number, subject.description, subject.os, subject.release, self.date, artifacts
        )
        (staged / "sbom.json").write_bytes(sbom(image, packages, brought))
        artifacts["sbom"] = artifact(staged / "sbom.json")
        statement = provenance.statement(
            number,
            source,
            (subject.os, subject.release),
            external=self.origin.parameters,
            internal=self.origin.internal,
            artifacts=artifacts,
            packages=packages,
            wheels=brought,
        )
        (staged / "provenance.json").write_bytes(statement)
        artifacts["provenance"] = artifact(staged / "provenance.json")

    def _inject(self, root: Path) -> None:
        """What the guest must know about itself, kept out of the tree so that the tree can be shared."""
        subject = self.subject
        identity = {"schema": "kiosk.image-identity/1", "name": subject.name, "version": str(self.number)}
        with Tree(root) as tree:
            if not tree.is_folder(KIOSK):
                tree.clear(KIOSK)
            tree.put((*KIOSK, "image.json"), json_text(identity).encode(), 0o644)
            tree.put((*KIOSK, "policy.json"), subject.policy.to_json(), 0o644)
            tree.clear((*KIOSK, "root.json"))
            if self.trust is not None:
                tree.put((*KIOSK, "root.json"), self.trust.read_bytes(), 0o644)
            tree.real_folder(KIOSK, 0o755)


def put_in_place(staged: Path, target: Path) -> None:
    """Moves a finished version to its place, all at once."""
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in staged.iterdir():
            path.chmod(0o644)
            with path.open("rb") as f:
                os.fsync(f.fileno())
        fsync_dir(staged)
        staged.rename(target)
        fsync_dir(target.parent)


def next_version(folder: Path, date: int) -> Version:
    """The next version of a day: YYYYMMDD.N, counting on from what is in `folder`."""
    day = int(datetime.fromtimestamp(date, UTC).strftime("%Y%m%d"))
    numbers = [0]
    for path in folder.glob(f"{day}.*"):
        if path.name.count(".") == 1 and path.name.split(".")[1].isdecimal():
            numbers.append(int(path.name.split(".")[1]))
    return Version((day, max(numbers) + 1))


def json_text(value: object) -> str:
    """A value as JSON that people can read, the same text for the same value."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def artifact(path: Path) -> Artifact:
    """A finished file as the manifest names it; BuildError when it was not made."""
    if not path.is_file():
        raise BuildError("an artifact was not made", where=str(path))
    digest, regions = digests(path)
    return Artifact(file=path.name, size=path.stat().st_size, digest=digest, regions=regions)
