"""kiosk's own way, as one process for each step, so that it is measured like every other tool.

    python -m benchmarks.kiosk_way publish FOLDER IMAGE [--differences]
    python -m benchmarks.kiosk_way fetch FOLDER URL IMAGE TARGET [--seed FILE NAME]

FOLDER holds the repository, what the publisher remembers, and the artifact of every published image. `fetch`
reads FOLDER for artifacts alone (they stand for the signed manifests); every object comes from URL.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from kiosk import files
from kiosk.config import Settings
from kiosk.errors import KioskError
from kiosk.model.manifest import Artifact
from kiosk.store.api import DirectoryStore, HttpStore
from kiosk.store.cut import publish_file
from kiosk.store.fetch import Seed, fetch
from kiosk.store.index import load
from kiosk.store.known import KnownBlocks
from kiosk.store.older import Older

OLDEST = "v1.raw"
"""The version that hosts hold, and that differences lead from."""


def publish(folder: Path, image: Path, *, differences: bool) -> None:
    """Publishes an image as the publisher does; with `differences` also against v1, where that pays."""
    digest = digest_of(image)
    store = DirectoryStore(folder / "repository")
    before = read(folder, OLDEST) if _artifact(folder, OLDEST).exists() else None
    older = load(store, before.index) if before and before.index else None
    like = Older(older, image.with_name(OLDEST)) if older else None
    with KnownBlocks(folder / "known.sqlite") as known:
        index = publish_file(
            image, store, known, digest=digest, regions=regions_of(image), older=like, with_sums=True
        )
    artifact = Artifact(
        file=image.name, size=image.stat().st_size, digest=digest, regions=regions_of(image), index=index
    )
    if differences and before and older:
        from kiosk.publish import differ  # takes its time to load

        base = differ.Older(image.with_name(OLDEST), before.digest, older)
        made = differ.make(image, load(store, index), base, store, seconds=Settings().difference_seconds)
        artifact = artifact.model_copy(update={"differences": (made,) if made else ()})
    files.write(_artifact(folder, image.name), artifact.to_json())


def get(folder: Path, url: str, image: str, target: Path, seeds: list[tuple[Path, str]]) -> None:
    """Makes `target` the published image, from `url` and the older files that the host holds."""
    held = []
    for path, name in seeds:
        artifact = read(folder, name)
        held.append(Seed(path, artifact.index, artifact.digest))
    with HttpStore(url) as source:
        report = fetch(read(folder, image), target, source, held)
    print(json.dumps(asdict(report)))


def read(folder: Path, image: str) -> Artifact:
    """The artifact of a published image."""
    path = _artifact(folder, image)
    return Artifact.from_json(path.read_bytes(), where=str(path))


def digest_of(image: Path) -> str:
    """The image's digest, as the build that made it wrote it down beside it."""
    return image.with_suffix(".sha256").read_text().strip()


def regions_of(image: Path) -> str:
    """The digest of its regions' digests, which a build writes down in the same pass."""
    return image.with_suffix(".regions").read_text().strip()


def _artifact(folder: Path, image: str) -> Path:
    return folder / "artifacts" / f"{image}.json"


def main() -> int:
    """Runs one step from the command line."""
    parser = argparse.ArgumentParser(description="One step of kiosk, to be measured.")
    steps = parser.add_subparsers(dest="step", required=True)
    for name in ("publish", "fetch"):
        one = steps.add_parser(name)
        one.add_argument("folder", type=Path)
        if name == "publish":
            one.add_argument("image", type=Path)
            one.add_argument("--differences", action="store_true")
        else:
            one.add_argument("url")
            one.add_argument("image")
            one.add_argument("target", type=Path)
            one.add_argument("--seed", nargs=2, action="append", default=[], metavar=("FILE", "NAME"))
    given = parser.parse_args()
    try:
        if given.step == "publish":
            publish(given.folder, given.image, differences=given.differences)
        else:
            seeds = [(Path(file), name) for file, name in given.seed]
            get(given.folder, given.url, given.image, given.target, seeds)
    except KioskError as e:
        print(f"kiosk: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
