"""Tokens, password hashes, and passwords in the clear, in text: by their form anywhere, by what they are assigned to
in configuration (`settings.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kiosk.audit import patterns
from kiosk.audit.model import Hit
from kiosk.audit.sample import Sample
from kiosk.audit.settings import secret, settings

MAX_HITS = 50
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
            if secret(m[2]) and not _PRIVATE_URL.match(m[1]):
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
            if not m[0].lstrip().startswith(b"#") and secret(m[1]):
                yield sample.hit("password", "a password for a connection (PPP)", m.start())
                break
    yield from settings(sample)
