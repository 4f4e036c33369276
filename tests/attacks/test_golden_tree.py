"""A golden node's tree with links that lead out of it: nothing of this host is written, changed, removed, or read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kiosk.build import clean
from kiosk.build.assemble import os_release
from kiosk.build.version import Making, Origin, Subject, Timing
from kiosk.errors import BuildError
from kiosk.files import remove_tree
from kiosk.golden import fit
from kiosk.golden.workshop import check_plain
from kiosk.model.manifest import LayerPolicy
from kiosk.model.names import Version

UNIT = "[Unit]\nDescription=x\n[Install]\nWantedBy=multi-user.target\n"
DATE = 1_780_000_000
SECRET = "this host's own"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Folders and a file of this host."""
    host = tmp_path / "host"
    (host / "folder/sub").mkdir(parents=True)
    (host / "folder/diskimage-builder").mkdir()
    (host / "folder/pkg-map").write_text(SECRET)
    (host / "file").write_text(SECRET)
    (host / "file").chmod(0o600)
    (host / "folder").chmod(0o700)
    return host


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("systemd-networkd", "systemd-resolved"):
        write(root / f"usr/lib/systemd/system/{name}.service", UNIT)
    write(root / "usr/lib/kiosk/python/contextualize/systemd/kiosk-contextualize.service", UNIT)
    write(root / "usr/lib/os-release", "ID=debian\nVERSION_CODENAME=bookworm\n")
    for name in ("etc/systemd/system", "etc/systemd/network", "usr/local/bin", "usr/share", "var", "tmp"):
        (root / name).mkdir(parents=True)
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def link(root: Path, name: str, target: Path) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def state(host: Path) -> list[tuple[str, int, bytes]]:
    return sorted(
        (str(p), p.lstat().st_mode, p.read_bytes() if p.is_file() else b"") for p in [host, *host.rglob("*")]
    )


def inject(root: Path) -> None:
    subject = Subject("batch", "", "x86_64", "debian", "bookworm", LayerPolicy())
    origin = Origin("golden-node", "batch", "sha256:" + "0" * 64, {})
    Making(subject, Version((1,)), origin, DATE, None, Timing())._inject(root)


def fitted(root: Path) -> None:
    fit.check_shape(root)
    fit.fit(root, network="dhcp", mask=["cron.service"])


def cleaned(root: Path) -> None:
    clean.clean(root, DATE, table=())


STEPS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a unit of kiosk's": (fitted, "usr/lib/systemd/system/kiosk-contextualize.service", "file"),
    "where a unit is enabled": (fitted, "etc/systemd/system/multi-user.target.wants", "folder"),
    "where another is": (fitted, "etc/systemd/system/sockets.target.wants", "folder"),
    "a masked unit": (fitted, "etc/systemd/system/cron.service", "file"),
    "the network's file": (fitted, "etc/systemd/network/80-kiosk.network", "file"),
    "the network's folder": (fitted, "etc/systemd/network", "folder"),
    "the resolver": (fitted, "etc/resolv.conf", "file"),
    "the identity": (inject, "usr/lib/kiosk/image.json", "file"),
    "the policy": (inject, "usr/lib/kiosk/policy.json", "file"),
    "the root of trust": (inject, "usr/lib/kiosk/root.json", "file"),
    "kiosk's folder": (inject, "usr/lib/kiosk", "folder"),
    "all of /usr/lib": (inject, "usr/lib", "folder"),
    "/tmp": (cleaned, "tmp", "folder"),
    "/var/tmp": (cleaned, "var/tmp", "folder"),
    "/var": (cleaned, "var", "folder"),
    "/opt": (cleaned, "opt", "folder"),
    "/opt, to nowhere": (cleaned, "opt", "nowhere"),
    "/boot": (cleaned, "boot", "folder"),
    "/etc": (cleaned, "etc", "folder"),
    "/lib": (cleaned, "lib", "folder"),
    "/usr/local/bin": (cleaned, "usr/local/bin", "folder"),
    "/usr/share": (cleaned, "usr/share", "folder"),
}


@pytest.mark.parametrize("story", STEPS)
def test_nothing_of_this_host_is_changed_through_a_link(story: str, root: Path, host: Path) -> None:
    step, name, target = STEPS[story]
    link(root, name, host / target)
    before = state(host)
    try:
        step(root)
    except Exception as e:  # noqa: BLE001  a refusal is as good, if it is one of kiosk's
        assert type(e).__module__ == "kiosk.errors", repr(e)
    assert state(host) == before


def test_a_file_of_this_host_does_not_become_the_images_os_release(root: Path, host: Path) -> None:
    link(root, "usr/lib/os-release", host / "file")
    with pytest.raises(BuildError, match="no /usr/lib/os-release"):
        os_release(root)
    write(root / "etc/os-release", "ID=debian\n")
    assert os_release(root) == b"ID=debian\n"


def test_an_os_release_that_is_a_link_within_the_tree_is_read(root: Path) -> None:
    write(root / "usr/share/release", "ID=other\n")
    link(root, "usr/lib/os-release", Path("/usr/share/release"))
    assert os_release(root) == b"ID=other\n"


def test_a_root_of_trust_of_the_nodes_own_does_not_stay(root: Path) -> None:
    write(root / "usr/lib/kiosk/root.json", "{}")
    inject(root)
    assert sorted(p.name for p in (root / "usr/lib/kiosk").glob("*.json")) == ["image.json", "policy.json"]


@pytest.mark.skipif(os.geteuid() != 0, reason="device nodes need root")
@pytest.mark.parametrize("make", ["device", "fifo"])
def test_a_device_among_a_kernels_modules_is_not_read(tmp_path: Path, make: str) -> None:
    modules = tmp_path / "6.1.0"
    write(modules / "kernel/a.ko", "x")
    check_plain(modules)
    if make == "device":
        os.mknod(modules / "kernel/b.ko", 0o20666, os.makedev(1, 5))
    else:
        os.mkfifo(modules / "kernel/b.ko")
    with pytest.raises(BuildError, match="neither file, folder nor link"):
        check_plain(modules)


def test_folders_in_folders_to_any_depth_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(top)
    assert not top.exists()
