"""Makes a sanitised tree of a golden node fit to boot as an image: read-only under a volatile overlay, anywhere.

The node stays what its managers made it. Added are kiosk's agent and, unless the node's own is kept, DHCP on every
wired interface; masked is what needs a root that lasts, and the managers' own agents, which would make an
unmanaged copy of the node into a managed one. Nothing of the node is run: units are enabled and masked by this
host's systemctl, as links in the tree.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kiosk.build import guest
from kiosk.build.assemble import os_release
from kiosk.errors import BuildError
from kiosk.run import CommandError, run
from kiosk.sanitise.tree import Tree, shown

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
ENABLED = ("etc", "systemd", "system")
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
    "usr/lib/modules",
    "usr/lib/systemd",
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
    text = os_release(root).decode(errors="replace")
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
    with Tree(root) as tree:
        names = [tuple(name.split("/")) for name in REAL]
        if tree.is_folder(ENABLED):
            # systemctl makes links in these for the units that it enables.
            names += [(*ENABLED, n) for n in tree.names(ENABLED) if n.endswith((".wants", ".requires"))]
        for parts in names:
            found = tree.stat(parts)
            if found is not None and not stat.S_ISDIR(found.st_mode):
                raise BuildError(
                    f"{shown(parts)} is no folder in the node's tree, but a link or a file",
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
    with Tree(root) as tree:
        for unit in sorted(units.iterdir()):
            tree.put((*UNITS.split("/"), unit.name), unit.read_bytes(), 0o644)
            if "[Install]" in unit.read_text(encoding="utf-8"):
                enabled.append(unit.name)
        _commands(root, tree)
        for name in enabled:  # the node's own unit or mask of that name
            tree.clear((*ENABLED, name))
        check_shape(root)
        _systemctl(root, "enable", enabled)
        if network == "dhcp":
            _dhcp(root, tree)
        for name in sorted({*LASTING, *MANAGERS, *mask}):
            _mask(tree, name)
        _systemctl(root, "disable", ["systemd-networkd-wait-online.service"])
        tree.link((*ENABLED, "default.target"), "/lib/systemd/system/multi-user.target")


def _commands(root: Path, tree: Tree) -> None:
    """The agent's commands, and its small files of the machine, each at its place below the root."""
    files = root / "usr/lib/kiosk/python/contextualize/files"
    for file in sorted(p for p in files.rglob("*") if p.is_file()):
        at = file.relative_to(files).parts
        for n in range(1, len(at)):
            if tree.stat(at[:n]) is None:
                tree.real_folder(at[:n], 0o755)
        tree.put(at, file.read_bytes(), 0o755 if at[1] in ("bin", "sbin") else 0o644)


def _dhcp(root: Path, tree: Tree) -> None:
    """DHCP by systemd-networkd on every wired interface, in the place of whatever the node had."""
    units = tuple(UNITS.split("/"))
    if not tree.is_file((*units, "systemd-networkd.service")):
        raise BuildError(
            "the node has no systemd-networkd, by which the image would ask for its address",
            hint='Install it on the golden node, or write `network = "keep"` into the definition.',
        )
    for old in tree.glob("etc/systemd/network/*.network"):
        tree.remove(old)
    tree.put(("etc", "systemd", "network", "80-kiosk.network"), NETWORK.encode(), 0o644)
    for unit in OTHER_NETWORKS:
        script = unit.partition(".")[0].rstrip("@")
        if tree.stat((*units, unit)) is not None or tree.stat(("etc", "init.d", script)) is not None:
            _mask(tree, unit)
    wanted = ["systemd-networkd.service"]
    if tree.is_file((*units, "systemd-resolved.service")):
        wanted.append("systemd-resolved.service")
        tree.link(("etc", "resolv.conf"), "../run/systemd/resolve/resolv.conf")
    for name in wanted:
        if _is_masked(tree, name):
            tree.clear((*ENABLED, name))
    _systemctl(root, "enable", wanted)


def _is_masked(tree: Tree, unit: str) -> bool:
    found = tree.stat((*ENABLED, unit))
    return found is not None and stat.S_ISLNK(found.st_mode)


def _mask(tree: Tree, unit: str) -> None:
    """As `systemctl mask` does, in the place of the node's own unit of that name."""
    for n in range(1, len(ENABLED) + 1):
        if tree.stat(ENABLED[:n]) is None:
            tree.real_folder(ENABLED[:n], 0o755)
    tree.link((*ENABLED, unit), "/dev/null")


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
