"""Accounts: who could log in. passwd, shadow and their copies, read by name and by form."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from kiosk.audit.model import Hit
from kiosk.audit.sample import Sample

FIRST_PERSON = 1000
NOBODY = (65534, 65535, 60578, 4294967294)
MAX_ACCOUNTS = 500
_PASSWD = re.compile(
    rb"^([^:\n]{1,64}):([^:\n]{0,200}):(\d{1,10}):(\d{1,10}):[^:\n]{0,400}:[^:\n]{0,400}:([^:\n]{0,400})$",
    re.M,
)
_SHADOW = re.compile(
    rb"^([^:\n]{1,64}):([^:\n]{0,400}):\d{0,8}:\d{0,8}:\d{0,8}:\d{0,8}:\d{0,8}:\d{0,8}:[^:\n]{0,20}$", re.M
)
_GSHADOW = re.compile(rb"^([^:\n]{1,64}):([^:\n]{0,400}):[^:\n]{0,400}:[^:\n]{0,4000}$", re.M)
_GROUP = re.compile(rb"^([^:\n]{1,64}):[^:\n]{0,200}:(\d{1,10}):[^:\n]{0,4000}$", re.M)
_LOCKED = re.compile(rb"[!*].*|x|NP|LK", re.DOTALL)
_DES = re.compile(rb"!{0,2}(?:[./A-Za-z0-9]{13}|_[./A-Za-z0-9]{19})")
_HTPASSWD = re.compile(rb"^([^:\s]{1,64}):([./A-Za-z0-9]{13})\s*$", re.M)
_SUBID = re.compile(rb"^([^:\n]{1,64}):\d{1,10}:\d{1,10}$", re.M)
_SSH_KEY = re.compile(
    rb"(?:^|[ \t,\"])(?:ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-nistp\d{3}|sk-[a-z0-9-]{5,40}@openssh\.com)"
    rb"(?:-cert-v01@openssh\.com)? {1,4}AAAA[A-Za-z0-9+/]{40,}", re.M,
)  # fmt: skip
_DOCUMENTS = re.compile(rb"\.(?:py|pyi|c|h|go|rs|js|html?|md|rst|[1-9])$")


def accounts(sample: Sample, known: Collection[str]) -> Iterator[Hit]:
    """What one file says of accounts. `known` are people's accounts that the image's policy has."""
    if not sample.head or not sample.text:
        return
    folder, _, name = sample.path.rpartition(b"/")
    base = re.sub(rb"(?:[-~+]|\.(?:bak|old|org|orig|save|\d))+$", b"", name)
    if base == b"passwd" and folder in (b"/etc", b"/var/backups", b"/usr/etc", b"/lib", b"/usr/lib"):
        yield from _passwd(sample, known)
    elif base == b"group" and folder in (b"/etc", b"/var/backups"):
        for m in _GROUP.finditer(sample.data):
            if _is_person(int(m[2]), b"/nologin") and _text(m[1]) not in known:
                yield sample.hit(
                    "account", f"the group {_text(m[1])} (gid {int(m[2])})", m.start(), _text(m[1])
                )
    elif base in (b"shadow", b"master.passwd", b"opasswd"):
        yield from _hidden(sample, _SHADOW, "user")
    elif base == b"gshadow":
        yield from _hidden(sample, _GSHADOW, "group")
    elif b"htpasswd" in name or b"htdigest" in name:
        for m in _HTPASSWD.finditer(sample.data):
            yield sample.hit(
                "password-hash", f"the password of {_text(m[1])}, hashed (DES)", m.start(), _text(m[1])
            )
    elif base in (b"subuid", b"subgid") and folder == b"/etc":
        for m in _SUBID.finditer(sample.data):
            if _text(m[1]) not in known:
                yield sample.hit("account", f"ids that belong to {_text(m[1])}", m.start(), _text(m[1]))
    if b"known_hosts" not in name and not name.startswith(b"ssh_host_") and b" AAAA" in sample.data:
        key = _SSH_KEY.search(sample.data)
        if key and not _DOCUMENTS.search(name):
            yield sample.hit("authorized-key", "an ssh public key", key.start())


def _passwd(sample: Sample, known: Collection[str]) -> Iterator[Hit]:
    for count, m in enumerate(_PASSWD.finditer(sample.data)):
        if count >= MAX_ACCOUNTS:
            return
        name, password, uid = _text(m[1]), m[2], int(m[3])
        if uid == 0 and name != "root":
            yield sample.hit("second-root", f"{name} has the uid 0", m.start(), name)
        elif _is_person(uid, m[5]) and name not in known:
            yield sample.hit("account", f"the account {name} (uid {uid})", m.start(), name)
        if not password:
            yield sample.hit("empty-password", f"{name} has no password", m.start(), name)
        elif _DES.fullmatch(password):
            yield sample.hit("password-hash", f"the password of {name}, hashed (DES)", m.start(), name)


def _is_person(uid: int, shell: bytes) -> bool:
    """Whether an account may be a person's. Debian gives packages ids from 60000 on as well."""
    of_package = 60000 <= uid < 65000 and shell.endswith((b"/nologin", b"/false"))
    return uid >= FIRST_PERSON and uid not in NOBODY and not of_package


def _hidden(sample: Sample, rows: re.Pattern[bytes], what: str) -> Iterator[Hit]:
    """shadow and gshadow: what is no known form of a lock is a password; other hashes are found by their form."""
    for count, m in enumerate(rows.finditer(sample.data)):
        if count >= MAX_ACCOUNTS:
            return
        name, password = _text(m[1]), m[2]
        if not password and what == "user":
            yield sample.hit("empty-password", f"{name} needs no password", m.start(), name)
        elif password and not _LOCKED.fullmatch(password):
            yield sample.hit("password-hash", f"the password of the {what} {name}, hashed", m.start(), name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
