"""Disk images of all formats become versions like any other, to the byte; damaged ones become errors and nothing."""

from __future__ import annotations

import bz2
import gzip
import json
import struct
import time
from pathlib import Path

import pytest

from kiosk.config import Settings
from kiosk.errors import CorruptError, KioskError, NotFoundError, PolicyError, UsageError
from kiosk.exchange import budget
from kiosk.exchange.imported import Imported, Wanted, import_file
from kiosk.files import sha256
from kiosk.model.manifest import ImageManifest
from kiosk.model.names import Version
from kiosk.run import run
from tests.publish.test_commands import Terminal, terminal
from tests.simulators.disks import ESP, MIB, converted, ova, raw_disk
from tests.simulators.published import PASSPHRASE, build_image, ready

__all__ = ["terminal"]
FORMATS = [
    ("raw", "raw", ""),
    ("qcow2", "qcow2", ""),
    ("vmdk", "vmdk", ""),
    ("vmdk", "vmdk", "streamOptimized"),
    ("vdi", "vdi", ""),
    ("vhd", "vpc", ""),
    ("vhd", "vpc", "fixed"),
    ("vhdx", "vhdx", ""),
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_disk(tmp_path_factory.mktemp("disk") / "disk.raw")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def wanted(**more: object) -> Wanted:
    return Wanted(name="legacy", version=Version.parse("3"), **more)  # type: ignore[arg-type]


def nothing_left(settings: Settings) -> bool:
    """Whether neither a version nor a temporary file is there."""
    left = [p for p in settings.home.rglob("*") if p.name != "import.lock"]
    return [p.name for p in left if p.is_file()] == [] and not any((settings.home / "scratch").iterdir())


@pytest.mark.parametrize(("format", "driver", "kind"), FORMATS)
def test_a_disk_of_any_format_is_kept_to_the_byte(
    settings: Settings, disk: Path, tmp_path: Path, format: str, driver: str, kind: str
) -> None:
    given = converted(disk, driver, tmp_path / "given", kind)
    done = import_file(settings, given, wanted(description="An old server"))
    manifest = done.manifest
    raw = done.folder / "disk.raw"
    assert done.format == format
    assert raw.read_bytes()[: 8 * MIB] == disk.read_bytes()  # a VHD is rounded up to its cylinders
    assert set(raw.read_bytes()[8 * MIB :]) <= {0} and (driver == "vpc" or raw.stat().st_size == 8 * MIB)
    assert manifest.imported and manifest.verity is None and set(manifest.artifacts) == {"disk", "provenance"}
    assert (manifest.source.kind, manifest.source.digest) == ("import", sha256(given))
    assert manifest.source.tree == sha256(raw) == manifest.artifacts["disk"].digest
    assert [(p.label, p.offset, p.size) for p in manifest.partitions] == [
        ("efi", MIB, 2 * MIB),
        ("root", 3 * MIB, 4 * MIB),
    ]
    assert manifest.partitions[0].type == ESP
    assert (raw.stat().st_uid, raw.stat().st_mode & 0o777) == (0, 0o644)
    assert list((settings.home / "scratch").iterdir()) == []
    read = ImageManifest.from_json((done.folder / "manifest.json").read_bytes(), where="manifest")
    assert read == manifest


def test_a_system_that_can_be_read_as_data_is_named_and_its_files_are_listed(
    settings: Settings, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "usr/lib/os-release").write_text(
        'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nNAME="$(id)"\n'
    )
    (tree / "etc/os-release").symlink_to("../usr/lib/os-release")
    (tree / "var/lib/dpkg").mkdir(parents=True)
    (tree / "var/lib/dpkg/status").write_text(
        "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2\n\n"
    )
    run(["mkfs.ext4", "-q", "-d", tree, tmp_path / "d", "8M"], timeout=60)
    done = import_file(settings, tmp_path / "d", wanted(format="raw"))
    assert (done.manifest.os, done.manifest.release, done.unread) == ("debian", "bookworm", None)
    rows = {row["path"]: row for row in json.loads((done.folder / "files.json").read_bytes())}
    assert rows["/etc/os-release"]["target"] == "../usr/lib/os-release"
    assert rows["/usr/lib/os-release"]["digest"] == sha256(tree / "usr/lib/os-release")[7:39]
    packages = json.loads((done.folder / "packages.json").read_bytes())
    assert [(p["name"], p["version"]) for p in packages] == [("bash", "5.2")]
    assert "pkg:deb/debian/bash@5.2" in (done.folder / "sbom.json").read_text()


def system_disk(tmp_path: Path) -> Path:
    """A disk with a system, a file with more holes than its disk has bytes, one with some, and one of three names."""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    (tree / "log").mkdir()
    for name, size in (("lastlog", 1 << 40), ("some", 2 * MIB)):
        with (tree / "log" / name).open("wb") as f:
            f.write(b"begin")
            f.truncate(size)
    (tree / "log/a").write_bytes(bytes(range(256)) * 12000)
    (tree / "log/b").hardlink_to(tree / "log/a")
    (tree / "log/c").hardlink_to(tree / "log/a")
    run(["mkfs.ext4", "-q", "-d", tree, tmp_path / "d", "8M"], timeout=60)
    return tmp_path / "d"


def digests(done: Imported) -> dict[str, str | None]:
    """The digests of the files below /log."""
    rows = json.loads((done.folder / "files.json").read_bytes())
    return {Path(row["path"]).name: row.get("digest") for row in rows if row["path"].startswith("/log/")}


def test_holes_that_claim_more_than_a_disk_has_are_not_read_and_files_of_more_names_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = system_disk(tmp_path)
    monkeypatch.setattr(budget, "AGAIN", 0)
    monkeypatch.setattr(
        budget, "MOST_HOLES", 2 * MIB
    )  # with 8 MiB of the disk: too little for /log/a three times
    begin = time.process_time()
    done = import_file(settings, disk, wanted(format="raw"))
    assert time.process_time() - begin < 10
    assert (done.unread, done.manifest.os) == (None, "debian")
    found = digests(done)
    assert found["lastlog"] is None
    assert found["some"] == sha256(tmp_path / "tree/log/some")[7:39]
    assert found["a"] == found["b"] == found["c"] == sha256(tmp_path / "tree/log/a")[7:39]
    monkeypatch.setattr(budget, "MOST_HOLES", MIB)
    again = import_file(settings, disk, Wanted("other", format="raw"))
    assert (digests(again)["some"], digests(again)["a"]) == (None, found["a"])


@pytest.mark.parametrize(
    ("limit", "value", "says"),
    [
        ("MOST_FILES", 5, "it has more than 5 files"),
        ("MOST_TEXT", 50, "the names of its files have more than 50 bytes"),
        ("MOST_SECONDS", -1.0, "it was not read in"),
    ],
)
def test_what_is_beyond_the_budget_is_kept_unread_and_told(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, says: str
) -> None:
    monkeypatch.setattr(budget, limit, value)
    done = import_file(settings, system_disk(tmp_path), wanted(format="raw"))
    assert done.unread is not None
    assert done.unread.startswith(f"beyond the budget: {says}")
    assert (done.manifest.os, set(done.manifest.artifacts)) == ("unknown", {"disk", "provenance"})
    assert not (done.folder / "files.json").exists()


def test_a_disk_with_an_encrypted_partition_is_refused(
    settings: Settings, disk: Path, tmp_path: Path
) -> None:
    data = bytearray(disk.read_bytes())
    data[3 * MIB : 3 * MIB + 6] = b"LUKS\xba\xbe"
    (tmp_path / "d").write_bytes(data)
    with pytest.raises(PolicyError, match=r"^d: its partition 2 is encrypted \(LUKS\)"):
        import_file(settings, tmp_path / "d", wanted())
    assert nothing_left(settings)


def test_a_disk_with_an_mbr_keeps_its_partitions(settings: Settings, tmp_path: Path) -> None:
    given = raw_disk(tmp_path / "d", "label: dos\nstart=2048, size=4096, type=83, bootable\n")
    assert [
        (p.label, p.type, p.offset) for p in import_file(settings, given, wanted()).manifest.partitions
    ] == [("1", "83", MIB)]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_compressed_images_are_unpacked(settings: Settings, disk: Path, tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    (tmp_path / "d.gz").write_bytes(pack(converted(disk, "qcow2", tmp_path / "q").read_bytes()))
    done = import_file(settings, tmp_path / "d.gz", wanted())
    assert done.manifest.artifacts["disk"].digest == sha256(disk) and done.format == "qcow2"


def test_the_disk_of_an_ova_is_taken_and_its_digest_checked(
    settings: Settings, disk: Path, tmp_path: Path
) -> None:
    vmdk = converted(disk, "vmdk", tmp_path / "v", "streamOptimized").read_bytes()
    members = {"a.ovf": b"<Envelope/>", "a-disk1.vmdk": vmdk}
    assert import_file(settings, ova(tmp_path / "a.ova", members), wanted()).manifest.artifacts[
        "disk"
    ].digest == sha256(disk)
    damaged = bytearray((tmp_path / "a.ova").read_bytes())
    damaged[damaged.index(b"KDMV") + 5000] ^= 1
    (tmp_path / "b.ova").write_bytes(damaged)
    with pytest.raises(CorruptError, match=r"another digest than its \.mf says"):
        import_file(settings, tmp_path / "b.ova", Wanted("other"))
    assert not (settings.images / "other").exists()


def test_the_same_file_again_is_already_there_and_another_is_refused(
    settings: Settings, disk: Path, tmp_path: Path
) -> None:
    first: Imported = import_file(settings, disk, wanted())
    again = import_file(settings, disk, wanted())
    assert again.already and again.manifest == first.manifest
    with pytest.raises(UsageError, match="something else"):
        import_file(settings, raw_disk(tmp_path / "other", seed=2), wanted())
    later = import_file(settings, disk, Wanted("legacy"))
    assert later.manifest.ref.version > first.manifest.ref.version  # type: ignore[operator]


def cut(data: bytes) -> bytes:
    return data[:-70_000]


@pytest.mark.parametrize(("format", "driver", "kind"), [f for f in FORMATS if f[2] != "fixed"])
def test_an_image_that_was_cut_short_is_an_error_and_leaves_nothing(
    settings: Settings, disk: Path, tmp_path: Path, format: str, driver: str, kind: str
) -> None:
    given = converted(disk, driver, tmp_path / "given", kind)
    given.write_bytes(cut(given.read_bytes()))
    with pytest.raises(CorruptError) as caught:
        import_file(settings, given, wanted())
    assert str(caught.value).startswith("given: ") and "get it again" in str(caught.value)
    assert nothing_left(settings)


def test_what_is_no_disk_image_is_told_so(settings: Settings, tmp_path: Path) -> None:
    def refused(data: bytes, error: type[KioskError], words: str, **more: object) -> None:
        (tmp_path / "f").write_bytes(data)
        with pytest.raises(error, match=words):
            import_file(settings, tmp_path / "f", wanted(**more))
        assert nothing_left(settings)

    refused(b"<html>Please log in</html>", UsageError, "not a disk image that kiosk knows")
    refused(b"", UsageError, "not a disk image that kiosk knows")
    refused(b"hello", UsageError, "is not qcow2", format="qcow2")
    refused(b"QFI\xfb\0\0\0\3", CorruptError, "shorter than its header")
    refused(b"QFI\xfb\0\0\0\3" + bytes(200), UsageError, "is qcow2, not raw", format="raw")
    refused(b"QFI\xfb\0\0\0\1" + bytes(200), CorruptError, "version 1")
    refused(b"QFI\xfb\0\0\0\3" + bytes(65536), CorruptError, "can't be read as qcow2")
    refused(b"LUKS\xba\xbe" + bytes(1000), PolicyError, "encrypted")
    refused(b"\x1f\x8b\x08" + bytes(50), CorruptError, "can't be decompressed")
    refused(gzip.compress(bytes(100_000))[:-10], CorruptError, "can't be decompressed")
    refused(b"BZh9junk", CorruptError, "can't be decompressed")
    with pytest.raises(NotFoundError):
        import_file(settings, tmp_path / "missing", wanted())
    with pytest.raises(UsageError, match="is not a file"):
        import_file(settings, Path("/dev/null"), wanted())


def test_encrypted_images_are_refused(settings: Settings, tmp_path: Path) -> None:
    argv: list[str | Path] = [
        "qemu-img",
        "create",
        "-q",
        "--object",
        "secret,id=s,data=geheim",
        "-f",
        "qcow2",
    ]
    argv += ["-o", "encrypt.format=aes,encrypt.key-secret=s", tmp_path / "e", "8M"]
    run(argv, timeout=60)
    with pytest.raises(PolicyError, match="encrypted"):
        import_file(settings, tmp_path / "e", wanted())


def test_a_disk_that_is_larger_than_allowed_is_refused_before_it_is_converted(
    settings: Settings, tmp_path: Path
) -> None:
    run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "huge", "1T"], timeout=60)
    with pytest.raises(PolicyError, match="1099511627776 bytes"):
        import_file(settings, tmp_path / "huge", wanted())


def test_random_damage_is_always_an_error_or_a_disk(settings: Settings, disk: Path, tmp_path: Path) -> None:
    import random

    chance = random.Random(7)
    good = {f: converted(disk, f, tmp_path / f).read_bytes() for f in ("qcow2", "vmdk", "vdi")}
    for format, data in good.items():
        for _ in range(4):
            damaged = bytearray(data)
            at = chance.randrange(4096)
            struct.pack_into("<Q", damaged, at, chance.getrandbits(64))
            (tmp_path / "f").write_bytes(damaged)
            try:
                done = import_file(settings, tmp_path / "f", Wanted("fuzz", most=64 * MIB))
            except KioskError as e:
                assert str(e).startswith("f: "), (format, at)
            else:
                assert done.manifest.artifacts["disk"].size <= 64 * MIB


def test_an_imported_image_is_published_synced_compared_and_fetched_like_any_other(
    terminal: Terminal, disk: Path, tmp_path: Path
) -> None:
    kiosk = ready(tmp_path / "farm")
    terminal.set("KIOSK_HOME", kiosk.settings.home)
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    terminal.set("KIOSK_PASSPHRASE_FILE", tmp_path / "passphrase")
    given = converted(disk, "qcow2", tmp_path / "server.qcow2")
    code, out, _ = terminal.run("import", given, "--name", "legacy@3", "--dry-run")
    assert code == 0 and "qcow2" in out and not (kiosk.settings.images / "legacy").exists()
    code, out, _ = terminal.run("import", given, "--name", "legacy", "--version", 3)
    assert code == 0 and "legacy@3" in out and "kept as it came" in out
    assert (
        terminal.json("publish", "legacy", "--without-audit", "holds no file system that can be read")[
            "version"
        ]
        == "3"
    )
    shown = terminal.json("show", "legacy")
    assert shown["manifest"]["source"]["kind"] == "import" and "verity" not in shown["manifest"]
    terminal.json("import", raw_disk(tmp_path / "new", seed=2), "--name", "legacy@4")
    terminal.json("publish", "legacy", "--without-audit", "holds no file system that can be read")
    assert kiosk.sync("legacy@3").failure is None
    assert kiosk.sync("legacy").failure is None
    held = kiosk.hypervisor.host / "images/legacy"
    assert sorted(p.name for p in (held / "4").iterdir() if not p.name.startswith(".")) == [
        "disk.raw",
        "manifest.json",
    ]
    assert sha256(held / "3/disk.raw") == sha256(disk) and sha256(held / "4/disk.raw") == sha256(
        tmp_path / "new"
    )
    code, out, _ = terminal.run("diff", "legacy", "--files")
    assert code == 0 and "legacy@3 -> legacy@4" in out and "Packages: there is no list" in out
    code, _, _ = terminal.run("fetch", "legacy@3", "-o", tmp_path / "fetched")
    assert code == 0 and sha256(tmp_path / "fetched") == sha256(disk)


def test_the_provenance_says_which_file_it_was(settings: Settings, disk: Path) -> None:
    done = import_file(settings, disk, wanted(parameters={"file": "disk.raw"}))
    found = json.loads((done.folder / "provenance.json").read_bytes())
    assert (
        found["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"]
        == sha256(disk)[7:]
    )


def test_an_import_does_not_follow_images_that_are_made_here(
    settings: Settings, disk: Path, tmp_path: Path
) -> None:
    with pytest.raises(PolicyError, match="debian-12-minimal is an image that is made here"):
        import_file(settings, disk, Wanted(name="debian-12-minimal", version=None, format="raw"))
    folder = build_image(settings, "legacy", "1")
    assert (folder / "manifest.json").exists()
    with pytest.raises(PolicyError, match="legacy is an image that is made here"):
        import_file(settings, disk, Wanted(name="legacy", version=None, format="raw"))
    assert not (settings.images / "debian-12-minimal").exists()
