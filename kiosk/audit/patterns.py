"""Forms of tokens, password hashes and passwords, as data. Each has a literal that must be there before its
expression is tried, and expressions whose repeats are bounded, so that no content makes them slow."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from re import Match, Pattern


@dataclass(frozen=True)
class Form:
    """What a secret looks like: `needles` are literals of which one must be there, `likely` looks at a match once
    more."""

    what: str
    needles: tuple[bytes, ...]
    pattern: Pattern[bytes]
    likely: Callable[[Match[bytes]], bool] = lambda m: True


def form(
    what: str, needles: str, pattern: str, likely: Callable[[Match[bytes]], bool] = lambda m: True
) -> Form:
    """A form; needles are separated by spaces."""
    return Form(what, tuple(n.encode() for n in needles.split()), re.compile(pattern.encode(), re.M), likely)


def decoded(text: bytes) -> bytes:
    """base64 of either alphabet, padded or not; empty when it is none."""
    try:
        return base64.b64decode(
            text.translate(bytes.maketrans(b"-_", b"+/")) + b"=" * (-len(text) % 4), validate=True
        )
    except (binascii.Error, ValueError):
        return b""


def _is_jwt(m: Match[bytes]) -> bool:
    try:
        head = json.loads(decoded(m[1]))
    except (ValueError, RecursionError):
        return False
    return isinstance(head, dict) and "alg" in head


def _is_login(m: Match[bytes]) -> bool:
    """USER:PASSWORD, or whatever stands in a file of registries' logins."""
    return b":" in decoded(m[1]) or b'"auths"' in m.string


def _varied(m: Match[bytes]) -> bool:
    """Not one of the made-up ones: no XXXX, no EXAMPLE."""
    return len(set(m[0])) >= 10 and not re.search(rb"EXAMPLE|example|(.)\1{7}", m[0])


TOKENS: tuple[Form, ...] = (
    form(
        "a JSON Web Token (IDTOKEN, SciToken, …)",
        "eyJ",
        r"\b(eyJ[A-Za-z0-9_-]{10,2000})\.[A-Za-z0-9_-]{2,16000}\.[A-Za-z0-9_-]{16,2000}",
        _is_jwt,
    ),
    form("an AWS access key", "AKIA ASIA ABIA ACCA", r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b", _varied),
    form(
        "an AWS secret key",
        "aws_secret AWS_SECRET aws-secret secretAccessKey SecretAccessKey secret_access_key",
        r"(?i:aws.{0,20}secret|secret_?access_?key).{0,30}?[^A-Za-z0-9/+]([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
        _varied,
    ),
    form("a GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", r"\bgh[pousr]_[A-Za-z0-9]{36,251}\b", _varied),
    form("a GitHub token", "github_pat_", r"\bgithub_pat_[A-Za-z0-9_]{60,100}\b", _varied),
    form(
        "a GitLab token",
        "glpat- gldt- glrt- glcbt- glptt- glagent- glsoat- glft-",
        r"\bgl(?:pat|dt|rt|cbt|ptt|agent|soat|ft)-[A-Za-z0-9_.-]{20,120}",
        _varied,
    ),
    form("a Slack token", "xoxb- xoxp- xoxa- xoxr- xoxs- xoxe- xapp-", r"\b(?:xox[bpares]|xapp)-[A-Za-z0-9-]{20,250}",
         _varied),
    form("a Slack web hook", "hooks.slack.com/", r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/+]{30,90}",
         _varied),
    form("a Google API key", "AIza", r"\bAIza[0-9A-Za-z_-]{35}\b", _varied),
    form("a Google OAuth secret", "GOCSPX- ya29.", r"\b(?:GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{40,300})",
         _varied),
    form("an Azure storage key", "AccountKey= SharedAccessKey=",
         r"(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{42,86}={1,2}"),
    form("an Azure shared access signature", "sig=", r"\bs[vr]=[^\s\"'<>]{1,300}&sig=[A-Za-z0-9%+/]{40,100}"),
    form("a Vault token", "hvs. hvb. hvr.", r"\bhv[sbr]\.[A-Za-z0-9_-]{24,300}", _varied),
    form("an npm token", "npm_ _authToken", r"\bnpm_[A-Za-z0-9]{36}\b|_authToken\s{0,5}=\s{0,5}[A-Za-z0-9_-]{20,200}",
         _varied),
    form("a PyPI token", "pypi-AgE", r"\bpypi-AgE[A-Za-z0-9_-]{50,500}", _varied),
    form("a Hugging Face token", "hf_", r"\bhf_[A-Za-z]{34}\b", _varied),
    form("a Stripe key", "_live_", r"\b[rs]k_live_[A-Za-z0-9]{24,200}\b", _varied),
    form("a SendGrid key", "SG.", r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}\b", _varied),
    form("a DigitalOcean token", "dop_v1_ doo_v1_", r"\bdo[op]_v1_[a-f0-9]{64}\b", _varied),
    form("a Grafana token", "glsa_ glc_", r"\bgl(?:sa|c)_[A-Za-z0-9+/_]{32,400}", _varied),
    form("a Databricks token", "dapi", r"\bdapi[a-f0-9]{32}\b", _varied),
    form("an OpenStack secret", "OS_PASSWORD OS_APPLICATION_CREDENTIAL_SECRET OS_TOKEN",
         r"\bOS_(?:PASSWORD|APPLICATION_CREDENTIAL_SECRET|TOKEN)=[\"']?[^\s\"'$]{4,300}"),
    form("a registry's login (docker)", '"auth"', r"\"auth\"\s{0,20}:\s{0,20}\"([A-Za-z0-9+/]{6,400}={0,2})\"",
         _is_login),
    form("a Ceph key", "key", r"^\s{0,20}key\s{0,5}=\s{0,5}(AQ[A-Za-z0-9+/]{36}==)"),
    form("a join token (Kubernetes)", "token", r"\btoken\s{0,5}[:=]\s{0,5}[\"']?[a-z0-9]{6}\.[a-z0-9]{16}\b", _varied),
)  # fmt: skip

_C64 = "[./A-Za-z0-9]"
HASHES: tuple[Form, ...] = (
    form("SHA-512-crypt", "$6$", rf"\$6\$(?:rounds=\d{{1,9}}\$)?{_C64}{{1,16}}\${_C64}{{86}}(?!{_C64})"),
    form("SHA-256-crypt", "$5$", rf"\$5\$(?:rounds=\d{{1,9}}\$)?{_C64}{{1,16}}\${_C64}{{43}}(?!{_C64})"),
    form("MD5-crypt", "$1$ $apr1$", rf"\$(?:1|apr1)\${_C64}{{1,8}}\${_C64}{{22}}(?!{_C64})"),
    form("yescrypt", "$y$ $gy$", rf"\$g?y\${_C64}{{1,12}}\${_C64}{{1,86}}\${_C64}{{43}}(?!{_C64})"),
    form("scrypt", "$7$", rf"\$7\${_C64}{{11,97}}\${_C64}{{43}}(?!{_C64})"),
    form("bcrypt", "$2a$ $2b$ $2x$ $2y$", rf"\$2[abxy]\$[0-3]\d\${_C64}{{53}}(?!{_C64})", _varied),
    form("SHA-1-crypt", "$sha1$", rf"\$sha1\$\d{{1,9}}\${_C64}{{1,64}}\${_C64}{{28}}"),
    form("Argon2", "$argon2", r"\$argon2(?:id|i|d)\$[^\s:\"']{40,300}"),
    form(
        "PBKDF2",
        "pbkdf2",
        r"\$?pbkdf2[-._]sha(?:1|256|512)[$:.]\d{3,9}[$:.][./+A-Za-z0-9=-]{8,300}[$:.][./+A-Za-z0-9=-]{20,300}",
    ),
    form("LDAP", "{SSHA {SHA} {SMD5} {SHA5 {SHA2",
         r"\{(?:S?SHA(?:256|384|512)?|SMD5)\}[A-Za-z0-9+/]{22,200}={0,2}"),
    form("an NT hash (smbpasswd)", ":", r"^[^:\s]{1,64}:\d{1,10}:[0-9A-FX]{32}:[0-9A-F]{32}:"),
)  # fmt: skip

_WORDS = (
    r"(?:pass(?:word|wd|phrase)|passwort|(?:client_?|shared_?|app_?)?secret(?:_?key)?|api_?key|access_?key|auth_?key"
    r"|[a-z_]{0,20}token|bind_?pw|bindpasswd|credentials|psk|authtok|private_?key"
    r"|(?:(?<![a-z])|(?<=db)|(?<=my)|(?<=sql)|(?<=user)|(?<=admin)|(?<=root)|(?<=ldap)|(?<=smtp)|(?<=mail)|(?<=ftp))"
    r"(?:pass|pwd|pw)(?=\d{0,3}[\"']?[ \t]{0,20}[:=]))"
)
ASSIGNMENT = re.compile(
    (
        r"^[ \t]{0,40}(?:export[ \t]+|set[ \t]+|setenv[ \t]+|\"|'|- )?([A-Za-z0-9_.:/-]{0,60}?" + _WORDS
        + r"[A-Za-z0-9_.-]{0,20})[\"']?([ \t]{0,20}(?:[:=]>?|[ \t])[ \t]{0,20})(.{1,300})$"
    ).encode(),
    re.I | re.M,
)  # fmt: skip
"""A key that speaks of a secret, what parts it from its value, and that."""
ALONE = re.compile(rb"(?:.*[-_.])?(?:password|passwd|passphrase|bind_?pw|secret|psk|authtok)", re.I)
"""Keys that a value may follow with nothing but a space between them."""
URL = re.compile(
    rb"\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://([^\s:/@'\"<>{}$%]{0,64}):([^\s/@'\"<>{}$*]{1,200})@[A-Za-z0-9\[]"
)
NETRC = re.compile(
    rb"^\s{0,20}machine\s{1,20}\S{1,200}\s{1,20}login\s{1,20}\S{1,200}\s{1,20}password\s{1,20}(\S{1,200})",
    re.M,
)
INSTALLER = re.compile(
    rb"^[ \t]{0,20}(?:rootpw[ \t]{1,20}(?:--(?:iscrypted|plaintext|allow-ssh)[ \t]{1,20}){0,3}(?!--)\S{4,300}"
    rb"|user[ \t][^\n]{0,300}--password=\S{4,300}|d-i[ \t]{1,20}passwd/\S{1,60}[ \t]{1,20}password"
    rb"[ \t]{1,20}\S{4,300})",
    re.M,
)
"""Passwords in the answers to an installer: kickstart and preseed."""
PGPASS = re.compile(rb"^[^\s:#]{1,200}:(?:\d{1,5}|\*):[^\s:]{1,100}:[^\s:]{1,100}:(\S{1,200})$", re.M)
PPP = re.compile(rb"^[ \t]{0,20}\S{1,100}[ \t]{1,20}\S{1,100}[ \t]{1,20}\"?([^\s\"#]{1,200})\"?", re.M)
NO_SECRETS = re.compile(
    rb"(?:pass(?:word|wd|phrase)?|secret|x{3,}|\*+|\.{3,}|-+|example|placeholder|none|null|nil|true|false|yes|no|on|off"
    rb"|undef|unset|empty|default|prompt|ask|changeme|change[-_ ]?it|your[-_a-z]{0,40}|my[-_]?pass(?:word)?|string|str"
    rb"|int|text|bytes|file|files|compat|required|requisite|optional|sufficient|include|\d{1,3})",
    re.I,
)
"""Values that stand for a password in examples and switches."""
