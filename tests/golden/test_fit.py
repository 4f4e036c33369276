"""A sanitised tree becomes one that boots as an image; a tree that can't become one is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk.errors import BuildError
from kiosk.golden import fit

UNIT = "[Unit]\nDescription=x\n[Install]\nWantedBy=multi-user.target\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What of a Debian tree is touched: units, network files, a kernel with its modules, kiosk's agent."""
    root = tmp_path / "root"
    files = {
        "usr/lib/os-release": 'ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "usr/lib/systemd/system/systemd-networkd.service": UNIT,
        "usr/lib/systemd/system/systemd-resolved.service": UNIT,
        "usr/lib/systemd/system/networking.service": UNIT,
        "usr/lib/systemd/system/cron.service": UNIT,
        "etc/systemd/system/puppet.service": UNIT,
        "etc/systemd/network/10-static.network": "[Network]\nAddress=192.0.2.7/24\n",
        "usr/bin/python3.11": "",
        "usr/lib/kiosk/python/contextualize/systemd/kiosk-contextualize.service": UNIT,
        "usr/lib/kiosk/python/contextualize/systemd/kiosk-stop.service": "[Unit]\nDescription=y\n",
        "usr/lib/kiosk/python/contextualize/files/usr/bin/kiosk-attest": "#!/usr/bin/python3 -IS\n",
        "usr/lib/kiosk/python/contextualize/files/etc/profile.d/kiosk-features.sh": "# features\n",
    }
    for version in ("6.1.0-9-amd64", "6.1.0-56-amd64"):
        files[f"boot/vmlinuz-{version}"] = version
        files[f"usr/lib/modules/{version}/modules.dep"] = ""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    (root / "lib").symlink_to("usr/lib")
    return root


def masked(root: Path, unit: str) -> bool:
    path = root / "etc/systemd/system" / unit
    return path.is_symlink() and str(path.readlink()) == "/dev/null"


def test_the_agent_is_enabled_and_what_needs_a_lasting_root_is_masked(root: Path) -> None:
    fit.fit(root, network="dhcp", mask=["cron.service"])
    wants = root / "etc/systemd/system/multi-user.target.wants"
    assert (wants / "kiosk-contextualize.service").is_symlink()
    assert not (wants / "kiosk-stop.service").is_symlink()
    assert (root / "usr/lib/systemd/system/kiosk-stop.service").is_file()
    assert all(masked(root, u) for u in ("systemd-remount-fs.service", "apt-daily.timer", "cron.service"))


def test_the_agents_commands_stand_where_jobs_look_for_them_whatever_the_node_had(root: Path) -> None:
    (root / "etc/profile.d").mkdir()
    (root / "etc/profile.d/kiosk-features.sh").symlink_to("/etc/passwd")
    fit.fit(root, network="dhcp")
    assert (root / "usr/bin/kiosk-attest").stat().st_mode & 0o7777 == 0o755
    features = root / "etc/profile.d/kiosk-features.sh"
    assert not features.is_symlink() and features.read_text() == "# features\n"
    assert features.stat().st_mode & 0o7777 == 0o644


def test_the_managers_own_agent_does_not_start_even_if_the_node_brought_its_unit(root: Path) -> None:
    fit.fit(root, network="dhcp")
    assert masked(root, "puppet.service")


def test_the_nodes_static_address_gives_way_to_dhcp(root: Path) -> None:
    fit.fit(root, network="dhcp")
    assert [p.name for p in (root / "etc/systemd/network").iterdir()] == ["80-kiosk.network"]
    assert "DHCP=yes" in (root / "etc/systemd/network/80-kiosk.network").read_text()
    assert masked(root, "networking.service")
    assert str((root / "etc/resolv.conf").readlink()).endswith("resolve/resolv.conf")


def test_a_network_of_its_own_is_kept_where_the_definition_says_so(root: Path) -> None:
    fit.fit(root, network="keep")
    assert (root / "etc/systemd/network/10-static.network").is_file()
    assert not masked(root, "networking.service")


def test_fitting_twice_changes_nothing(root: Path) -> None:
    fit.fit(root, network="dhcp")
    once = sorted((str(p), p.lstat().st_mode) for p in root.rglob("*"))
    fit.fit(root, network="dhcp")
    assert sorted((str(p), p.lstat().st_mode) for p in root.rglob("*")) == once


def test_the_newest_kernel_is_the_one_with_the_highest_number_not_the_last_name(root: Path) -> None:
    assert fit.newest_kernel(root).file.name == "vmlinuz-6.1.0-56-amd64"
    (root / "usr/lib/modules/6.1.0-56-amd64/modules.dep").unlink()
    assert fit.newest_kernel(root).file.name == "vmlinuz-6.1.0-9-amd64"


def test_a_tree_without_a_kernel_is_refused(root: Path) -> None:
    for kernel in (root / "boot").iterdir():
        kernel.unlink()
    with pytest.raises(BuildError, match="no kernel in /boot"):
        fit.newest_kernel(root)


def test_a_tree_says_what_it_is(root: Path) -> None:
    assert fit.release_of(root) == fit.Release("debian", "bookworm", "Debian GNU/Linux 12 (bookworm)")
    (root / "usr/lib/os-release").unlink()
    with pytest.raises(BuildError, match="os-release"):
        fit.release_of(root)


def test_a_node_without_the_releases_python_is_refused(root: Path) -> None:
    fit.check_python(root, "bookworm")
    (root / "usr/bin/python3.11").unlink()
    with pytest.raises(BuildError, match=r"no Python 3\.11"):
        fit.check_python(root, "bookworm")


@pytest.mark.parametrize("name", ["etc", "etc/systemd/system", "boot", "usr/lib/systemd"])
def test_nothing_is_written_or_read_through_a_link_out_of_the_tree(
    root: Path, tmp_path: Path, name: str
) -> None:
    fit.check_shape(root)
    (root / name).rename(tmp_path / "elsewhere")
    (root / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BuildError, match="is no folder in the node"):
        fit.check_shape(root)
