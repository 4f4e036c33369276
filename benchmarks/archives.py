"""Backup archives, restic and borg: what they add to their store for a version stands for what they move.

Neither reads its store over plain HTTP, so an update is published into a copy of the store that holds v1
alone, which is how far it grows for a host that holds v1; making the image is a restore from the local store,
with no network between.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.measure import Step, held, step, warm
from benchmarks.server import Traffic
from benchmarks.tools import Tool


class Archive(Tool):
    """A store, and the program's own memory of it, both in one folder that can be copied."""

    chunking = True

    def publish(self, name: str) -> Step:
        if name == "v1":
            self._init(self.site)
        done = self._store(self.site, name)
        if name == "v1":
            shutil.copytree(self.site, self._with_v1)
        return done

    def stored(self) -> int:
        return held(self.site / "repository")

    def prepare(self, name: str) -> None:
        shutil.rmtree(self._now, ignore_errors=True)
        shutil.copytree(self._with_v1, self._now)
        self._store(self._now, name)
        warm(self._now)

    def update(self, name: str) -> tuple[Step, Traffic]:
        grown = held(self._now / "repository") - held(self._with_v1 / "repository")
        return self._restore(self._now, name), Traffic(grown, 0)

    @property
    def _with_v1(self) -> Path:
        return self.folder / "with-v1" / "site"

    @property
    def _now(self) -> Path:
        return self.folder / "now" / "site"

    def _init(self, store: Path) -> None:
        raise NotImplementedError

    def _store(self, store: Path, name: str) -> Step:
        raise NotImplementedError

    def _restore(self, store: Path, name: str) -> Step:
        raise NotImplementedError


class Restic(Archive):
    """Content-defined chunks of about 1 MiB in packs, its defaults."""

    name = "restic"
    programs = ("restic",)
    note = "as stored, no network"

    def _init(self, store: Path) -> None:
        step(["restic", "init"], env=self._env(store))

    def _store(self, store: Path, name: str) -> Step:
        argv: list[str | Path] = ["restic", "backup", "--quiet", "--tag", name, self.image(name)]
        return step(argv, env=self._env(store))

    def _restore(self, store: Path, name: str) -> Step:
        target = self.host / str(self.image(name)).lstrip("/")
        argv: list[str | Path] = ["restic", "restore", "latest", "--tag", name, "--target", self.host]
        done = step(argv, output=None, env=self._env(store))
        flushed = step(["sync", target])
        target.rename(self.target(name))
        return Step(done.seconds, done.cpu, done.peak, flushed.seconds)

    def _env(self, store: Path) -> dict[str, str]:
        return {
            "RESTIC_REPOSITORY": str(store / "repository"),
            "RESTIC_CACHE_DIR": str(store / "cache"),
            "RESTIC_PASSWORD": "benchmark",
        }


class Borg(Archive):
    """Content-defined chunks of about 2 MiB, its default."""

    name = "borg"
    programs = ("borg",)
    note = "default chunks, zstd, as stored, no network"
    options: ClassVar[Sequence[str]] = ()

    def _init(self, store: Path) -> None:
        step(["borg", "init", "--encryption=none", store / "repository"], env=self._env(store))

    def _store(self, store: Path, name: str) -> Step:
        argv = ["borg", "create", "--compression=zstd,3", *self.options, f"{store}/repository::{name}"]
        return step([*argv, self.image(name)], env=self._env(store))

    def _restore(self, store: Path, name: str) -> Step:
        argv = ["borg", "extract", "--sparse", f"{store}/repository::{name}"]
        target = self.host / str(self.image(name)).lstrip("/")
        done = step(argv, output=None, env=self._env(store), cwd=self.host)
        flushed = step(["sync", target])
        target.rename(self.target(name))
        return Step(done.seconds, done.cpu, done.peak, flushed.seconds)

    def _env(self, store: Path) -> dict[str, str]:
        return {
            "BORG_BASE_DIR": str(store / "base"),
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }


class BorgFixed(Borg):
    """Fixed chunks of 64 KiB."""

    name = "borg, fixed 64 KiB"
    note = "zstd, as stored, no network"
    options = ("--chunker-params=fixed,65536", "--sparse")
