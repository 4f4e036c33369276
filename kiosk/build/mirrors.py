"""How the build host reaches Debian's archive: mirrors, proxies, certificates, from its own apt configuration.

What is read here goes into a folder that apt uses through APT_CONFIG while an image is built. It lives in the
chroot's /tmp and is never part of the image.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from debian.deb822 import Deb822

from kiosk.errors import MissingToolError
from kiosk.run import CommandError, run

MAIN = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
RELEASES = ("bullseye", "bookworm", "trixie", "forky", "sid", "stable", "oldstable", "testing")
"""Names of Debian's releases. Only its own archives have NAME-updates and NAME-security; vendors' have NAME."""
NOT_ALL = re.compile(r"snapshot|//archive\.debian\.org/")
"""Archives of Debian that have one day, or old releases alone."""
UNKNOWN_KEY = re.compile(r"signed by unknown key|NO_PUBKEY [0-9A-F]|EXPKEYSIG")
OLD_KEYS = (
    "This host's keys of Debian's archive are older than the release, or their time is over:\n"
    "  apt-get update && apt-get install debian-archive-keyring"
)
INSIDE = "/tmp/kiosk-apt"  # noqa: S108  in the chroot
OPTION = re.compile(r'^(Acquire::[A-Za-z0-9:._/-]+) "([^"\n]*)";$')
PASSED_ON = re.compile(
    r"^Acquire::(?:(?:http|https)(?:::|$)|Retries$|ForceIPv[46]$|Check-Valid-Until$|Check-Date$|Max-FutureTime$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Source:
    """One line of apt's sources: an archive and the suites that are taken from it."""

    uri: str
    suites: tuple[str, ...]


@dataclass(frozen=True)
class Mirrors:
    """The archive and the security archive of one release, and apt's options to reach them."""

    main: str
    security: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def http_proxy(self) -> str | None:
        """The proxy that apt uses for every http server, for debootstrap, which doesn't ask apt."""
        found = [v for k, v in self.options if k.lower() == "acquire::http::proxy" and v.upper() != "DIRECT"]
        return found[-1] if found else None


def read_list(text: str) -> Iterator[Source]:
    """The binary sources of a sources.list in the one-line style."""
    for line in text.splitlines():
        words = re.sub(r"\[[^\]]*\]", " ", line.partition("#")[0]).split()
        if len(words) >= 3 and words[0] == "deb":
            yield Source(words[1].rstrip("/"), (words[2],))


def read_sources(text: str) -> Iterator[Source]:
    """The enabled binary sources of a file in the deb822 style."""
    for stanza in Deb822.iter_paragraphs(text.splitlines(keepends=True), use_apt_pkg=False):
        if "deb" not in stanza.get("Types", "deb").split() or stanza.get("Enabled", "yes").lower() == "no":
            continue
        for uri in stanza.get("URIs", "").split():
            yield Source(uri.rstrip("/"), tuple(stanza.get("Suites", "").split()))


def read_options(dump: str) -> tuple[tuple[str, str], ...]:
    """Of `apt-config dump`, the options that say how an archive is reached."""
    found = (OPTION.match(line) for line in dump.splitlines())
    return tuple((m[1], m[2]) for m in found if m and m[2] and PASSED_ON.match(m[1]))


def host_mirrors(release: str, etc: Path = Path("/etc/apt")) -> Mirrors:
    """The build host's mirrors for `release`: those it has for that release itself, else those it has for
    another one of Debian's (a mirror carries all that are current), else Debian's public archive."""
    sources: list[Source] = []
    for file in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if file.is_file() and file.suffix in (".list", ".sources"):
            text = file.read_text(encoding="utf-8", errors="replace")
            sources += read_list(text) if file.suffix == ".list" else read_sources(text)
    usable = [s for s in sources if s.uri.startswith(("http://", "https://")) and not NOT_ALL.search(s.uri)]
    main = [s.uri for s in usable if release in s.suites and "debian" in s.uri]
    main += [s.uri for s in usable if any(f"{r}-updates" in s.suites for r in RELEASES)]
    security = [s.uri for s in usable if f"{release}-security" in s.suites]
    security += [s.uri for s in usable if any(f"{r}-security" in s.suites for r in RELEASES)]
    try:
        options = read_options(run(["apt-config", "dump"], timeout=30))
    except (MissingToolError, CommandError):
        options = ()
    return Mirrors((*main, MAIN)[0], (*security, SECURITY)[0], options)


def keyring() -> Path:
    """The keys that sign Debian's archive. Without them nothing is downloaded."""
    if not KEYRING.is_file():
        raise MissingToolError(
            "the keys of Debian's archive are not installed", hint="apt-get install debian-archive-keyring"
        )
    return KEYRING


def write_apt_folder(folder: Path, mirrors: Mirrors, release: str) -> None:
    """Writes what the chroot's apt is told through APT_CONFIG."""
    folder.mkdir(parents=True)
    (folder / "sources.list").write_text(
        f"deb {mirrors.main} {release} main\n"
        f"deb {mirrors.main} {release}-updates main\n"
        f"deb {mirrors.security} {release}-security main\n",
        encoding="utf-8",
    )
    lines = [
        f'Dir::Etc::sourcelist "{INSIDE}/sources.list";',
        'Dir::Etc::sourceparts "/dev/null";',
        'APT::Sandbox::User "root";',
        'APT::Install-Recommends "0";',
        'Acquire::Languages "none";',
        'Acquire::GzipIndexes "true";',
        'Dir::Cache::pkgcache "";',
        'Dir::Cache::srcpkgcache "";',
        'DPkg::Options { "--force-unsafe-io"; "--force-confold"; "--force-confdef"; };',
    ]
    hosts_files = {"cainfo", "sslcert", "sslkey", "issuercert", "crlfile", "proxy-auto-detect", "autodetect"}
    for key, value in mirrors.options:
        if key.rpartition("::")[2].lower() not in hosts_files | {"proxyautodetect"}:
            lines.append(f'{key} "{value}";')
    if CERTIFICATES.is_file():
        shutil.copyfile(CERTIFICATES, folder / "certificates.pem")
        lines.append(f'Acquire::https::CAInfo "{INSIDE}/certificates.pem";')
    (folder / "apt.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
