"""Hostile images cost bounded time and memory, and what is over the bounds is told."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from kiosk.audit import Facts, Report, audit, read, tree
from kiosk.audit.sample import Sample
from kiosk.audit.words import words
from kiosk.disk.volume import Node
from kiosk.errors import CorruptError
from kiosk.model.manifest import AuditException
from tests.audit import material
from tests.audit.images import NOW, Root, clean

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return clean(tmp_path / "root")


def timed(root: Root) -> tuple[float, Report]:
    begin = time.process_time()
    report = root.audit()
    return time.process_time() - begin, report


def test_holes_cost_nothing_and_hide_nothing(root: Root) -> None:
    file = root.write("opt/sparse")
    with file.open("r+b") as f:
        f.truncate(1 << 40)
        f.seek(700 << 30)
        f.write(b"\n" * 5000 + material.pem())
    seconds, report = timed(root)
    assert [(f.check, f.path, f.digest) for f in report.findings] == [("private-key", "/opt/sparse", None)]
    assert seconds < 2


def test_a_secret_at_any_place_of_a_large_file_is_found(root: Root) -> None:
    key = material.pem()
    for start in (0, read.WINDOW - 900, read.WINDOW - 1, 3 * read.WINDOW - 10, 5 * MIB - len(key)):
        data = bytearray(b"x" * 5 * MIB)
        data[start : start + len(key)] = key
        root.write("opt/large", bytes(data))
        report = root.audit()
        assert [f.path for f in report.findings if f.check == "private-key"] == ["/opt/large"], start
        assert report.findings[0].digest == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_file_that_is_too_large_is_told(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "LARGEST", 6 * MIB)
    root.write("opt/large", b"x" * 9 * MIB)
    assert root.found("unexamined") == ["/opt/large"]


def test_deep_trees_and_long_chains_of_links(root: Root) -> None:
    deep = root.path
    for _ in range(400):
        deep = deep / "deeper"
    deep.mkdir(parents=True)
    (deep / "key").write_bytes(material.pem())
    for i in range(300):
        (root.path / f"opt{i}").symlink_to(f"opt{i + 1}/../opt{i + 1}")
    root.write("var/lib/dpkg/info/systemd.list", "".join(f"/opt{i}/x\n" for i in range(300)))
    seconds, report = timed(root)
    assert [f.check for f in report.findings if f.path.endswith("deeper/key")] == ["private-key"]
    assert seconds < 5


def test_a_huge_list_of_checksums_is_read_in_bounded_time(root: Root) -> None:
    lines = b"".join(b"%032x  usr/share/x/%d\n" % (i, i) for i in range(100_000))
    root.write("var/lib/dpkg/info/systemd.md5sums", lines)
    seconds, report = timed(root)
    assert report.counts.packages == 1
    assert seconds < 4


def test_too_many_names_are_an_error(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_NAMES", 20)
    with pytest.raises(CorruptError, match="more than 20 files"):
        root.audit()


HOSTILE = {
    "spaces": b" " * MIB,
    "machine": b"machine " * (MIB // 2),
    "urls": b"a://" * MIB,
    "url": b"http://" + b"a" * (MIB // 2) + b":" + b"b" * (MIB // 2),
    "colons": b":" * MIB,
    "dashes": b"-" * MIB,
    "begins": b"-----BEGIN " * (MIB // 3),
    "keys": b"-----BEGIN PRIVATE KEY-----\n" * (MIB // 8),
    "words": b"-----BEGIN " + b"A " * (MIB // 2),
    "passwords": b"password" * (MIB // 2),
    "assigned": b"password = \n" * (MIB // 3),
    "secrets": b"x_secret_key=" * (MIB // 3),
    "jwt": b"eyJ" * MIB,
    "jwts": b"eyJhbGciOiJIUzI1NiJ9." * (MIB // 6),
    "hashes": b"$6$" * MIB,
    "aws": b"aws_secret" * (MIB // 3),
    "argon": b"$argon2id$" * (MIB // 3),
    "pbkdf": b"pbkdf2-sha512:" * (MIB // 4),
    "sig": b"sv=" + b"a&" * (MIB // 2) + b"sig=",
    "certificates": b"-----BEGIN CERTIFICATE-----\n" + b"A" * MIB,
    "passwd": b"a:" * (MIB // 2),
    "rows": b"a:b:1000:1000:::\n" * (MIB // 5),
    "ssh": b"ssh-ed25519 " * (MIB // 4),
    "docker": b'"auth":' * (MIB // 2),
    "kickstart": b"user " + b"--password=" * (MIB // 4),
    "lines": b"\n" * MIB,
    "elements": b"<password>\n" * (MIB // 8),
    "attributes": b'password="' * (MIB // 8),
    "json": b'{"password":"' * (MIB // 8),
    "braces": b"{password: " * (MIB // 8),
    "blanks": (b"<password>" + b" " * 150) * (MIB // 150),
    "com2sec": b"com2sec a b " * (MIB // 8),
    "wide": b"B\0E\0G\0I\0N\0 \0" * (MIB // 8),
    "sequences": (b"\x30\x10" + b"a" * 16) * (MIB // 8),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_content_makes_a_check_slow(name: str, root: Root) -> None:
    root.write("etc/passwd-", HOSTILE[name][:MIB])
    root.write("etc/netplan/x", HOSTILE[name][:MIB])
    root.write("srv/x.py", HOSTILE[name][:MIB])
    seconds, _ = timed(root)
    assert seconds < 4


def test_key_beginnings_by_the_thousand_hide_no_key(root: Root) -> None:
    root.write("opt/x", b"-----BEGIN PRIVATE KEY-----\n" * 6000 + material.pem())
    assert root.found("unexamined") == ["/opt/x"]


def test_what_unpacks_to_gigabytes_is_unpacked_in_part(root: Root) -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(512 * MIB))
    assert len(bomb) < MIB
    root.write("opt/bomb.zst", bomb)
    seconds, report = timed(root)
    assert [(f.check, f.path) for f in report.findings] == [("unexamined", "/opt/bomb.zst")]
    assert seconds < 2


def test_a_file_of_very_many_names_is_told(root: Root) -> None:
    first = root.write("opt/0", b" " * MIB)
    for i in range(1, 300):
        os.link(first, root.path / f"opt/{i}")
    seconds, report = timed(root)
    assert len([f for f in report.findings if f.check == "unexamined"]) == 300 - read.MAX_NAMES
    assert seconds < 5


audit_module = sys.modules["kiosk.audit.audit"]
ALL = AuditException(check="unexamined", path="/*", reason="everything is accepted")


@pytest.mark.parametrize(
    ("module", "limit", "value", "reason"),
    [
        (read, "SECONDS", -1.0, "-1 s have passed"),
        (read, "TOTAL", MIB, f"{MIB} bytes were read"),
        (audit_module, "MOST_HITS", 2, "there are more than 2 findings"),
    ],
)
def test_an_audit_that_ends_at_a_limit_does_not_pass_whatever_is_accepted(
    root: Root, monkeypatch: pytest.MonkeyPatch, module: ModuleType, limit: str, value: float, reason: str
) -> None:
    for i in range(5):
        root.write(f"opt/{i}", b"x" * MIB)
        root.write(f"opt/key{i}", material.pem() if limit == "MOST_HITS" else b"")
    monkeypatch.setattr(module, limit, value)
    report = root.audit(Facts(exceptions=(ALL,)))
    (finding,) = (f for f in report.findings if f.check == "unexamined")
    assert (report.passed, finding.place) == (False, "/#unfinished")
    assert finding.message.startswith("the audit is not finished: ")
    assert finding.message.endswith(reason)


def test_what_is_unpacked_counts_as_read(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        root.write(f"opt/{i}.gz", gzip.compress(bytes(MIB)))
    monkeypatch.setattr(read, "TOTAL", 2 * MIB)
    assert "/#unfinished" in root.found("unexamined")


def test_a_file_with_hits_without_end_is_given_up_under_a_few_of_its_names(root: Root) -> None:
    first = root.write(
        "opt/0", b"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\n" * (24 * MIB // 57)
    )
    for i in range(1, 100):
        os.link(first, root.path / f"opt/{i}")
    _, report = timed(root)
    assert any(f.message == "has more hits than are looked for" for f in report.findings)
    assert {f.path for f in report.findings if f.check == "private-key"} < {f"/opt/{i}" for i in range(100)}


def test_attributes_that_would_fill_the_memory_are_an_error(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "MAX_TEXT", 4000)
    os.setxattr(root.write("opt/x"), "user.x", bytes(4000))
    with pytest.raises(CorruptError, match="more than 4000 bytes"):
        root.audit()


class Damaged:
    """A volume whose only file can't be read."""

    def nodes(self) -> Iterator[Node]:
        yield Node(b"/", stat.S_IFDIR | 0o755, 0, 0, 0, 0, 1)
        yield Node(b"/broken", stat.S_IFREG | 0o644, 0, 0, 99, 0, 2)

    def read(self, node: Node) -> Iterator[bytes]:
        yield b"some"
        raise CorruptError("points outside itself")


def test_damage_in_a_file_is_told() -> None:
    found = audit(Damaged(), Facts(), now=lambda: NOW).findings
    assert ("unexamined", "/broken") in [(f.check, f.path) for f in found]


def test_a_window_of_any_bytes_is_looked_at_without_error() -> None:
    node = Node(b"/etc/x", stat.S_IFREG, 0, 0, 0, 0, 2)
    for i in range(50):
        list(words(Sample(node, os.urandom(4096) + material.noise(str(i), 100))))
