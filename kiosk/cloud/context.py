"""The context disk: what a VM is told at boot, as a NoCloud disk (vfat, labelled CIDATA).

`meta-data` and `user-data` as cloud-init's NoCloud source expects them; `user-data` is the context
document, and `kiosk/` has the signed metadata and manifests from which the guest verifies its layers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kiosk.errors import UsageError
from kiosk.files import scratch, storage_errors
from kiosk.model.names import ImageRef, LayerRef
from kiosk.run import run

LIMIT = 64 << 20
MOUNT = "/scratch"


def document(
    *, uuid: str, name: str, image: ImageRef, layers: Sequence[LayerRef], lifetime: int | None
) -> dict[str, Any]:
    """The context document (schema kiosk.context/1)."""
    context: dict[str, Any] = {
        "schema": "kiosk.context/1",
        "node": {"id": uuid, "name": name},
        "image": {"name": image.name, "version": str(image.version)},
        "layers": [
            {"name": ref.base, "version": str(ref.version), "device": f"layer-{i}"}
            for i, ref in enumerate(layers)
        ],
        "scratch": {"device": "scratch", "mount": MOUNT},
    }
    if lifetime is not None:
        context["life"] = {"age": lifetime}
    return context


def make_disk(disk: Path, context: dict[str, Any], bundle: Path) -> None:
    """Writes the context disk; `bundle` is a folder with `metadata/` and `targets/`."""
    node = context["node"]
    files = [p for p in bundle.rglob("*") if p.is_file()]
    total = sum(-(-p.stat().st_size // 4096) * 4096 for p in files)
    if total > LIMIT // 2:
        raise UsageError(f"the metadata for the context disk is {total} bytes: too large", where=str(bundle))
    size = -(-(total * 2 + (2 << 20)) // (1 << 20)) << 20
    with scratch(disk.parent, prefix="context-") as folder, storage_errors(disk):
        (folder / "meta-data").write_text(f"instance-id: {node['id']}\nlocal-hostname: {node['name']}\n")
        (folder / "user-data").write_text(json.dumps(context, indent=1) + "\n")
        image = folder / "context.img"
        with image.open("wb") as f:
            f.truncate(size)
        run(["mkfs.vfat", "-n", "CIDATA", image], timeout=30)
        run(["mcopy", "-i", image, folder / "meta-data", folder / "user-data", "::/"], timeout=30)
        run(["mmd", "-i", image, "::/kiosk"], timeout=30)
        tops = sorted(p for p in bundle.iterdir() if p.name in ("metadata", "targets"))
        if tops:
            run(["mcopy", "-s", "-i", image, *tops, "::/kiosk/"], timeout=60)
        image.replace(disk)
