"""The context disk holds what the guest's own reader accepts, byte for byte, under the names it looks for."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from contextualize import context as told_context
from kiosk.cloud import context, context_disk
from kiosk.errors import UsageError
from kiosk.model.names import ImageRef, LayerRef
from kiosk.run import run

UUID = str(uuid.UUID(int=7))
LAYERS = [LayerRef.parse("site/example/base@1"), LayerRef.parse("experiment/demo/software@2.1")]
TOLD = context.document(
    uuid=UUID, name="node-1", image=ImageRef.parse("worker@3"), layers=LAYERS, lifetime=86400
)


def read(disk: Path, name: str) -> bytes:
    """A file of the disk, by mtools."""
    return run(["mtype", "-i", disk, f"::/{name}"], timeout=10).encode()


def test_the_guest_reads_back_what_it_was_told(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    long = f"targets/layers/site/example/base/{'a' * 64}.1.json"
    for name, text in {
        "metadata/1.root.json": "root",
        "metadata/12.site-example.json": "x" * 5000,
        long: "m",
    }.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text(text)
    (bundle / "secret").write_text("not for the guest")
    disk = tmp_path / "context.img"
    context_disk.make_disk(disk, TOLD, bundle)

    found = told_context.parse(read(disk, "user-data"))
    assert (found.node_id, found.node_name, found.image, found.version) == (UUID, "node-1", "worker", "3")
    assert [(str(use.name), use.version, use.device) for use in found.layers] == [
        ("site/example/base", "1", "layer-0"),
        ("experiment/demo/software", "2.1", "layer-1"),
    ]
    assert found.scratch is not None and found.scratch.device == "scratch"
    assert found.life.age == 86400
    assert read(disk, "meta-data") == f"instance-id: {UUID}\nlocal-hostname: node-1\n".encode()
    assert read(disk, "kiosk/metadata/12.site-example.json") == b"x" * 5000
    assert read(disk, f"kiosk/{long}") == b"m"
    assert "CIDATA" in run(["mlabel", "-s", "-i", disk, "::"], timeout=10)
    assert "secret" not in run(["mdir", "-/", "-b", "-i", disk, "::/"], timeout=10)
    assert [p.name for p in tmp_path.iterdir() if p.name not in ("bundle", "context.img")] == []


def test_without_a_lifetime_there_is_none_in_the_document() -> None:
    told = context.document(uuid=UUID, name="n", image=ImageRef.parse("w@1"), layers=[], lifetime=None)
    assert told_context.parse(json.dumps(told).encode()).life.age == 86400


def test_a_bundle_that_is_too_large_is_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle/metadata"
    bundle.mkdir(parents=True)
    with (bundle / "1.root.json").open("wb") as f:
        f.truncate(context_disk.LIMIT)
    with pytest.raises(UsageError, match="too large"):
        context_disk.make_disk(tmp_path / "context.img", TOLD, bundle.parent)
    assert not (tmp_path / "context.img").exists()
