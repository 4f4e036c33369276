"""Tokens, password hashes, and passwords in the clear, in text: by their form anywhere, by what they are assigned to
in configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kiosk.audit import patterns
from kiosk.audit.model import Hit
from kiosk.audit.sample import Sample

MAX_HITS = 50
_CONFIGURATION = re.compile(rb"/(?:etc|root|home|var|opt|srv)/|/usr/local/etc/")
_CODE = re.compile(
    rb"\.(?:py|pyi|pl|pm|rb|js|ts|c|h|cc|hh|cpp|java|go|rs|php|lua|tcl|el|html?|css|md|rst|[1-9]|tex|po|pot|mo|svg"
    rb"|list|md5sums|sha256sums|symbols|shlibs|templates|triggers|postinst|postrm|preinst|prerm|config|diff|patch)$"
)
_LISTS = (
    b"/etc/nsswitch.conf",
    b"/etc/services",
    b"/etc/mime.types",
    b"/var/lib/dpkg/",
    b"/var/lib/rpm/",
    b"/etc/pam.d/",
)
_REFERENCE = re.compile(rb"[$`(\[<{%@/&]|\\|!\w+ |file:|env:|vault:|ENC\[")
_PRIVATE_URL = re.compile(rb"^(?:user(?:name)?|login|name|foo|bar|me)$", re.I)


def words(sample: Sample) -> Iterator[Hit]:
    """Everything that this module finds in one file or window."""
    yield from tokens(sample)
    yield from hashes(sample)
    if sample.text:
        yield from passwords(sample)


def tokens(sample: Sample) -> Iterator[Hit]:
    """Tokens by their form."""
    for form in patterns.TOKENS:
        yield from _matches(sample, form, "token", form.what)


def hashes(sample: Sample) -> Iterator[Hit]:
    """Password hashes by their form."""
    for form in patterns.HASHES:
        yield from _matches(sample, form, "password-hash", f"a password's hash ({form.what})")


def _matches(sample: Sample, form: patterns.Form, check: str, what: str) -> Iterator[Hit]:
    if not any(n in sample.data for n in form.needles):
        return
    found = 0
    for m in form.pattern.finditer(sample.data):
        if form.likely(m):
            yield sample.hit(check, what, m.start())
            found += 1
            if found >= MAX_HITS:
                return


def passwords(sample: Sample) -> Iterator[Hit]:
    """Passwords in the clear."""
    data = sample.data
    if b"://" in data and b"@" in data and not sample.pristine:
        for m in patterns.URL.finditer(data):
            if _secret(m[2]) and not _PRIVATE_URL.match(m[1]):
                yield sample.hit("password", "a URL with a password", m.start())
                break
    if b"machine" in data and (netrc := patterns.NETRC.search(data)):
        yield sample.hit("password", "a password for a server (netrc)", netrc.start())
    if (b"rootpw" in data or b"password" in data) and (answer := patterns.INSTALLER.search(data)):
        yield sample.hit("password", "a password in the answers to an installer", answer.start())
    if sample.name in (b".pgpass", b"pgpass") and (line := patterns.PGPASS.search(data)):
        yield sample.hit("password", "a password for a database (pgpass)", line.start())
    if sample.name in (b"chap-secrets", b"pap-secrets", b"srp-secrets"):
        for m in patterns.PPP.finditer(data):
            if not m[0].lstrip().startswith(b"#") and _secret(m[1]):
                yield sample.hit("password", "a password for a connection (PPP)", m.start())
                break
    if not sample.pristine and _is_configuration(sample.path):
        yield from _assigned(sample)


def _is_configuration(path: bytes) -> bool:
    return bool(_CONFIGURATION.match(path)) and not _CODE.search(path) and not path.startswith(_LISTS)


def _assigned(sample: Sample) -> Iterator[Hit]:
    found = 0
    for m in patterns.ASSIGNMENT.finditer(sample.data):
        if not m[2].strip() and not patterns.ALONE.fullmatch(m[1]):
            continue
        value = m[3].strip().rstrip(b",;").strip()
        quoted = re.match(rb"([\"'])(.*?)\1", value)
        value = quoted[2] if quoted else value
        if b" " in value.split(b" #", 1)[0].strip() and not quoted:  # a sentence, not a value
            continue
        value = value.split(b" #", 1)[0].strip()
        if _secret(value) and not _REFERENCE.match(value) and not _a_switch(m[1]):
            key = m[1].decode("ascii", "replace")[-40:]
            yield sample.hit("password", f"a secret in configuration: {key}", m.start())
            found += 1
            if found >= MAX_HITS:
                return


def _secret(value: bytes) -> bool:
    return len(value) >= 4 and not patterns.NO_SECRETS.fullmatch(value) and len(set(value)) > 2


def _a_switch(key: bytes) -> bool:
    """Keys that speak about passwords, files and commands rather than hold one."""
    return re.search(
        rb"(?:file|path|dir|cmd|command|prompt|method|type|min|max|len(?:gth)?|age|days?|auth(?:entication)?|policy"
        rb"|hash|store|helper|retry|retries|timeout|attempts|expire|change|enabled?|url|uri|name|id|scheme|format"
        rb"|scope|algorithm|label|field|provider|warn|size|quality|history|storage)$",
        key.rstrip(b"_-.:"),
        re.I,
    ) is not None  # fmt: skip
