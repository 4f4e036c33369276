"""What is remembered of versions that were withdrawn from a repository.

The disk of a version goes when nobody needs it any more. What it was made from, when it was published and
withdrawn, the digest of each of its files, and its papers (`PAPERS`) stay, signed by the same role.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from kiosk.model.base import Digest, Document
from kiosk.model.manifest import ImageManifest, LayerManifest, Manifest

PAPERS = ("packages", "sbom", "provenance", "audit")
"""Artifacts whose bytes stay: some ten kilobytes of a version, compressed."""
LARGEST = 32 << 20
"""The most bytes of a history that a reader loads."""
MOST = 5000
"""Versions that are remembered of one name: more than thirteen years of one a day."""


class Withdrawn(Document):
    """A version that was withdrawn: `signed` is the digest of its manifest as it was published. The manifest here
    says of the papers alone where they are stored."""

    published: datetime | None = None
    withdrawn: datetime
    signed: Digest
    manifest: Annotated[ImageManifest | LayerManifest, Field(discriminator="schema_")]


class History(Document):
    """The withdrawn versions of one name, oldest first."""

    schema_: Literal["kiosk.history/1"] = Field("kiosk.history/1", alias="schema")
    name: str
    withdrawn: Annotated[tuple[Withdrawn, ...], Field(max_length=MOST)] = ()

    def with_more(self, more: Iterable[Withdrawn]) -> History:
        """The history with more versions; where they become too many, the oldest are forgotten."""
        return self.model_copy(update={"withdrawn": (*self.withdrawn, *more)[-MOST:]})


def remembered(manifest: Manifest) -> Manifest:
    """A manifest as a history has it."""
    artifacts = {
        name: a.model_copy(
            update={"index": a.index if name in PAPERS else None, "regions": None, "differences": ()}
        )
        for name, a in manifest.artifacts.items()
    }
    return manifest.model_copy(update={"artifacts": artifacts, "torrent": None})
