"""Context disks, as the clouds make them: the same document, and beside it the signed metadata in `kiosk/`.

    nocloud      vfat, labelled CIDATA       user-data, meta-data
    configdrive  ISO 9660, labelled config-2 openstack/latest/user_data, openstack/latest/meta_data.json
    opennebula   ISO 9660, labelled CONTEXT  context.sh with KIOSK_CONTEXT_BASE64

A disk can hold a farm's secrets: only its owner can read it, from its first byte on.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiosk.cloud.context import Source, data
from kiosk.errors import UsageError
from kiosk.files import scratch, storage_errors
from kiosk.run import run

LIMIT = 64 << 20
LABELS: dict[Source, str] = {"nocloud": "CIDATA", "configdrive": "config-2", "opennebula": "CONTEXT"}


def make_disk(disk: Path, context: Mapping[str, Any], bundle: Path, source: Source = "nocloud") -> None:
    """Writes the context disk; `bundle` is a folder with `metadata/` and `targets/`. UsageError where it is too
    large, or where the source is no disk."""
    if source not in LABELS:
        raise UsageError(f"{source} is no disk")
    tops = [p for p in (bundle / "metadata", bundle / "targets") if p.is_dir()]
    files = {
        f"kiosk/{p.relative_to(bundle)}": p for top in tops for p in sorted(top.rglob("*")) if p.is_file()
    }
    total = sum(-(-p.stat().st_size // 4096) * 4096 for p in files.values())
    if total > LIMIT // 2:
        raise UsageError(f"the metadata for the context disk is {total} bytes: too large", where=str(bundle))
    with scratch(disk.parent, prefix="context-") as folder, storage_errors(disk):
        image = folder / "context.img"
        image.touch(mode=0o600)
        if source == "nocloud":
            _vfat(image, _files(source, context), tops, total)
        else:
            small = _files(source, context)
            _iso(
                image, LABELS[source], {**small, **{name: path.read_bytes() for name, path in files.items()}}
            )
        image.chmod(0o600)
        image.replace(disk)


def _files(source: Source, context: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a source, by path."""
    node, told = context["node"], data(context)
    if source == "nocloud":
        meta = f"instance-id: {node['id']}\nlocal-hostname: {node['name']}\n"
        return {"meta-data": meta.encode(), "user-data": told}
    if source == "configdrive":
        metadata = {"uuid": node["id"], "name": node["name"], "hostname": node["name"]}
        return {
            "openstack/latest/meta_data.json": json.dumps(metadata).encode(),
            "openstack/latest/user_data": told,
        }
    packed = base64.b64encode(told).decode()
    return {"context.sh": f"# Written by kiosk\nKIOSK_CONTEXT_BASE64='{packed}'\n".encode()}


def _vfat(image: Path, files: Mapping[str, bytes], tops: list[Path], total: int) -> None:
    os.truncate(image, -(-(total * 2 + (2 << 20)) // (1 << 20)) << 20)
    run(["mkfs.vfat", "-n", LABELS["nocloud"], image], timeout=30)
    for name, content in files.items():
        file = image.parent / name
        file.touch(mode=0o600)
        file.write_bytes(content)
        run(["mcopy", "-i", image, file, "::/"], timeout=30)
    run(["mmd", "-i", image, "::/kiosk"], timeout=30)
    if tops:
        run(["mcopy", "-s", "-i", image, *tops, "::/kiosk/"], timeout=60)


def _iso(image: Path, label: str, files: Mapping[str, bytes]) -> None:
    """A file system with Rock Ridge names: those of ISO 9660 itself are only numbers."""
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident=label, rock_ridge="1.09")
    folders = {"": ""}
    for number, (name, content) in enumerate(sorted(files.items())):
        parent = ""
        for part in name.split("/")[:-1]:
            path = f"{parent}/{part}"
            if path not in folders:
                folders[path] = f"{folders[parent]}/D{len(folders)}"
                iso.add_directory(folders[path], rr_name=part, file_mode=0o040500)
            parent = path
        plain, rock_ridge = f"{folders[parent]}/F{number}.;1", name.rpartition("/")[2]
        iso.add_fp(io.BytesIO(content), len(content), plain, rr_name=rock_ridge, file_mode=0o100400)
    with image.open("r+b") as f:
        iso.write_fp(f)
    iso.close()
