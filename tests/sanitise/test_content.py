"""Secrets are told by their bytes, in what real programs write; what only looks like one is left alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from kiosk.sanitise.content import BY_BEGINNING, TESTS, Kind, kinds
from tests.simulators import secrets as make

ALL: tuple[Kind, ...] = tuple(TESTS)
RSA, EC, ED = make.rsa_key(), make.ec_key("test"), make.ed_key("test")


@pytest.mark.parametrize("kind", ALL)
def test_a_kind_is_told_and_is_no_other(kind: Kind) -> None:
    data = make.SAMPLES[kind]()
    assert [k for k in ALL if TESTS[k](data)] == [kind]
    assert data.startswith(BY_BEGINNING.get(kind, (b"",)))
    assert kinds(data, ALL) == kind


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=["rsa", "ec", "ed25519"])
@pytest.mark.parametrize(
    "form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH]
)
@pytest.mark.parametrize("password", [None, b"geheim"])
def test_keys_of_every_form(key: object, form: PrivateFormat, password: bytes | None) -> None:
    if (key is ED and form == PrivateFormat.TraditionalOpenSSL) or (
        password and form == PrivateFormat.OpenSSH
    ):
        pytest.skip("there is no such form, or only ssh-keygen has it")
    lock = BestAvailableEncryption(password) if password else NoEncryption()
    data: bytes = key.private_bytes(Encoding.PEM, form, lock)  # type: ignore[attr-defined]
    lines = data.split(b"\n")
    for text in (data, b"\r\n".join(lines), b"key: |\n" + b"\n".join(b"    " + line for line in lines)):
        assert kinds(text, ("pem-key",)) == "pem-key"
    assert kinds(b'{"key": "' + data.replace(b"\n", b"\\n") + b'"}', ("pem-key",)) == "pem-key"
    if form != PrivateFormat.OpenSSH and not (password and form == PrivateFormat.TraditionalOpenSSL):
        der: bytes = key.private_bytes(Encoding.DER, form, lock)  # type: ignore[attr-defined]
        assert kinds(der, ("der-key",)) == "der-key"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")
@pytest.mark.parametrize(
    "arguments", [["-t", "rsa", "-m", "PEM"], ["-t", "ecdsa"], ["-t", "ed25519", "-N", "geheim"]]
)
def test_what_ssh_keygen_writes(tmp_path: Path, arguments: list[str]) -> None:
    password = [] if "-N" in arguments else ["-N", ""]
    subprocess.run(["ssh-keygen", "-q", *arguments, *password, "-f", tmp_path / "key"], check=True)
    assert kinds((tmp_path / "key").read_bytes(), ALL) == "pem-key"
    assert kinds((tmp_path / "key.pub").read_bytes(), ALL) is None


@pytest.mark.skipif(shutil.which("gpg") is None, reason="no gpg")
def test_what_gpg_writes(tmp_path: Path) -> None:
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-gen-key", "a@example.org", "ed25519"], check=True, capture_output=True)
    for flags, kind in (([], "pgp-key"), (["--armor"], "pem-key")):
        data = subprocess.run([*gpg, *flags, "--export-secret-keys"], check=True, capture_output=True).stdout
        assert kinds(data, ALL) == kind
        public = subprocess.run([*gpg, *flags, "--export"], check=True, capture_output=True).stdout
        assert kinds(public, ALL) is None
    stored = next((home / "private-keys-v1.d").iterdir()).read_bytes()
    assert kinds(stored, ALL) == "pem-key"
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=False)


@pytest.mark.parametrize(
    "data",
    [
        make.certificate("x", RSA),
        make.ssh_public(ED),
        make.truststore("x"),
        b"-----BEGIN PUBLIC KEY-----\n" + b"A" * 64 + b"\n",
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + b"A" * 64 + b"\n",
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n" + b"A" * 64 + b"\n",
        b'PEM = "-----BEGIN RSA PRIVATE KEY-----"\nEND = "-----END RSA PRIVATE KEY-----"\n',
        b"root:*:1::::::\nuser:!:1::::::\n",
        b"the hash of a password begins with $6$ and a salt\n",
        b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + bytes(40),
        b"\x05\x02",
        b"\x05\x04\x00\x0c" + b"\xff" * 40,
        b"\x30\x82\x01\x00" + bytes(256),
        b"eyJ is how a token begins",
        b"",
    ],
)
def test_what_is_no_secret(data: bytes) -> None:
    assert kinds(data, ALL) is None


@given(
    st.binary(max_size=300), st.sampled_from([b"", *(b for starts in BY_BEGINNING.values() for b in starts)])
)
def test_any_bytes_have_an_answer(data: bytes, start: bytes) -> None:
    for kind in ALL:
        assert TESTS[kind](start + data) in (True, False)
