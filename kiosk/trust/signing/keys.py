"""Keys as files: NAME.pem, the private half, always encrypted; NAME.pub, the public half, as small JSON.

A private key is an ed25519 key in PKCS#8, encrypted with AES-256 under a key that scrypt derives from the
passphrase, mode 0600 in a folder of mode 0700; `openssl pkey -in NAME.pem` opens it as well. scrypt is why
openssl writes the file: the library's own PKCS#8 writer derives with 2,048 rounds of PBKDF2 and offers no
choice. The public half stands beside it so that delegating to a key never needs the private half.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import Field
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from kiosk.errors import NotFoundError, UsageError, VerificationError
from kiosk.files import storage_errors, write
from kiosk.model.base import Document
from kiosk.model.names import NAME
from kiosk.run import run

Ask = Callable[[str], bytes]
"""Gives the passphrase of the key that it is asked for by name."""

SHORTEST_PASSPHRASE = 8
LARGEST_KEY_FILE = 16_384


class PublicKey(Document):
    """The public half of a key, to hand to whoever delegates to it. `public` is 32 bytes in hex."""

    schema_: Literal["kiosk.public-key/1"] = Field("kiosk.public-key/1", alias="schema")
    name: str = Field(pattern=f"^{NAME}$")
    keytype: Literal["ed25519"] = "ed25519"
    public: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def key(self) -> Key:
        """The key as TUF metadata carries it."""
        return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public)))

    @property
    def keyid(self) -> str:
        """The TUF key id: a digest of the key itself."""
        return self.key.keyid


def read_public(path: Path) -> PublicKey:
    """Reads a .pub file that somebody handed over."""
    try:
        with path.open("rb") as f:
            data = f.read(LARGEST_KEY_FILE)
    except FileNotFoundError:
        raise NotFoundError("there is no such public key", where=str(path)) from None
    return PublicKey.from_json(data, where=str(path))


class Keys:
    """The keys of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The keys whose public half is here."""
        return sorted(p.stem for p in self.folder.glob("*.pub") if re.fullmatch(NAME, p.stem))

    def has_private(self, name: str) -> bool:
        """Whether the private half is here too."""
        return (self.folder / f"{name}.pem").is_file()

    def public(self, name: str) -> PublicKey:
        """The public half of a key; NotFoundError when it is not here."""
        return read_public(self.folder / f"{name}.pub")

    def create(self, name: str, passphrase: bytes) -> PublicKey:
        """Makes a key; refuses to overwrite one. The private half is written first: `signer` can make the
        public half from it, should this be interrupted in between."""
        if not re.fullmatch(NAME, name):
            raise UsageError(
                f"{name!r} is not a key name", hint="Lower-case letters, digits and hyphens: site-cern"
            )
        check_passphrase(passphrase)
        private, public = self.folder / f"{name}.pem", self.folder / f"{name}.pub"
        if private.exists() or public.exists():
            raise UsageError(f"the key {name} exists already", where=str(private))
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)
        signer = CryptoSigner.generate_ed25519()
        write(private, encrypted(signer.private_bytes, passphrase), mode=0o600)
        return self._write_public(name, signer)

    def signer(self, name: str, ask: Ask) -> CryptoSigner:
        """Opens a private key; VerificationError when the passphrase or the file is wrong."""
        path = self.folder / f"{name}.pem"
        try:
            with path.open("rb") as f:
                mode = stat.S_IMODE(path.stat().st_mode)
                data = f.read(LARGEST_KEY_FILE)
        except FileNotFoundError:
            raise NotFoundError(
                f"the private key {name} is not on this machine",
                where=str(path),
                hint="Sign where that key is kept, or copy it here with its .pub file.",
            ) from None
        if mode & 0o077:
            raise VerificationError(
                f"others may read this private key (mode {mode:04o})",
                where=str(path),
                hint=f"chmod 600 {path}",
            )
        if b"ENCRYPTED" not in data:
            raise VerificationError("this private key is not encrypted", where=str(path))
        try:
            private = load_pem_private_key(data, ask(name))
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise VerificationError(
                "the passphrase is wrong, or the key file is damaged", where=str(path)
            ) from None
        if not isinstance(private, Ed25519PrivateKey):
            raise VerificationError("is not an ed25519 key", where=str(path))
        opened = CryptoSigner(private)
        if not (self.folder / f"{name}.pub").exists():
            self._write_public(name, opened)
        if opened.public_key.keyid != self.public(name).keyid:
            raise VerificationError("the private key and its .pub file are not a pair", where=str(path))
        return opened

    def _write_public(self, name: str, signer: CryptoSigner) -> PublicKey:
        made = PublicKey(name=name, public=signer.public_key.keyval["public"])
        write(self.folder / f"{name}.pub", made.to_json())
        return made


def check_passphrase(passphrase: bytes) -> None:
    """Refuses a passphrase that protects nothing, or that openssl could not be given."""
    if len(passphrase) < SHORTEST_PASSPHRASE or b"\0" in passphrase:
        raise UsageError(f"a passphrase has at least {SHORTEST_PASSPHRASE} characters")


def encrypted(pem: bytes, passphrase: bytes) -> bytes:
    """An unencrypted PKCS#8 key, encrypted. The passphrase goes through the child's environment, which
    only this user and root can read; it is never an argument."""
    argv = ["openssl", "pkcs8", "-topk8", "-scrypt", "-v2", "aes-256-cbc", "-passout", "env:PASSPHRASE"]
    secret = passphrase.decode("utf-8", "surrogateescape")
    return run(argv, timeout=60, input=pem, env={"PASSPHRASE": secret}).encode()
