"""The tools that are compared, each as a user would run it. One object measures one tool, in a folder of its own.

Every image is published in the order v1, quiet, heavy, rebuilt, into one place. An update is measured on a
host that holds v1 (the tool's own form of it, where it needs one), and its result is compared with the image.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks import server
from benchmarks.measure import Step, held, step
from benchmarks.server import Server, Traffic
from kiosk.errors import NotFoundError

PYTHON = (sys.executable, "-m")
TO_DISK = ("dd", "bs=1M", "iflag=fullblock", "conv=sparse", "status=none")
PROJECT = Path(__file__).parent.parent


class NotMeasured(NotFoundError):
    """The tool, or this version of it, has no such way; the row says so."""


class Tool:
    """What all tools have in common: `site` is served by nginx, `host` is the host that fetches."""

    name: ClassVar[str]
    note: ClassVar[str] = ""
    programs: ClassVar[Sequence[str]] = ()
    chunking: ClassVar[bool] = False
    """Whether it moves pieces that it finds by their content (the general way has to beat those)."""

    def __init__(self, home: Path, folder: Path, nginx: Server) -> None:
        self.home = home
        self.folder = folder
        self.server = nginx
        self.site = folder / "site"
        self.host = folder / "host"
        self.site.mkdir(parents=True)
        self.host.mkdir()

    def image(self, name: str) -> Path:
        """One of the images that are compared."""
        return self.home / f"{name}.raw"

    def target(self, name: str) -> Path:
        """Where the host makes that image."""
        return self.host / f"{name}.raw"

    def url(self, path: str) -> str:
        """The address of a file below `site`."""
        return f"{self.server.url}/{self.folder.name}/site/{path}"

    def inputs(self, name: str) -> list[Path]:
        """What a step for that image reads, to be in the page cache before."""
        return [self.image("v1"), self.image(name), self.site]

    def publish(self, name: str) -> Step:
        """Publishes an image."""
        raise NotImplementedError

    def stored(self) -> int:
        """Bytes that the publisher keeps for all published images."""
        return held(self.site)

    def cold(self) -> tuple[Step, Traffic]:
        """Makes v1 on a host that holds nothing; NotMeasured where the tool has no way over HTTP."""
        raise NotMeasured("no way over plain HTTP")

    def prepare(self, name: str) -> None:
        """What has to be there before an update and is not part of it."""

    def update(self, name: str) -> tuple[Step, Traffic]:
        """Makes an image on a host that holds v1."""
        raise NotImplementedError

    def _sent(self, done: Step) -> tuple[Step, Traffic]:
        return done, self.server.sent()


class Kiosk(Tool):
    """kiosk by its general way alone."""

    name = "kiosk, general way"
    differences: ClassVar[bool] = False

    def publish(self, name: str) -> Step:
        options = ["--differences"] if self.differences else []
        return self._run("publish", self.site, self.image(name), *options)

    def stored(self) -> int:
        return held(self.site / "repository")

    def cold(self) -> tuple[Step, Traffic]:
        return self._fetch("v1")

    def update(self, name: str) -> tuple[Step, Traffic]:
        return self._fetch(name, "--seed", self.target("v1"), self.image("v1").name)

    def inputs(self, name: str) -> list[Path]:
        return [*super().inputs(name), *self.host.glob("*.raw")]

    def _fetch(self, name: str, *options: str | Path) -> tuple[Step, Traffic]:
        url, target = self.url("repository"), self.target(name)
        return self._sent(
            self._run("fetch", self.site, url, self.image(name).name, target, *options, output=target)
        )

    def _run(self, *argv: str | Path, output: Path | None = None) -> Step:
        return step([*PYTHON, "benchmarks.kiosk_way", *argv], output=output, cwd=PROJECT)


class KioskDifferences(Kiosk):
    """kiosk with differences for hosts that hold v1."""

    name = "kiosk"
    differences = True


class Casync(Tool):
    """Content-defined chunks of 64 KiB (its default), each zstd-compressed in a file of its own."""

    name = "casync"
    programs = ("casync",)
    chunking = True
    note = "64 KiB chunks (default), zstd"

    def publish(self, name: str) -> Step:
        argv = ["casync", "make", "--compression=zstd", f"--store={self.site}/chunks"]
        return step([*argv, self.site / f"{name}.caibx", self.image(name)])

    def cold(self) -> tuple[Step, Traffic]:
        return self._extract("v1")

    def update(self, name: str) -> tuple[Step, Traffic]:
        return self._extract(name, f"--seed={self.image('v1')}")

    def _extract(self, name: str, *options: str) -> tuple[Step, Traffic]:
        argv = ["casync", "extract", f"--store={self.url('chunks')}", *options, self.url(f"{name}.caibx")]
        return self._sent(step([*argv, self.target(name)], output=self.target(name)))


class Zchunk(Tool):
    """Content-defined chunks in one file for each version, fetched with ranges."""

    name = "zchunk"
    programs = ("zck", "zckdl", "unzck")
    chunking = True
    note = "the host holds v1 as v1.zck; unzck to a sparse disk"

    def publish(self, name: str) -> Step:
        return step(["zck", "-o", self.site / f"{name}.zck", self.image(name)])

    def cold(self) -> tuple[Step, Traffic]:
        return self._download("v1")

    def update(self, name: str) -> tuple[Step, Traffic]:
        return self._download(name, "-s", self.site / "v1.zck")

    def _download(self, name: str, *options: str | Path) -> tuple[Step, Traffic]:
        got, target = self.host / f"{name}.zck", self.target(name)
        done = step(["zckdl", *options, self.url(f"{name}.zck")], cwd=self.host)
        return self._sent(
            done.then(step(["unzck", "-c", got], [*TO_DISK, f"of={target}"], output=target, cwd=self.host))
        )


class Zsync(Tool):
    """A control file beside the plain image, fetched with ranges."""

    name = "zsync"
    programs = ("zsyncmake", "zsync")
    chunking = True
    note = "plain images"

    def publish(self, name: str) -> Step:
        served = self.site / f"{name}.raw"
        served.symlink_to(self.image(name))
        return step(["zsyncmake", "-u", served.name, "-o", f"{served}.zsync", served])

    def stored(self) -> int:
        return held(self.site) + sum(held(p.resolve()) for p in self.site.glob("*.raw"))

    def cold(self) -> tuple[Step, Traffic]:
        raise NotMeasured("moves the whole plain disk")

    def update(self, name: str) -> tuple[Step, Traffic]:
        target = self.target(name)
        argv: list[str | Path] = [
            "zsync",
            "-q",
            "-i",
            self.image("v1"),
            "-o",
            target,
            self.url(f"{name}.raw.zsync"),
        ]
        return self._sent(step(argv, output=target, cwd=self.host))


class Rsync(Tool):
    """The rolling checksum, from a daemon that holds the plain image to a host that holds v1."""

    name = "rsync -z"
    programs = ("rsync",)
    chunking = True
    note = "daemon on loopback, zstd; requests are not counted"

    def publish(self, name: str) -> Step:
        raise NotMeasured("nothing to publish")

    def stored(self) -> int:
        return sum(held(path) for path in self.home.glob("*.raw"))

    def prepare(self, name: str) -> None:
        shutil.rmtree(self.host)
        self.host.mkdir()
        step(["cp", "--sparse=always", self.image("v1"), self.target(name)])

    def update(self, name: str) -> tuple[Step, Traffic]:
        target = self.target(name)
        with server.rsyncd(self.home, self.folder / "daemon") as url:
            argv = ["rsync", "-z", "--compress-choice=zstd", "--sparse", "--ignore-times", "--no-whole-file"]
            done = step([*argv, "--stats", f"{url}/{name}.raw", target], output=target)
        moved = [re.search(rf"Total bytes {way}: ([\d,]+)", done.output) for way in ("sent", "received")]
        return done, Traffic(sum(int(m[1].replace(",", "")) for m in moved if m), 0)


class WholeZstd(Tool):
    """The whole image, compressed: what most sites do."""

    name = "whole image, zstd -3"
    programs: ClassVar[Sequence[str]] = ("zstd", "curl", "dd")
    note = "curl | zstd -d | dd"

    def publish(self, name: str) -> Step:
        return step(["zstd", "-q", "-3", "-T0", self.image(name), "-o", self.site / f"{name}.zst"])

    def cold(self) -> tuple[Step, Traffic]:
        return self.update("v1")

    def update(self, name: str) -> tuple[Step, Traffic]:
        target = self.target(name)
        curl = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", self.url(f"{name}.zst")]
        return self._sent(step(curl, ["zstd", "-d"], [*TO_DISK, f"of={target}"], output=target))


class PatchFrom(WholeZstd):
    """A patch against the whole of v1, both without their zero blocks, since a window is at most 2 GiB."""

    name = "zstd -3 --patch-from"
    programs = ("zstd", "curl")
    note = "--long=31, disks without zero blocks (stripping and filling is counted)"
    WINDOW = ("--long=31", "--memory=2048MB")

    def publish(self, name: str) -> Step:
        packed = self._packed(self.folder, name)
        done = self._pack("strip", self.image(name), packed, self.site / f"{name}.map")
        if name == "v1":
            return done.then(step(["zstd", "-q", "-3", "-T0", packed, "-o", self.site / "v1.zst"]))
        old = f"--patch-from={self._packed(self.folder, 'v1')}"
        patch = self.site / f"{name}.patch"
        done = done.then(step(["zstd", "-q", "-3", *self.WINDOW, old, packed, "-o", patch]))
        packed.unlink()
        return done

    def cold(self) -> tuple[Step, Traffic]:
        raise NotMeasured("as the whole image")

    def update(self, name: str) -> tuple[Step, Traffic]:
        old, new = self._packed(self.host, "v1"), self._packed(self.host, name)
        patch, where = self.host / "patch", self.host / "map"
        curl: list[str | Path] = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "-o", patch]
        curl += [self.url(f"{name}.patch"), "-o", where, self.url(f"{name}.map")]
        done = step(curl)
        done = done.then(self._pack("strip", self.image("v1"), old, self.host / "v1.map"))
        done = done.then(step(["zstd", "-q", "-d", *self.WINDOW, f"--patch-from={old}", patch, "-o", new]))
        return self._sent(done.then(self._pack("fill", new, where, self.target(name), output=True)))

    def _packed(self, folder: Path, name: str) -> Path:
        return folder / f"{name}.packed"

    def _pack(self, way: str, *paths: Path, output: bool = False) -> Step:
        return step(
            [*PYTHON, "benchmarks.packed", way, *paths], output=paths[-1] if output else None, cwd=PROJECT
        )
