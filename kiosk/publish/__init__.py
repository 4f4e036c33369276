"""Publishing: a built version's bytes into the store, its manifest under signature."""

from kiosk.publish.built import built_folder, read_built
from kiosk.publish.publish import Check, Published, StoredArtifact, Together, publish

__all__ = ["Check", "Published", "StoredArtifact", "Together", "built_folder", "publish", "read_built"]
