"""Keys as files: always encrypted, private to their owner, and useless to whoever has only half of what it takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiosk.errors import KioskError, NotFoundError, UsageError, VerificationError
from kiosk.run import run
from kiosk.trust.signing.keys import Keys, read_public
from tests.simulators.published import PASSPHRASE, ask


def test_a_key_is_encrypted_with_scrypt_and_private_to_its_owner(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    keys.create("site-a", PASSPHRASE)
    pem = tmp_path / "keys/site-a.pem"
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in pem.read_bytes()
    assert "scrypt" in run(["openssl", "asn1parse", "-in", pem], timeout=10)
    assert pem.stat().st_mode & 0o777 == 0o600
    assert pem.parent.stat().st_mode & 0o777 == 0o700


def test_a_key_signs_what_its_public_half_verifies(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    made = keys.create("site-a", PASSPHRASE)
    signature = keys.signer("site-a", ask).sign(b"a layer")
    read_public(tmp_path / "site-a.pub").key.verify_signature(signature, b"a layer")
    assert signature.keyid == made.keyid


def test_a_public_half_that_was_lost_is_made_again(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    made = keys.create("site-a", PASSPHRASE)
    (tmp_path / "site-a.pub").unlink()
    keys.signer("site-a", ask)
    assert keys.public("site-a") == made


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.create("site-a", PASSPHRASE)
    before = (tmp_path / "site-a.pem").read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        keys.create("site-a", PASSPHRASE)
    assert (tmp_path / "site-a.pem").read_bytes() == before


@pytest.mark.parametrize("passphrase", [b"", b"short", b"nul\0inside it"])
def test_a_passphrase_that_protects_nothing_is_refused(passphrase: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="passphrase"):
        Keys(tmp_path).create("site-a", passphrase)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "../site-a", "Site", "a b", "a/b"])
def test_a_key_name_can_not_leave_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="key name"):
        Keys(tmp_path).create(name, PASSPHRASE)


def damage_passphrase(_: Path) -> None: ...


def damage_file(folder: Path) -> None:
    pem = folder / "site-a.pem"
    pem.write_bytes(pem.read_bytes()[:150])


def damage_mode(folder: Path) -> None:
    (folder / "site-a.pem").chmod(0o644)


def damage_pair(folder: Path) -> None:
    Keys(folder).create("other", PASSPHRASE)
    public = (folder / "other.pub").read_bytes().replace(b'"other"', b'"site-a"')
    (folder / "site-a.pub").write_bytes(public)


def damage_encryption(folder: Path) -> None:
    pem = folder / "site-a.pem"
    plain = run(
        ["openssl", "pkey", "-in", pem, "-passin", "env:P"], timeout=10, env={"P": PASSPHRASE.decode()}
    )
    pem.write_text(plain)


def damage_presence(folder: Path) -> None:
    (folder / "site-a.pem").unlink()


@pytest.mark.parametrize(
    ("damage", "passphrase", "error", "says"),
    [
        (damage_passphrase, b"a wrong one", VerificationError, "passphrase is wrong"),
        (damage_file, PASSPHRASE, VerificationError, "damaged"),
        (damage_mode, PASSPHRASE, VerificationError, "others may read"),
        (damage_pair, PASSPHRASE, VerificationError, "not a pair"),
        (damage_encryption, PASSPHRASE, VerificationError, "not encrypted"),
        (damage_presence, PASSPHRASE, NotFoundError, "not on this machine"),
    ],
)
def test_a_key_that_is_not_as_it_should_be_does_not_sign(
    damage: object, passphrase: bytes, error: type[KioskError], says: str, tmp_path: Path
) -> None:
    keys = Keys(tmp_path)
    keys.create("site-a", PASSPHRASE)
    assert callable(damage)
    damage(tmp_path)
    with pytest.raises(error, match=says):
        keys.signer("site-a", lambda _: passphrase)


def test_the_passphrase_is_no_argument_of_any_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `ps` shows while a key is made: openssl is replaced by a program that writes down its arguments."""
    real = run(["sh", "-c", "command -v openssl"], timeout=10).strip()
    seen = tmp_path / "arguments"
    program = tmp_path / "bin/openssl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {seen}\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    Keys(tmp_path / "keys").create("site-a", PASSPHRASE)
    assert "scrypt" in seen.read_text()
    assert PASSPHRASE.decode() not in seen.read_text()
