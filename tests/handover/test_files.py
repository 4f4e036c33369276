"""Images as files: complete or not there, switched at once, never shared with the cache so that a VM could write."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from kiosk.config import Settings
from kiosk.errors import BusyError, KioskError, NotFoundError, StorageError, UsageError
from kiosk.handover import Handover
from kiosk.handover.settings import FilesTable, read_tables
from kiosk.model.names import ImageRef
from kiosk.run import run
from kiosk.sync.prune import prune
from tests.simulators.hypervisor import Hypervisor

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hands over as root")


@pytest.fixture
def host(tmp_path: Path) -> Hypervisor:
    made = Hypervisor(tmp_path / "h")
    made.put("1")
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir(mode=0o755)
    return made


def place(host: Hypervisor, folder: Path, **more: object) -> Handover:
    table = FilesTable.model_validate({"kind": "files", "folder": folder, **more})
    return Handover(host.cache, [table])


def states(handover: Handover, **more: bool) -> list[str]:
    return [o.state for o in handover.offer_current(**more)]


def failure(handover: Handover) -> KioskError:
    found = [o.error for o in handover.offer_current()]
    assert len(found) == 1 and found[0] is not None
    return found[0]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_copy_is_there_whole_readable_and_not_the_caches_own_file(host: Hypervisor, folder: Path) -> None:
    handover = place(host, folder)
    assert states(handover, dry_run=True) == ["would hand over"] and names(folder) == []
    assert states(handover) == ["handed over"]
    assert names(folder) == ["worker.raw", "worker@1.raw"]
    made = (folder / "worker.raw").resolve()
    assert made.read_bytes() == host.disk("worker@1").read_bytes()
    assert stat.S_IMODE(made.stat().st_mode) == 0o444
    assert made.stat().st_ino != host.disk("worker@1").stat().st_ino and made.stat().st_nlink == 1
    assert made.stat().st_blocks * 512 < made.stat().st_size  # its holes are holes
    assert states(handover) == ["stands"]


def test_a_file_system_that_can_shares_the_blocks(host: Hypervisor, tmp_path: Path) -> None:
    image, mount = tmp_path / "btrfs.img", tmp_path / "mount"
    with image.open("wb") as f:
        f.truncate(150 << 20)
    run(["mkfs.btrfs", "-q", image], timeout=60)
    mount.mkdir()
    run(["mount", "-o", "loop", image, mount], timeout=60)
    try:
        on_btrfs = Hypervisor(mount / "h")
        on_btrfs.put("1")
        (mount / "images").mkdir()
        os.sync()
        handover = place(on_btrfs, mount / "images")
        assert states(handover) == ["handed over"]
        os.sync()
        said = run(["filefrag", "-v", mount / "images/worker.raw"], timeout=20)
        assert "shared" in said
    finally:
        run(["umount", mount], timeout=60)


def test_an_overlay_stands_on_the_cache_and_takes_no_room(host: Hypervisor, folder: Path) -> None:
    assert states(place(host, folder, mode="overlay")) == ["handed over"]
    assert names(folder) == ["worker.current", "worker@1.qcow2"]
    found = json.loads(run(["qemu-img", "info", "--output=json", folder / "worker.current"], timeout=20))
    assert found["backing-filename"] == str(host.disk("worker@1"))
    assert found["actual-size"] < 1 << 20


def test_a_qcow2_has_the_same_content(host: Hypervisor, folder: Path) -> None:
    assert states(place(host, folder, format="qcow2")) == ["handed over"]
    run(
        ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", host.disk("worker@1"), folder / "worker.qcow2"],
        timeout=20,
    )


def test_a_new_version_takes_over_and_the_one_before_stays_until_the_cache_gives_it_up(
    host: Hypervisor, folder: Path
) -> None:
    handover = place(host, folder)
    handover.offer_current()
    host.put("2", "3")
    assert states(handover) == ["handed over"]
    assert (folder / "worker.raw").readlink() == Path("worker@3.raw")
    host.put("4")
    handover.offer_current()
    assert {str(r) for r in handover.held()} == {"worker@1", "worker@3", "worker@4"}
    prune(host.cache, host.settings.vms, handed=handover)
    assert names(folder) == ["worker.raw", "worker@3.raw", "worker@4.raw"]
    host.go_back("worker@3")
    assert states(handover) == ["handed over"]
    assert (folder / "worker.raw").readlink() == Path("worker@3.raw")


def test_only_images_that_the_table_names_are_handed_over(host: Hypervisor, folder: Path) -> None:
    host.put("7", name="login")
    assert states(place(host, folder, images=["log*"])) == ["handed over"]
    assert names(folder) == ["login.raw", "login@7.raw"]


@pytest.mark.parametrize("mode", ["copy", "overlay"])
def test_what_the_disk_of_a_vm_is_built_on_is_kept_here_and_in_the_cache(
    host: Hypervisor, folder: Path, tmp_path: Path, mode: str
) -> None:
    vms = tmp_path / "vms"
    vms.mkdir()
    handover = place(host, folder, mode=mode, watch=[vms])
    handover.offer_current()
    base, kind = (folder / "worker@1.raw", "raw") if mode == "copy" else (folder / "worker@1.qcow2", "qcow2")
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", base, vms / "vm.qcow2"], timeout=20)
    host.put("2", "3", "4")
    handover.offer_current()
    done = prune(host.cache, host.settings.vms, handed=handover)
    assert [str(r) for r in done.removed] == ["worker@2"]
    assert base.exists() and host.disk("worker@1").exists()
    (vms / "vm.qcow2").unlink()
    done = prune(host.cache, host.settings.vms, handed=handover)
    assert [str(r) for r in done.removed] == ["worker@1"] and not base.exists()


def test_a_disk_built_on_the_link_is_not_broken_by_a_switch(host: Hypervisor, folder: Path) -> None:
    handover = place(host, folder)
    handover.offer_current()
    disk = folder / "vm.qcow2"
    run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", folder / "worker.raw", disk],
        timeout=20,
    )
    host.put("2")
    error = failure(handover)
    assert isinstance(error, BusyError) and "rebase" in (error.hint or "")
    assert (folder / "worker.raw").readlink() == Path("worker@1.raw")
    run(["qemu-img", "rebase", "-u", "-b", folder / "worker@1.raw", "-F", "raw", disk], timeout=20)
    assert states(handover) == ["handed over"]


# -- hostile folders, failing disks ----------------------------------------------------------------------


def victim(folder: Path) -> Path:
    made = folder.parent / "victim"
    made.write_text("precious")
    return made


@pytest.mark.parametrize("name", ["worker@1.raw", "worker.raw", ".worker@1.raw.new"])
def test_a_link_planted_where_we_write_is_not_followed(host: Hypervisor, folder: Path, name: str) -> None:
    target = victim(folder)
    link = folder / name
    link.symlink_to(target)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    outcome = place(host, folder).offer_current()[0]
    assert target.read_text() == "precious"
    if not name.startswith("."):
        assert isinstance(outcome.error, StorageError)
        assert link.readlink() == target


@pytest.mark.parametrize("name", ["worker@1.raw", "worker.raw"])
def test_a_file_of_another_user_in_the_way_is_left_alone(host: Hypervisor, folder: Path, name: str) -> None:
    (folder / name).write_text("mine")
    os.chown(folder / name, 65534, 65534)
    assert isinstance(failure(place(host, folder)), StorageError)
    assert (folder / name).read_text() == "mine"


def test_a_folder_that_others_may_write_is_refused(host: Hypervisor, folder: Path) -> None:
    for change in (lambda: folder.chmod(0o1777), lambda: os.chown(folder, 65534, 65534)):
        change()
        error = failure(place(host, folder))
        assert isinstance(error, StorageError) and "others may write" in str(error).replace(
            "other users", "others"
        )
        assert names(folder) == []


def test_a_folder_below_one_of_another_user_is_refused_even_by_a_link(host: Hypervisor, folder: Path) -> None:
    (folder / "inner").mkdir()
    os.chown(folder, 65534, 65534)
    assert isinstance(failure(place(host, folder / "inner")), StorageError)
    link = folder.parent / "link"
    link.symlink_to(folder / "inner")
    assert isinstance(failure(place(host, link)), StorageError)
    assert names(folder / "inner") == []


def test_a_folder_that_is_missing_is_said_and_tried_again(host: Hypervisor, folder: Path) -> None:
    folder.rmdir()
    handover = place(host, folder)
    assert isinstance(failure(handover), NotFoundError)
    assert "there is no such folder" in handover.failed()["worker@1"]
    folder.mkdir(mode=0o755)
    assert states(handover) == ["handed over"]
    assert handover.failed() == {}


def test_one_place_that_fails_does_not_hold_up_another(host: Hypervisor, folder: Path) -> None:
    tables = [
        FilesTable(kind="files", folder=folder / "missing"),
        FilesTable(kind="files", folder=folder),
    ]
    assert [o.state for o in Handover(host.cache, tables).offer_current()] == ["failed", "handed over"]


@pytest.mark.parametrize("more", [{}, {"format": "qcow2"}])
def test_a_full_disk_leaves_nothing_half_written(
    host: Hypervisor, tmp_path: Path, more: dict[str, object]
) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "none", mount], timeout=20)
    try:
        assert isinstance(failure(place(host, mount, **more)), StorageError)
        assert names(mount) == []
        assert host.cache.current(ImageRef.parse("worker")) is not None
    finally:
        run(["umount", mount], timeout=20)


def test_a_record_that_is_damaged_is_begun_anew_by_looking(host: Hypervisor, folder: Path) -> None:
    handover = place(host, folder)
    handover.offer_current()
    before = (folder / "worker@1.raw").stat().st_ino
    handover.record.write_text("{")
    assert states(handover) == ["handed over"]
    assert (folder / "worker@1.raw").stat().st_ino == before


def test_two_at_a_time_do_not_disturb_each_other(host: Hypervisor, folder: Path) -> None:
    handover = place(host, folder)
    with handover._locked(False), pytest.raises(BusyError):
        handover.offer_current()


def test_tables_are_read_strictly_from_the_agents_configuration(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        'poll = 60\n[[handover]]\nkind = "files"\nfolder = "/srv/images"\nimages = ["debian-*"]\n'
    )
    (table,) = read_tables(Settings(), file)
    assert table.takes(ImageRef.parse("debian-12")) and not table.takes(ImageRef.parse("alma-9"))
    for wrong in (
        'kind = "files"\nfolder = "srv"',
        'kind = "tape"',
        'kind = "files"\nfolder = "/x"\nmoed = "copy"',
    ):
        file.write_text(f"[[handover]]\n{wrong}\n")
        with pytest.raises(UsageError, match="handover"):
            read_tables(Settings(), file)
