"""Makes a sanitised tree of a golden node fit to boot as an image: read-only under a volatile overlay, anywhere.

The node stays what its managers made it. Added are kiosk's agent and, unless the node's own is kept, DHCP on every
wired interface; masked is what needs a root that lasts, and the managers' own agents, which would make an
unmanaged copy of the node into a managed one. Nothing of the node is run: units are enabled and masked by this
host's systemctl, as links in the tree.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kiosk.build import guest
from kiosk.errors import BuildError
from kiosk.run import CommandError, run

LASTING = (
    # The root is the overlay that the initrd mounted; it is neither checked, grown, nor cared for.
    "systemd-remount-fs.service",
    "systemd-growfs-root.service",
    "systemd-machine-id-commit.service",
    "systemd-firstboot.service",
    "systemd-random-seed.service",
    "systemd-repart.service",
    "systemd-boot-system-token.service",
    "dracut-shutdown.service",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    # An image is updated by the next image.
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "unattended-upgrades.service",
    "dnf-makecache.timer",
    "dnf-automatic.timer",
    "dpkg-db-backup.timer",
    "man-db.timer",
    "plocate-updatedb.timer",
)
MANAGERS = (
    "puppet.service",
    "salt-minion.service",
    "chef-client.service",
    "chef-client.timer",
    "cfengine3.service",
    "ncm-cdispd.service",
    "ccm-fetch.timer",
    "cloud-init.service",
    "cloud-init-local.service",
    "cloud-config.service",
    "cloud-final.service",
)
NETWORK = """[Match]
Type=ether

[Network]
DHCP=yes
IPv6PrivacyExtensions=no

[DHCPv4]
UseHostname=no
"""
OTHER_NETWORKS = ("networking.service", "NetworkManager.service", "network.service", "ifup@.service")
UNITS = "usr/lib/systemd/system"
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,100}")
REAL = (
    "boot",
    "etc",
    "etc/init.d",
    "etc/systemd",
    "etc/systemd/network",
    "etc/systemd/system",
    "usr",
    "usr/bin",
    "usr/lib",
    "usr/lib/kiosk",
    "usr/lib/modules",
    UNITS,
)
"""Folders through which files are written or read here. In a node's tree a link may point anywhere on this host."""


@dataclass(frozen=True)
class Release:
    """What a tree says it is (os-release(5)): ID, VERSION_CODENAME or else VERSION_ID, PRETTY_NAME."""

    id: str
    release: str
    pretty: str


def release_of(root: Path) -> Release:
    """Reads the tree's os-release; BuildError where there is none."""
    file = next((p for name in ("usr/lib/os-release", "etc/os-release") if _plain(p := root / name)), None)
    if file is None:
        raise BuildError("the node's tree has no /usr/lib/os-release: is this a root file system?")
    text = file.read_bytes()[:65536].decode(errors="replace")
    words: dict[str, str] = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', text, re.MULTILINE))
    release = words.get("VERSION_CODENAME") or words.get("VERSION_ID", "")
    return Release(words.get("ID", ""), release, words.get("PRETTY_NAME", words.get("ID", "")))


@dataclass(frozen=True)
class Kernel:
    """The kernel that an image of the node boots: its file in the tree, and its modules."""

    file: Path
    modules: Path


def check_shape(root: Path) -> None:
    """BuildError where a folder that this module goes through is a link: nothing is read or written through it."""
    for name in REAL:
        if (root / name).is_symlink():
            raise BuildError(
                f"/{name} is a symbolic link in the node's tree",
                hint="The folders of a root file system must be folders.",
            )


def newest_kernel(root: Path) -> Kernel:
    """The newest kernel that is in the tree's /boot with its modules; BuildError where there is none."""
    found = []
    for file in (root / "boot").glob("vmlinuz-*"):
        version = file.name.removeprefix("vmlinuz-")
        if not VERSION.fullmatch(version):
            continue
        modules = root / "usr/lib/modules" / version
        if _plain(file) and not modules.is_symlink() and (modules / "modules.dep").is_file():
            found.append((_order(version), Kernel(file, modules)))
    if not found:
        raise BuildError(
            "the node's tree has no kernel in /boot with its modules",
            hint="A separate /boot has to be captured as well; the kernel's package must be installed whole.",
        )
    return max(found, key=lambda f: f[0])[1]


def _order(version: str) -> list[tuple[int, int, str]]:
    """Numbers by value, and words between them by their letters: 6.1.0-9 is below 6.1.0-56."""
    return [(1, int(w), "") if w.isdecimal() else (0, 0, w) for w in re.findall(r"\d+|[^\d]+", version)]


def check_python(root: Path, release: str) -> None:
    """BuildError where the tree lacks the Python that kiosk's agent for the guest runs on."""
    if release not in guest.PYTHONS:
        raise BuildError(
            f"kiosk doesn't know the Python of {release}", hint=f"Releases: {', '.join(guest.PYTHONS)}"
        )
    version = ".".join(guest.PYTHONS[release].split(".")[:2])
    if not (root / "usr/bin" / f"python{version}").is_file():
        raise BuildError(
            f"the node has no Python {version}, on which kiosk's agent runs in the guest",
            where="/usr/bin",
            hint="Install python3 on the golden node.",
        )


def fit(root: Path, *, network: str, mask: Iterable[str] = ()) -> None:
    """Fits the tree, which has kiosk's agent in it already. `network` is dhcp, or keep: the node's own."""
    units = root / "usr/lib/kiosk/python/contextualize/systemd"
    enabled = []
    for unit in sorted(units.iterdir()):
        shutil.copyfile(unit, root / UNITS / unit.name)
        (root / UNITS / unit.name).chmod(0o644)
        if "[Install]" in unit.read_text(encoding="utf-8"):
            enabled.append(unit.name)
    _systemctl(root, "enable", enabled)
    if network == "dhcp":
        _dhcp(root)
    masked = {*LASTING, *MANAGERS, *mask}
    _mask(root, sorted(masked))
    _systemctl(root, "disable", ["systemd-networkd-wait-online.service"])
    (root / "etc/systemd/system/default.target").unlink(missing_ok=True)
    (root / "etc/systemd/system/default.target").symlink_to("/lib/systemd/system/multi-user.target")


def _dhcp(root: Path) -> None:
    """DHCP by systemd-networkd on every wired interface, in the place of whatever the node had."""
    if not (root / UNITS / "systemd-networkd.service").is_file():
        raise BuildError(
            "the node has no systemd-networkd, by which the image would ask for its address",
            hint='Install it on the golden node, or write `network = "keep"` into the definition.',
        )
    folder = root / "etc/systemd/network"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.network"):
        old.unlink()
    (folder / "80-kiosk.network").write_text(NETWORK, encoding="utf-8")
    (folder / "80-kiosk.network").chmod(0o644)
    there = [
        u for u in OTHER_NETWORKS if (root / UNITS / u).exists() or (root / "etc/init.d" / u[:-8]).exists()
    ]
    _mask(root, there)
    wanted = ["systemd-networkd.service"]
    if (root / UNITS / "systemd-resolved.service").is_file():
        wanted.append("systemd-resolved.service")
        (root / "etc/resolv.conf").unlink(missing_ok=True)
        (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/resolv.conf")
    _systemctl(root, "enable", wanted)


def _mask(root: Path, units: Iterable[str]) -> None:
    names = list(units)
    for name in names:
        (root / "etc/systemd/system" / name).unlink(missing_ok=True)  # the node's own unit of that name
    _systemctl(root, "mask", names)


def _systemctl(root: Path, verb: str, units: Iterable[str]) -> None:
    names = list(units)
    if not names:
        return
    try:
        run(["systemctl", f"--root={root}", "--quiet", verb, *names], timeout=120)
    except CommandError as e:
        raise BuildError(f"can't {verb} the units of the node's tree: {e.what}") from None


def _plain(path: Path) -> bool:
    """Whether this is a file itself: a link in a node's tree may point anywhere on this host."""
    return path.is_file() and not path.is_symlink()
