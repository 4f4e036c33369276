"""Images that are large enough to get differences: 17 MB, made up, of which each version changes a part a little."""

from __future__ import annotations

from kiosk.files import sha256
from kiosk.model.manifest import Artifact, ImageManifest
from kiosk.publish import Published, publish
from tests.simulators.published import Kiosk, ask, build_image, bytes_of

BLOCKS = 4200


def disk(version: int) -> bytes:
    """Blocks that don't compress; each one of the first megabyte is a little different in each version."""
    blocks = [bytearray(bytes_of(f"block-{i % 1000}", 4096)) for i in range(BLOCKS)]
    for i, block in enumerate(blocks):
        block[:8] = (i + (version << 32 if i < 256 else 0)).to_bytes(8, "little")
    return b"".join(blocks)


def publish_large(kiosk: Kiosk, version: int) -> Published:
    """Builds and publishes worker@VERSION with such a disk."""
    return publish_disk(kiosk, version, disk(version))


def publish_disk(kiosk: Kiosk, version: int, data: bytes) -> Published:
    """Builds and publishes worker@VERSION with any disk."""
    folder = build_image(kiosk.settings, version=str(version))
    (folder / "disk.raw").write_bytes(data)
    made = ImageManifest.from_json((folder / "manifest.json").read_bytes(), where="")
    file = Artifact(file="disk.raw", size=len(data), digest=sha256(folder / "disk.raw"))
    manifest = made.model_copy(update={"artifacts": {**made.artifacts, "disk": file}})
    (folder / "manifest.json").write_bytes(manifest.to_json())
    return publish(kiosk.settings, folder, ask)
