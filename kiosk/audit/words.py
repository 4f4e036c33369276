"""Tokens, password hashes, and passwords in the clear, in text: by their form anywhere, by what they are assigned to
in configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kiosk.audit import patterns
from kiosk.audit.model import Hit
from kiosk.audit.sample import Sample

MAX_HITS = 50
_PROGRAMS = re.compile(rb"/(?:usr|lib\w*|bin|sbin|boot|dev|proc|sys|run)/")
_CODE = re.compile(rb"\.(?:py|pyi|pl|pm|rb|js|ts|php|lua|tcl|go|java|groovy)$")
_PROSE = re.compile(
    rb"\.(?:c|h|cc|hh|cpp|rs|el|html?|css|md|rst|[1-9]|tex|po|pot|mo|svg"
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
_REFERENCE = re.compile(
    rb"\$[{(]|\$\w+[\"';,)]?$|%[{(]|%\w+%$|\{\{|\{[\w.]*\}$|[({\[]|<[^>]*>|`|\\|@\w+@$|&\w+;|[~.]{0,2}/[\w.+-]+/|~/"
    rb"|!\w+ |(?:file|env|vault|secret):|ENC\["
)
"""What stands for a value that is elsewhere: a variable, a template, a call, a path."""
_WORD = re.compile(rb"[A-Za-z_.: -]+")
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
        code = bool(_CODE.search(sample.path))
        if not code:
            yield from _assigned(sample)
            yield from _community(sample)
        if b'"' in data or b"'" in data:
            yield from _quoted(sample, patterns.QUOTED, code=code)
        if b"</" in data:
            yield from _quoted(sample, patterns.ELEMENT)


def _is_configuration(path: bytes) -> bool:
    """Whatever is not in the folders of programs, but for what describes packages, and prose."""
    if path.startswith(b"/usr/local/etc/"):
        return True
    return not (_PROGRAMS.match(path) or _PROSE.search(path) or path.startswith(_LISTS))


def _quoted(sample: Sample, form: re.Pattern[bytes], *, code: bool = False) -> Iterator[Hit]:
    """Values in quotes, and elements. In code a value of letters alone is a word."""
    found = 0
    for m in form.finditer(sample.data):
        value = m["value"].strip(b"\"' ")
        if m["comma"] and not code:  # a list of words
            continue
        sentence = len(value.split()) > 3 or (code and _WORD.fullmatch(value) is not None)
        if _secret(value) and not sentence and not _REFERENCE.match(value) and not _a_switch(m[1]):
            yield sample.hit("password", f"a secret in configuration: {_shown(m[1])}", m.start())
            found += 1
            if found >= MAX_HITS:
                return


def _community(sample: Sample) -> Iterator[Hit]:
    if b"community" not in sample.data and b"com2sec" not in sample.data:
        return
    for m in patterns.COMMUNITY.finditer(sample.data):
        if m[1] != b"public" and _secret(m[1]):
            yield sample.hit("password", "an SNMP community that is a password", m.start())
            return


def _shown(key: bytes) -> str:
    return key.decode("ascii", "replace")[-40:]


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
            yield sample.hit("password", f"a secret in configuration: {_shown(m[1])}", m.start())
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
