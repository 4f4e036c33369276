"""The build host's way to the archive is found in its own apt configuration, and only that way is passed on."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk.build.mirrors import (
    MAIN,
    SECURITY,
    Mirrors,
    host_mirrors,
    read_list,
    read_options,
    write_apt_folder,
)

DEB822 = """\
# comment
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://disabled.example/debian-security
Suites: bookworm-security

Types: deb
URIs: https://mirror.example/debian-security
Suites: bookworm-security
"""
ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://list.example/debian bookworm main # why
deb http://list.example/debian-security bookworm-security main
deb https://vendor.example/apt bookworm stable
"""
DUMP = """\
Acquire "";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::https::CAInfo "/etc/private/ca.pem";
Acquire::https::SslKey "/etc/private/key.pem";
Acquire::Check-Valid-Until "false";
Acquire::Retries "4";
DPkg::Post-Invoke:: "rm -rf /";
Acquire::http::User-Agent "x"; evil
"""


def host(tmp_path: Path, name: str, text: str) -> Path:
    (tmp_path / "sources.list.d").mkdir(exist_ok=True)
    (tmp_path / "sources.list.d" / name).write_text(text)
    return tmp_path


def test_deb822_sources(tmp_path: Path) -> None:
    found = host_mirrors("bookworm", host(tmp_path, "debian.sources", DEB822))
    assert (found.main, found.security) == (
        "http://mirror.example/debian",
        "https://mirror.example/debian-security",
    )


def test_one_line_sources(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(ONE_LINE)
    found = host_mirrors("bookworm", tmp_path)
    assert (found.main, found.security) == (
        "http://list.example/debian",
        "http://list.example/debian-security",
    )
    assert [s.uri for s in read_list(ONE_LINE)] == [
        "http://list.example/debian",
        "http://list.example/debian-security",
        "https://vendor.example/apt",
    ]


def test_a_host_of_another_release_uses_its_own_mirrors_which_carry_all_releases(tmp_path: Path) -> None:
    found = host_mirrors("trixie", host(tmp_path, "debian.sources", DEB822))
    assert (found.main, found.security) == (
        "http://mirror.example/debian",
        "https://mirror.example/debian-security",
    )


def test_a_mirror_that_lists_the_release_goes_before_one_that_lists_another(tmp_path: Path) -> None:
    host(tmp_path, "debian.sources", DEB822)
    host(tmp_path, "trixie.list", "deb http://new.example/debian trixie main\n")
    found = host_mirrors("trixie", tmp_path)
    assert (found.main, found.security) == (
        "http://new.example/debian",
        "https://mirror.example/debian-security",
    )


@pytest.mark.parametrize(
    "line",
    [
        "deb https://vendor.example/linux/debian bookworm stable",
        "deb https://vendor.example/debian bookworm main",
        "deb http://snapshot.example/archive/debian/20260101T000000Z bookworm-updates main",
        "deb http://archive.debian.org/debian bullseye-updates main",
        "deb http://archive.ubuntu.example/ubuntu jammy-updates main",
        "deb http://security.ubuntu.example/ubuntu jammy-security main",
        "deb file:///srv/debian bookworm-updates main",
    ],
)
def test_what_is_not_known_to_be_a_whole_mirror_serves_no_other_release(tmp_path: Path, line: str) -> None:
    found = host_mirrors("trixie", host(tmp_path, "other.list", line + "\n"))
    assert (found.main, found.security) == (MAIN, SECURITY)
    nothing = tmp_path / "empty"
    nothing.mkdir()
    assert host_mirrors("bookworm", nothing).main == MAIN


def test_only_what_reaches_the_archive_is_passed_on(tmp_path: Path) -> None:
    options = read_options(DUMP)
    assert dict(options) == {
        "Acquire::http::Proxy": "http://proxy.example:3128",
        "Acquire::https::CAInfo": "/etc/private/ca.pem",
        "Acquire::https::SslKey": "/etc/private/key.pem",
        "Acquire::Check-Valid-Until": "false",
        "Acquire::Retries": "4",
    }
    mirrors = Mirrors("http://m.example/debian", "http://m.example/debian-security", options)
    assert mirrors.http_proxy == "http://proxy.example:3128"
    write_apt_folder(tmp_path / "apt", mirrors, "bookworm")
    text = (tmp_path / "apt/apt.conf").read_text()
    assert "proxy.example" in text
    assert "/etc/private" not in text
    assert (
        "deb http://m.example/debian-security bookworm-security main"
        in (tmp_path / "apt/sources.list").read_text().splitlines()
    )
