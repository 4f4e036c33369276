"""Attacks on the import of images: by who writes a list, by who serves it, and by who makes a disk image."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import os
import struct
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from kiosk.config import Settings
from kiosk.errors import (
    CorruptError,
    ExpiredError,
    KioskError,
    NetworkError,
    PolicyError,
    UsageError,
    VerificationError,
)
from kiosk.exchange import convert, formats
from kiosk.exchange.confined import confined, hand_over, prepare
from kiosk.exchange.hepix import Trust, choose, import_images, verified
from kiosk.exchange.imported import Imported, Wanted, import_file
from kiosk.run import CommandError, run
from kiosk.trust.distinguished import name_of
from tests.simulators import grid
from tests.simulators.disks import MIB, converted, raw_disk
from tests.simulators.grid import CA, JANE, JOHN, List, Person, issue
from tests.simulators.http_faulty import FLIPPED, LONG, LYING_HUGE, SHORT, Faulty, endless, faulty

OTHER_CA = "/DC=org/DC=other/CN=Other CA"


@functools.cache
def image() -> bytes:
    """A small disk as qcow2, made once."""
    with tempfile.TemporaryDirectory() as folder:
        raw = raw_disk(Path(folder) / "raw")
        return converted(raw, "qcow2", Path(folder) / "qcow2").read_bytes()


class Site:
    """A site that subscribes to a list, which an attacker may serve."""

    def __init__(self, home: Path, server: Faulty) -> None:
        self.settings = Settings(home=home / "kiosk")
        self.server = server
        self.cas = grid.trusted(home / "cas")
        self.url = f"{server.url}/image.list"
        (server.repository / "tiny.qcow2").write_bytes(image())
        self.list = List(f"{server.url}/tiny.qcow2", image())

    def serve(self, message: bytes) -> None:
        """What is at the list's address from now on."""
        (self.server.repository / "image.list").write_bytes(message)

    def take(
        self, message: bytes | None = None, *, endorser: str | None = None, ca: Path | None = None
    ) -> list[Imported]:
        """Imports all of the list."""
        if message is not None:
            self.serve(message)
        found = verified(self.settings, self.url, Trust(ca or self.cas, endorser))
        chosen = choose(found.list, [], everything=True, name=None, version=None)
        return import_images(self.settings, found, chosen, where=self.url)

    def nothing_taken(self) -> bool:
        """No version, and nothing temporary."""
        temporary = self.settings.home / "scratch"
        return not self.settings.images.exists() and not (temporary.exists() and any(temporary.iterdir()))


@pytest.fixture
def site(tmp_path: Path) -> Any:
    (tmp_path / "web").mkdir()
    with faulty(tmp_path / "web") as server:
        yield Site(tmp_path, server)


def user_who_issues() -> Person:
    """A certificate that an ordinary user has signed."""
    found = issue(JANE, grid.jane(), 5)
    return Person(found.certificate, found.key, (grid.jane().certificate,))


def two_signers(content: bytes) -> bytes:
    builder = pkcs7.PKCS7SignatureBuilder().set_data(content)
    for one in (grid.jane(), grid.john()):
        builder = builder.add_signer(one.certificate, one.key, hashes.SHA256())
    return builder.sign(Encoding.SMIME, [pkcs7.PKCS7Options.DetachedSignature])


LISTS: list[tuple[str, Callable[[List], bytes], type[KioskError], str]] = [
    ("signed by another authority's user", lambda ls: ls.but(ca=OTHER_CA).signed(
        issue(JANE, issue(OTHER_CA, None, 3, ca=True), 4)), VerificationError, "unable to get local issuer"),
    ("signed by an authority of the same name", lambda ls: ls.signed(
        issue(JANE, issue(CA, None, 3, ca=True), 4)), VerificationError, "signature does not hold"),
    ("signed by nobody's certificate", lambda ls: ls.signed(issue(JANE, None, 4)), VerificationError, "self-signed"),
    ("signed by whom an ordinary user vouches for", lambda ls: ls.but(ca=JANE).signed(user_who_issues()),
     VerificationError, "signature does not hold"),
    ("signed after the certificate has expired", lambda ls: ls.signed(
        issue(JANE, grid.authority(), 1, days=(-30, -1))), ExpiredError, "certificate has expired"),
    ("signed before the certificate is valid", lambda ls: ls.signed(
        issue(JANE, grid.authority(), 1, days=(2, 30))), VerificationError, "not yet valid"),
    ("signed by a key that is not for signatures", lambda ls: ls.signed(
        issue(JANE, grid.authority(), 1, signing=False)), VerificationError, "not one for signatures"),
    ("signed by two", lambda ls: two_signers(ls.content()), VerificationError, "2 signatures"),
    ("not signed", lambda ls: ls.content(), VerificationError, "not a signed message"),
    ("its signature stripped", lambda ls: ls.signed()[: ls.signed().rindex(b"Content-Type: application")],
     VerificationError, "not a signed message"),
    ("its content altered", lambda ls: ls.signed().replace(b'"Tiny Linux"', b'"Evil Linux"'),
     VerificationError, "not what was signed"),
    ("its content replaced, the signature kept", lambda ls: ls.signed().replace(
        ls.content().replace(b"\n", b"\r\n"), ls.but(title="Evil").content()), VerificationError, "signed"),
    ("another endorser than the signer", lambda ls: ls.signed(grid.john()), VerificationError, JOHN),
    ("another authority than the signer's", lambda ls: ls.but(ca=OTHER_CA).signed(), VerificationError, OTHER_CA),
    ("expired", lambda ls: ls.but(days=(-29, -1)).signed(), ExpiredError, "has expired"),
    ("from the future", lambda ls: ls.but(days=(1, 28)).signed(), VerificationError, "in the future"),
    ("no JSON", lambda ls: grid.jane().sign(b"hello"), VerificationError, "not an image list"),
    ("JSON without end", lambda ls: grid.jane().sign(b'{"hv:imagelist":' + b"[" * 200_000), VerificationError,
     "not an image list"),
    ("a size that is none", lambda ls: ls.but(size=-1).signed(), VerificationError, "hv:size"),
    ("an identifier that is a path", lambda ls: ls.but(more=(("dc:identifier", "../../x"),)).signed(),
     VerificationError, "dc:identifier"),
    ("for another machine", lambda ls: ls.but(more=(("sl:arch", "aarch64"),)).signed(), PolicyError, "aarch64"),
    ("an unknown format", lambda ls: ls.but(format="exe").signed(), PolicyError, "exe"),
    ("images on the site's own disk", lambda ls: ls.but(uri="file:///etc/shadow").signed(), UsageError, "http"),
    ("an address with a password", lambda ls: ls.but(uri="http://a:b@host/x").signed(), UsageError, "http"),
]  # fmt: skip


@pytest.mark.parametrize(("attack", "make", "error", "words"), LISTS, ids=[row[0] for row in LISTS])
def test_a_list_is_refused_that_is(
    site: Site, attack: str, make: Callable[[List], bytes], error: type[KioskError], words: str
) -> None:
    with pytest.raises(error) as caught:
        site.take(make(site.list))
    assert words in str(caught.value)
    assert site.nothing_taken()
    site.serve(site.list.but(version="2").signed())
    assert (
        verified(site.settings, site.url, Trust(site.cas)).list.version == "2"
    )  # the site is none the worse for it


def test_authorities_that_the_machine_trusts_for_the_web_count_for_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = issue(OTHER_CA, None, 3, ca=True)
    web = tmp_path / "web-cas"
    web.mkdir()
    (web / "other.pem").write_bytes(other.pem())
    run(["openssl", "rehash", web], timeout=60)
    monkeypatch.setenv("SSL_CERT_DIR", str(web))
    monkeypatch.setenv("SSL_CERT_FILE", str(web / "other.pem"))
    with pytest.raises(VerificationError, match="signature does not hold"):
        site.take(site.list.but(ca=OTHER_CA).signed(issue(JANE, other, 4)))
    assert site.nothing_taken()


def test_a_certificate_of_no_authority_among_the_authorities_vouches_for_nobody(site: Site) -> None:
    (site.cas / "stray.pem").write_bytes(issue(JANE, None, 4).pem())
    with pytest.raises(VerificationError, match="signature does not hold"):
        site.take(site.list.but(ca=JANE).signed(issue(JANE, None, 4)))


def test_a_revoked_endorser_is_refused_and_so_is_an_old_list_of_revocations(site: Site) -> None:
    (site.cas / "ca-0.r0").write_bytes(grid.revocations(grid.authority()))
    assert len(site.take(site.list.signed())) == 1
    (site.cas / "ca-0.r0").write_bytes(grid.revocations(grid.authority(), grid.jane()))
    with pytest.raises(VerificationError, match="revoked"):
        site.take()
    (site.cas / "ca-0.r0").write_bytes(grid.revocations(grid.authority(), days=(-30, -1)))
    with pytest.raises(ExpiredError, match="CRL has expired"):
        site.take()


def test_sha_1_is_believed_only_when_that_is_asked_for(site: Site) -> None:
    # No library signs with SHA-1 any more; OpenSSL does.
    folder = site.settings.home / "sign"
    folder.mkdir(parents=True)
    (folder / "c").write_bytes(grid.jane().pem())
    (folder / "k").write_bytes(grid.jane().key_pem())
    (folder / "t").write_bytes(site.list.content())
    argv: list[str | Path] = ["openssl", "smime", "-sign", "-md", "sha1", "-signer", folder / "c", "-inkey"]
    run([*argv, folder / "k", "-in", folder / "t", "-out", folder / "m"], timeout=60)
    site.serve((folder / "m").read_bytes())
    with pytest.raises(VerificationError, match="signed with sha1, which can be forged"):
        verified(site.settings, site.url, Trust(site.cas))
    assert verified(site.settings, site.url, Trust(site.cas, weak=True)).signed.digest == "sha1"


def test_a_name_that_reads_like_another_is_no_name() -> None:
    with pytest.raises(VerificationError, match="read in two ways"):
        name_of(x509.Name([x509.NameAttribute(grid.KEYS["O"], "x/CN=Jane Doe")]))


def test_an_older_list_is_not_believed(site: Site) -> None:
    old = site.list.but(version="1.9").signed()
    site.take(site.list.but(version="1.10", image_version="4").signed())
    with pytest.raises(VerificationError, match=r"version 1\.10 was seen"):
        site.take(old)


def test_another_list_at_a_known_address_is_no_first_sight(site: Site) -> None:
    site.take(site.list.signed())
    other = "6f1f6a6e-0000-4000-8000-000000000001"
    with pytest.raises(VerificationError, match="and this address gave"):
        site.take(site.list.but(identifier=other, image_version="9").signed())
    assert len(site.take(endorser=JANE)) == 1


def test_another_content_under_the_same_version_is_not_believed(site: Site) -> None:
    site.take(site.list.signed())
    with pytest.raises(VerificationError, match="with other content"):
        site.take(site.list.but(title="Other", image_version="9").signed())


def test_a_pinned_endorser_is_the_only_one(site: Site) -> None:
    with pytest.raises(VerificationError, match=r"not by .*John Roe"):
        site.take(site.list.signed(), endorser=JOHN)
    assert len(site.take(endorser=JANE)) == 1


# -- what a server, or who stands before it, can do ----------------------------------------------------


def redirect(line: Any, _: bytes) -> None:
    line.sendall(
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )


def right(line: Any, data: bytes) -> None:
    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(data), data))


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (FLIPPED, CorruptError, "another SHA-512"),
        (SHORT, CorruptError, "signed are"),
        (LONG, CorruptError, "signed are"),
        (LYING_HUGE, CorruptError, "signed are"),
        (endless, CorruptError, "is larger than the"),
        (redirect, NetworkError, "not http or https"),
    ],
)
def test_an_image_is_only_what_was_signed(
    site: Site, fault: Any, error: type[KioskError], words: str
) -> None:
    site.server.faults += [right, fault]
    with pytest.raises(error) as caught:
        site.take(site.list.signed())
    assert words in str(caught.value) and site.nothing_taken()


@pytest.mark.parametrize(("fault", "error"), [(endless, CorruptError), (redirect, NetworkError)])
def test_a_list_comes_from_its_server_and_is_bounded(site: Site, fault: Any, error: type[KioskError]) -> None:
    site.server.faults += [fault]
    with pytest.raises(error):
        site.take(site.list.signed())


def test_an_image_of_another_size_or_digest_than_the_list_says_is_refused(site: Site) -> None:
    with pytest.raises(CorruptError, match="signed are"):
        site.take(site.list.but(size=len(site.list.data) - 1).signed())
    with pytest.raises(CorruptError, match="another SHA-512"):
        site.take(site.list.but(version="2", sha512=hashlib.sha512(b"").hexdigest()).signed())
    assert site.nothing_taken()


# -- what a disk image can do -------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def refused(settings: Settings, given: Path, error: type[KioskError], words: str) -> None:
    with pytest.raises(error) as caught:
        import_file(settings, given, Wanted("evil", most=64 * MIB))
    assert words in str(caught.value)
    assert not settings.images.exists() and not any((settings.home / "scratch").iterdir())


def test_a_qcow2_that_stands_on_the_hosts_passwords(settings: Settings, tmp_path: Path) -> None:
    argv: list[str | Path] = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-F",
        "raw",
        "-b",
        "/etc/shadow",
    ]
    run([*argv, tmp_path / "q", "1M"], timeout=60)
    refused(settings, tmp_path / "q", PolicyError, "names a backing file")
    (tmp_path / "q.gz").write_bytes(gzip.compress((tmp_path / "q").read_bytes()))
    refused(settings, tmp_path / "q.gz", PolicyError, "names a backing file")


def test_a_qcow2_whose_data_are_in_another_file(settings: Settings, tmp_path: Path) -> None:
    data = tmp_path / "data"
    argv: list[str | Path] = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        f"data_file={data},data_file_raw=on",
    ]
    run([*argv, tmp_path / "q", "1M"], timeout=60)
    refused(settings, tmp_path / "q", PolicyError, "names an external data file")


def test_vmdks_that_are_made_of_other_files(settings: Settings, tmp_path: Path) -> None:
    text = '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    text += 'RW 4 FLAT "/etc/passwd" 0\n'
    (tmp_path / "v").write_text(text)
    refused(settings, tmp_path / "v", PolicyError, "names other files")
    # The same words behind a header that says the disk itself is empty: qemu-img would follow them.
    header = bytearray(65536)
    header[:4] = b"KDMV"
    struct.pack_into("<IIQQQQ", header, 4, 1, 3, 0, 128, 1, 20)
    header[512 : 512 + len(text)] = text.encode()
    (tmp_path / "w").write_bytes(header)
    refused(settings, tmp_path / "w", PolicyError, "only a description")
    good = bytearray(converted(raw_disk(tmp_path / "r"), "vmdk", tmp_path / "x").read_bytes())
    at = good.index(b"createType")
    good[at - 1 : at - 1] = b'\nparentFileNameHint="/etc/passwd"'
    del good[512 + 20 * 512 : 512 + 20 * 512 + 34]
    (tmp_path / "x").write_bytes(good)
    refused(settings, tmp_path / "x", PolicyError, "names a parent")


def test_differencing_disks_are_refused(settings: Settings, tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "r")
    vdi = bytearray(converted(raw, "vdi", tmp_path / "i").read_bytes())
    struct.pack_into("<I", vdi, 0x4C, 4)
    (tmp_path / "i").write_bytes(vdi)
    refused(settings, tmp_path / "i", PolicyError, "differencing")
    vhd = bytearray(converted(raw, "vpc", tmp_path / "h").read_bytes())
    struct.pack_into(">I", vhd, len(vhd) - 512 + 60, 4)
    (tmp_path / "h").write_bytes(vhd)
    refused(settings, tmp_path / "h", PolicyError, "differencing")


def test_qemu_img_is_told_the_format_of_a_raw_disk_that_pretends_to_be_a_qcow2(
    settings: Settings, tmp_path: Path
) -> None:
    raw = raw_disk(tmp_path / "r")
    inner = tmp_path / "inner"
    argv: list[str | Path] = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-F",
        "raw",
        "-b",
        "/etc/shadow",
    ]
    run([*argv, inner, "1M"], timeout=60)
    disk = bytearray(raw.read_bytes())
    disk[0:400] = inner.read_bytes()[:400]  # the partition table stays
    raw.write_bytes(disk)
    refused(settings, raw, PolicyError, "names a backing file")
    with pytest.raises(UsageError, match="is qcow2, not raw"):
        import_file(settings, raw, Wanted("evil", format="raw"))


def test_even_an_image_that_passed_the_checks_could_not_read_the_hosts_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the checks of headers away, the confinement still stands."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * MIB)
    secret.chmod(0o600)
    job = tmp_path / "job"
    prepare(job)
    argv: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", secret]
    run([*argv, job / convert.GIVEN, "1M"], timeout=60)
    hand_over(job / convert.GIVEN)
    words = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", convert.GIVEN, convert.DISK]
    with pytest.raises(CommandError, match="Permission denied"):
        confined(words, job, timeout=60)
    assert confined(["id", "-u"], job, timeout=10) == "65534\n"
    assert "lo" in confined(["cat", "/proc/net/dev"], job, timeout=10)
    assert confined(["cat", "/proc/net/route"], job, timeout=10).count("\n") <= 1  # no network
    monkeypatch.setattr(convert, "refuse_references", lambda *_: None)
    with pytest.raises(PolicyError, match="names other files"):
        convert.to_raw(job, "qcow2", 64 * MIB, "evil")


def test_bombs_end_at_the_size_that_is_allowed(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(gzip.compress(bytes(65 * MIB)))
    refused(settings, tmp_path / "g", PolicyError, "when it is decompressed")
    run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "q", "65M"], timeout=60)
    refused(settings, tmp_path / "q", PolicyError, "more than the")


def archive(target: Path, *members: tarfile.TarInfo, data: bytes = b"") -> Path:
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for one in members:
            tar.addfile(one, io.BytesIO(data[: one.size]))
    return target


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size, found.type, found.linkname = size, kind, link
    return found


@pytest.mark.parametrize(
    ("members", "error", "words"),
    [
        ([member("../../etc/cron.d/evil", 9)], PolicyError, "not a plain file"),
        ([member("/etc/cron.d/evil", 9)], PolicyError, "not a plain file"),
        (
            [member("a.ovf", 9), member("d.vmdk", 0, tarfile.SYMTYPE, "/etc/shadow")],
            PolicyError,
            "not a plain",
        ),
        (
            [member("a.ovf", 9), member("d.vmdk", 0, tarfile.LNKTYPE, "/etc/shadow")],
            PolicyError,
            "not a plain",
        ),
        ([member("a.ovf", 9), member("d.vmdk", 0, tarfile.CHRTYPE)], PolicyError, "not a plain file"),
        ([member("a.ovf", 9), member("d.vmdk", 9), member("d.vmdk", 9)], PolicyError, "twice"),
        ([member("a.ovf", 9), member("d.vmdk", 9), member("e.vmdk", 9)], UsageError, "not one disk but 2"),
        ([member("a.ovf", 9)], UsageError, "not one disk but 0"),
        ([member("d.vmdk", 9)], UsageError, "no .ovf"),
        ([member("a.ovf", 9), member("x.ova", 9)], UsageError, "not a disk image"),
        ([member(f"{i}.ovf", 1) for i in range(101)], PolicyError, "more than 100"),
        (
            [member("a.ovf", 9), member("a.mf", 9), member("d.vmdk", 9)],
            CorruptError,
            "a line that is no digest",
        ),
    ],
)
def test_an_ova_is_refused_whole(
    settings: Settings, tmp_path: Path, members: list[tarfile.TarInfo], error: type[KioskError], words: str
) -> None:
    refused(settings, archive(tmp_path / "a", *members, data=b"some data"), error, words)


def test_an_ova_whose_header_would_fill_the_memory(settings: Settings, tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 8 * MIB
    with (tmp_path / "a").open("wb") as f:
        f.write(header.tobuf(tarfile.GNU_FORMAT))
        f.truncate(16 * MIB)
    refused(settings, tmp_path / "a", CorruptError, "not a whole tar archive")


def test_an_ova_with_an_image_that_names_others(settings: Settings, tmp_path: Path) -> None:
    argv: list[str | Path] = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-F",
        "raw",
        "-b",
        "/etc/shadow",
    ]
    run([*argv, tmp_path / "q", "1M"], timeout=60)
    data = (tmp_path / "q").read_bytes()
    given = archive(tmp_path / "a", member("a.ovf", 1), member("d.qcow2", len(data)), data=data)
    refused(settings, given, PolicyError, "names a backing file")


def test_what_an_import_was_given_is_not_looked_at_twice(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who can change the file changes it after it was checked: what is imported is the copy that was checked."""
    given = converted(raw_disk(tmp_path / "r"), "qcow2", tmp_path / "q")
    argv: list[str | Path] = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-F",
        "raw",
        "-b",
        "/etc/shadow",
    ]
    run([*argv, tmp_path / "evil", "1M"], timeout=60)
    before = formats.refuse_references

    def and_then(path: Path, shown: str, format: formats.Format) -> None:
        before(path, shown, format)
        (tmp_path / "evil").replace(given)

    monkeypatch.setattr(convert, "refuse_references", and_then)
    done = import_file(settings, given, Wanted("good"))
    assert (done.folder / "disk.raw").read_bytes() == (tmp_path / "r").read_bytes()
