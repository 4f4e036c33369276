"""Publishing: what is stored and signed, and what is refused before anything is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kiosk.errors import CorruptError, KioskError, NotFoundError, PolicyError, VerificationError
from kiosk.model.manifest import ImageManifest, Manifest
from kiosk.model.names import ImageRef, parse_ref
from kiosk.publish import built_folder, publish, read_built
from kiosk.trust.client import TrustedRepository
from tests.simulators.published import Kiosk, ask, build_image, build_layer, ready


def everything(kiosk: Kiosk) -> dict[Path, bytes]:
    """The served files."""
    return {p: p.read_bytes() for p in kiosk.settings.repository.rglob("*") if p.is_file()}


def test_a_second_version_stores_only_what_is_new(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    done = kiosk.image(version="2")
    disk = next(a for a in done.artifacts if a.name == "disk")
    kernel = next(a for a in done.artifacts if a.name == "kernel")
    assert disk.new_bytes < disk.size / 7, "one block in eight has changed"
    assert (kernel.new_objects, kernel.new_bytes) == (0, 0)
    assert [s.role for s in done.signatures] == ["images", "snapshot", "timestamp"]


def test_images_and_layers_are_signed_by_their_own_roles(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    assert kiosk.layer("experiment/x").signatures[0].keys == ("experiment-x",)
    assert kiosk.layer("site/b").signatures[0].keys == ("site-b",)
    reader = TrustedRepository(tmp_path / "r", kiosk.settings.repository, kiosk.root.read_bytes())
    assert [str(r) for r in reader.manifests()] == [
        "worker@1",
        "experiment/x/base@1",
        "site/a/base@1",
        "site/b/base@1",
    ]


def test_the_same_version_again_changes_nothing(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    before = everything(kiosk)
    done = publish(kiosk.settings, kiosk.settings.images / "worker/1", ask)
    assert done.already
    assert everything(kiosk) == before


def test_a_dry_run_checks_everything_writes_nothing_and_asks_for_nothing(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    folder = build_image(kiosk.settings, version="2")
    before = everything(kiosk)

    def never(_: str) -> bytes:
        raise AssertionError("no passphrase is needed")

    assert publish(kiosk.settings, folder, never, dry_run=True).size > 2_000_000
    (folder / "vmlinuz").write_bytes(bytes(200_000))
    with pytest.raises(CorruptError, match="digest"):
        publish(kiosk.settings, folder, never, dry_run=True)
    assert everything(kiosk) == before


def test_a_wrong_passphrase_ends_it_before_any_work(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    folder = build_image(kiosk.settings, version="2")
    before = everything(kiosk)
    with pytest.raises(VerificationError, match="passphrase is wrong"):
        publish(kiosk.settings, folder, lambda _: b"not the passphrase")
    assert everything(kiosk) == before


def altered(folder: Path) -> None:
    data = bytearray((folder / "disk.raw").read_bytes())
    data[1_000_000] ^= 1
    (folder / "disk.raw").write_bytes(data)


def shortened(folder: Path) -> None:
    with (folder / "disk.raw").open("r+b") as f:
        f.truncate(1000)


def missing(folder: Path) -> None:
    (folder / "initrd").unlink()


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def other_schema(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"kiosk.image/1", b"kiosk.image/7"))


def no_kernel(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"kernel":', b'"kernal":'))


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (altered, CorruptError, "disk.raw: has the digest"),
        (shortened, CorruptError, "disk.raw: has 1000 bytes"),
        (missing, CorruptError, "initrd: the manifest names this file"),
        (no_manifest, NotFoundError, "no built version"),
        (other_schema, VerificationError, "schema"),
        (no_kernel, CorruptError, "names no kernel"),
    ],
)
def test_a_built_version_that_is_not_what_its_manifest_says_is_refused(
    damage: object, error: type[KioskError], says: str, tmp_path: Path
) -> None:
    kiosk = ready(tmp_path)
    folder = build_image(kiosk.settings, version="2")
    metadata = {p: p.read_bytes() for p in kiosk.metadata.iterdir()}
    assert callable(damage)
    damage(folder)
    with pytest.raises(error, match=says):
        publish(kiosk.settings, folder, ask)
    assert {p: p.read_bytes() for p in kiosk.metadata.iterdir()} == metadata


def test_a_published_version_never_changes(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    before = everything(kiosk)
    with pytest.raises(PolicyError, match="published already, with other content"):
        kiosk.image(version="1", salt="other")
    assert everything(kiosk) == before


def test_versions_only_go_up_and_compare_as_numbers(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    kiosk.image(version="9")
    with pytest.raises(PolicyError, match="older than version 9"):
        kiosk.image(version="2")
    kiosk.image(version="10")


def test_what_a_check_refuses_is_not_signed(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    folder = build_layer(kiosk.settings, "site/b")
    seen = []

    def refuse(manifest: Manifest, where: Path) -> None:
        seen.append((str(manifest.ref), where))
        raise PolicyError("shadows a file of the base")

    before = everything(kiosk)
    with pytest.raises(PolicyError, match="shadows"):
        publish(kiosk.settings, folder, ask, checks=[refuse])
    assert seen == [("site/b/base@1", folder)]
    assert everything(kiosk) == before


def test_a_lost_memory_of_blocks_is_made_anew(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    for memory in kiosk.settings.home.glob("known-blocks.sqlite*"):
        memory.unlink()
    done = kiosk.image(version="2")
    assert done.new_bytes < done.size / 5


def test_objects_that_were_lost_are_stored_again(tmp_path: Path) -> None:
    """The memory of known blocks names packs that somebody has removed."""
    kiosk = ready(tmp_path)
    shutil.rmtree(kiosk.settings.repository / "objects")
    kiosk.image(version="2")
    assert kiosk.sync("worker").failure is None


def test_the_newest_built_version_is_found_by_number(tmp_path: Path) -> None:
    kiosk = Kiosk(tmp_path)
    for version in ("9", "10", "2"):
        build_image(kiosk.settings, version=version)
    (kiosk.settings.images / "worker/11").mkdir()  # a build that was interrupted
    assert built_folder(kiosk.settings, ImageRef.parse("worker")).name == "10"
    assert built_folder(kiosk.settings, parse_ref("worker@2")).name == "2"
    with pytest.raises(NotFoundError, match=r"Built versions: 2, 9, 10"):
        built_folder(kiosk.settings, parse_ref("worker@3"))


def test_an_image_without_a_verified_root_does_not_follow_one_that_has_it(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    folder = build_image(kiosk.settings, "worker", "2")
    manifest = read_built(folder)
    assert isinstance(manifest, ImageManifest)
    bare = manifest.model_copy(
        update={"verity": None, "source": manifest.source.model_copy(update={"kind": "import"})}
    )
    (folder / "manifest.json").write_bytes(bare.to_json())
    with pytest.raises(PolicyError, match="has no verified root, and worker@1, which is published, has"):
        publish(kiosk.settings, folder, ask)
