"""Passwords in configuration: what is assigned to a key that speaks of a secret, in files that hold settings.

In settings of any form that is a value: lines, JSON and YAML on one line, XML, SNMP's communities. In settings that are
written in a programming language only quoted literals are values. A value that refers to one elsewhere is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from kiosk.audit import patterns
from kiosk.audit.model import Hit
from kiosk.audit.sample import Sample

MAX_HITS = 50
_SYSTEM = re.compile(rb"/(?:usr|proc|sys|dev|run|boot|lib[^/]*|bin|sbin)/")
_LISTS = re.compile(
    rb"/etc/(?:nsswitch\.conf$|services$|mime\.types$|pam\.d/)|/var/lib/(?:dpkg|rpm|pam)/|/var/cache/debconf/templates"
)
_PROSE = re.compile(
    rb"\.(?:pyi|c|h|cc|hh|cpp|java|go|rs|el|html?|css|md|rst|[1-9]|tex|po|pot|mo|svg|list|md5sums|sha256sums"
    rb"|symbols|shlibs|templates|triggers|postinst|postrm|preinst|prerm|diff|patch)$"
)
_PROGRAM = re.compile(rb"\.(?:py|php\d?|inc|rb|lua|[cm]?js|ts|p[lm]|tcl|groovy|exs?)$")
_LIBRARY = re.compile(rb"/(?:(?:site|dist)-packages|node_modules|gems|vendor|lib/python\d[^/]*)/")
"""Programs that others wrote: their examples are no settings."""
_REFERENCE = re.compile(
    rb"[`(\[\\]|!\w+ |(?:file|env|vault):|ENC\["
    rb"|\$(?:\w+(?:(?:->|::|[.\[/]).*)?$|(?-i:[A-Z_][A-Z0-9_]*\b)|[{(\[$])"
    rb"|\$(?:1|2[abxy]?|[567]|g?y|sha1|apr1|md5|argon2\w*|pbkdf2[\w-]*)\$"
    rb"|@(?:[\w.-]+@|[/{])"
    rb"|&\w+;"
    rb"|%(?:[{(<]|\w+%|(?:[a-zA-Z][^\w]?%?)+$)"
    rb"|/(?:[\w.+@~*-]+/[\w.+@~*/-]*|[a-z_-]+)$"
    rb"|\{(?:[{%$#\"']|[\w.:-]*\}$|(?!(?:plain|noop|clear|cleartext)\})[\w-]+\})"
    rb"|<[^<>]*>|[a-z][a-z0-9+.-]{1,20}://[^\s@]*$",
    re.I,
)
"""What stands for a value that is elsewhere: variables, commands, templates, placeholders, paths; and hashes, which are
found as such. A URL is one unless it has a password, which is found as such, too."""
_CORE = re.compile(
    rb"pass(?:word|wd|phrase)|passwort|(?:secret|api|access|auth|private)[_-]?key|secret|token|bind_?pw"
    rb"|credentials|(?<![a-z])psk|authtok"
    rb"|(?:(?<![a-z])|(?<=db)|(?<=my)|(?<=sql)|(?<=user)|(?<=admin)|(?<=root)|(?<=ldap)|(?<=smtp)|(?<=mail)|(?<=ftp)"
    rb"|(?<=http)|(?<=proxy))(?:pass|pwd|pw)(?=\d{0,3}(?:[\"'\s:=\])<]))"
)
"""What makes a key one of a secret, in lower case."""
_KEY_LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789_.-"
_QUOTED = rb"(?:\"([^\"\n]{1,300})\"|'([^'\n]{1,300})')"
_REST = rb"[a-z0-9_.-]{0,20}"
_PAIR = re.compile(_REST + rb"[\"']?[ \t]{0,20}(?:=>?|:)[ \t]{0,20}(?:" + _QUOTED + rb"|(\d{4,40})\b)")
_BARE = re.compile(_REST + rb"(?:=|:[ \t]{1,20})([^\s,;&\"'<>()\[\]|]{1,300})")
_LITERAL = re.compile(
    _REST + rb"(?:[\"']?\]?|[\"'])[ \t]{0,20}(?::[ \t]{0,5}[a-z]{1,20}[ \t]{0,20})?"
    rb"(?:=>|=(?!=)|:(?!:)|(?<=[\"']),)[ \t]{0,20}[a-z]{0,2}" + _QUOTED
)
_CALL = re.compile(
    rb"(?:define|set\w{0,20}|put\w{0,20}|\w{0,20}env|get|config\w{0,20})[ \t]{0,5}\([ \t]{0,5}[\"']$"
)
_COMMENT = re.compile(rb"\s*(?:#|;|//(?![\w.-]+/)|/?\*|--(?!\w)|<!--|>>>|dnl\b|REM\b)")
_ELEMENT = re.compile(
    _REST + rb"(?:\s[^<>]{0,200})?>\s{0,200}(?:<!\[cdata\[)?([^<>\s]{1,300}?)(?:\]\]>)?\s{0,200}</"
)
_NAME_SPACE = re.compile(rb"<[\w.-]{1,38}:$")
"""The name space of an XML element."""
_NAMED = re.compile(
    _REST + rb"(?:</(?:name|key)>\s{0,200}<(?:value|string)>\s{0,20}([^<>\s]{1,300})"
    rb"|[\"']\s{1,20}value=(?:\"([^\"\n]{1,300})\"|'([^'\n]{1,300})')|[\"'][^<>]{0,100}>([^<>\s]{1,300})</)"
)
_SNMP = re.compile(
    rb"^[ \t]{0,20}(?:r[ow]community6?|trapcommunity|(?:trap2?sink|informsink)[ \t]{1,20}\S{1,200}"
    rb"|com2sec6?[ \t]{1,20}(?:-Cn[ \t]{1,20}\S{1,100}[ \t]{1,20})?\S{1,100}[ \t]{1,20}\S{1,100})"
    rb"[ \t]{1,20}([^\s#]{1,200})",
    re.M | re.I,
)
_TOKEN = re.compile(rb"(?=[^a-zA-Z]*[a-zA-Z])(?=[^0-9]*[0-9])\S{8,}")
_FORMS = re.compile(rb"[$#]\{|%\(|\{\w*\}|%[sd]")
_NAME_OF_ONE = re.compile(rb"[a-z_. -]*(?:pass|pwd|secret|token|key|credential|psk|bearer)[a-z_. -]*", re.I)


def settings(sample: Sample) -> Iterator[Hit]:
    """Passwords in a file of settings, MAX_HITS at most; none in other files."""
    path = sample.path
    if sample.pristine or not is_configuration(path):
        return
    found = _literals(sample) if _PROGRAM.search(path) else _values(sample)
    told: set[int | None] = set()
    for key, at in islice(found, MAX_HITS):
        hit = sample.hit("password", f"a secret in configuration: {key[-40:].decode('ascii', 'replace')}", at)
        if hit.line is None or hit.line not in told:
            told.add(hit.line)
            yield hit


def is_configuration(path: bytes) -> bool:
    """Whether a file may hold settings: what is not the system's own, nor a list, a program or a text."""
    if _SYSTEM.match(path) and not path.startswith(b"/usr/local/etc/"):
        return False
    if _PROGRAM.search(path) and _LIBRARY.search(path):
        return False
    return not _PROSE.search(path) and not _LISTS.match(path)


def secret(value: bytes) -> bool:
    """Whether a value may be a secret: long and varied enough, and none that stands for one in examples."""
    return len(value) >= 4 and not patterns.NO_SECRETS.fullmatch(value) and len(set(value)) > 2


def _values(sample: Sample) -> Iterator[tuple[bytes, int]]:
    yield from _lines(sample.data)
    yield from _inline(sample.data)
    if b"community" in sample.data or b"com2sec" in sample.data or b"sink" in sample.data:
        for m in _SNMP.finditer(sample.data):
            if m[1] != b"public" and secret(m[1]):
                yield b"community", m.start()


def _lines(data: bytes) -> Iterator[tuple[bytes, int]]:
    """`key = value`, one on a line."""
    for m in patterns.ASSIGNMENT.finditer(data):
        if not m[2].strip() and not patterns.ALONE.fullmatch(m[1]):
            continue
        value = m[3].strip().rstrip(b",;").strip()
        quoted = re.match(rb"([\"'])(.*?)\1", value)
        value = quoted[2] if quoted else value.split(b" #", 1)[0].strip()
        if b" " in value and not quoted:  # a sentence, not a value
            continue
        if (
            not quoted and value.startswith((b"{", b"[")) and b":" in value
        ):  # more settings, one within another
            continue
        if _is_value(m[1], value):
            yield m[1], m.start()


def _inline(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Pairs anywhere in a line, and XML."""
    for key, core, lower in _keys(data):
        begin = core.end()
        start = begin - len(key)
        before = lower[max(0, start - 1) : start]
        m = _PAIR.match(lower, begin) if before not in (b"$", b"\\") else None
        if m is None and (
            before == b"<" or (before == b":" and _NAME_SPACE.search(lower[max(0, start - 40) : start]))
        ):
            m = _ELEMENT.match(lower, begin)
        if m is None and before in (b">", b'"', b"'"):
            m = _NAMED.match(lower, begin)
        if m is None and before in (b",", b";", b"?", b"&", b"{", b" ", b"=", b'"', b"'"):
            m = _BARE.match(lower, begin)
            if m is not None and not _bare(lower, m):
                m = None
        if m is None:
            continue
        group = m.lastindex or 0
        name = key + lower[begin : begin + _rest(lower, begin)]
        if _is_value(name, data[m.start(group) : m.end(group)]):
            yield name, core.start()


def _bare(lower: bytes, m: re.Match[bytes]) -> bool:
    """Whether what follows a key without quotes is its value: `key=value` anywhere, `key: value` within braces."""
    if b"=" in lower[m.start() : m.start(1)]:
        return True
    line = lower.rfind(b"\n", 0, m.start()) + 1
    return b"{" in lower[max(line, m.start() - 300) : m.start()]


def _literals(sample: Sample) -> Iterator[tuple[bytes, int]]:
    """Quoted literals that a program assigns."""
    data = sample.data
    for key, core, lower in _keys(data):
        m = _LITERAL.match(lower, core.end())
        if m is None:
            continue
        group = m.lastindex or 0
        start = core.end() - len(key)
        if b"," in lower[core.end() : m.start(group)] and not _CALL.search(lower[max(0, start - 40) : start]):
            continue
        name = key + lower[core.end() : core.end() + _rest(lower, core.end())]
        value = data[m.start(group) : m.end(group)]
        if core[0] in (b"token", b"credentials") and not _TOKEN.fullmatch(value):
            continue
        if _NAME_OF_ONE.fullmatch(value) or _FORMS.search(value) or (b" " in value and not _dense(value)):
            continue
        if _is_value(name, value):
            yield name, core.start()


def _keys(data: bytes) -> Iterator[tuple[bytes, re.Match[bytes], bytes]]:
    """Words that speak of a secret, with what is before them in the key; none in comments."""
    lower = data.lower()
    for core in _CORE.finditer(lower):
        before = lower[max(0, core.start() - 60) : core.start()]
        key = before[len(before.rstrip(_KEY_LETTERS)) :] + core[0]
        line = lower.rfind(b"\n", max(0, core.start() - 2000), core.start()) + 1
        if not _COMMENT.match(lower, line, core.end()):
            yield key, core, lower


def _rest(lower: bytes, at: int) -> int:
    """The length of what is left of a key."""
    after = lower[at : at + 20]
    return len(after) - len(after.lstrip(_KEY_LETTERS))


def _is_value(key: bytes, value: bytes) -> bool:
    return secret(value) and not _REFERENCE.match(value) and not _a_switch(key)


def _dense(value: bytes) -> bool:
    """Whether letters of all kinds are in it, as in no label."""
    kinds = (rb"[a-z]", rb"[A-Z]", rb"[0-9]", rb"[^\w\s.,:()'-]")
    return len(value) >= 32 and all(re.search(k, value) for k in kinds)


def _a_switch(key: bytes) -> bool:
    """Keys that speak about passwords, files and commands rather than hold one."""
    return re.search(
        rb"(?:file|path|dir|cmd|command|prompt|method|type|min|max|len(?:gth)?|age|days?|auth(?:entication)?|policy"
        rb"|hash|store|helper|retry|retries|timeout|attempts|expire|change|enabled?|url|uri|name|id|scheme|format"
        rb"|scope|algorithm|label|field|provider|warn|size|quality|history|storage|reqd|required"
        rb"|version|endpoint|audience|class|certs?|comment|ttl|lifetime|expiry|mode|level|count|limit|host|port|check|strength|manager|generator)$",
        key.rstrip(b"_-.:"),
        re.I,
    ) is not None  # fmt: skip
