"""What can go wrong, as one tree. Every error carries the exit code of the command it ends.

    KioskError                 1   anything not named below
    ├── UsageError             2   a wrong argument, recipe or configuration
    ├── MissingToolError       3   a program that is needed is not installed
    ├── BusyError              4   another kiosk holds the lock
    ├── VerificationError      5   a signature, digest, version or expiry date does not hold
    │   ├── CorruptError           bytes differ from their signed digest or size
    │   └── ExpiredError           signed metadata is past its date (what is current stays)
    ├── NotFoundError          6   an image, layer, object or VM that is not there
    ├── StorageError           7   disk full, read-only, no permission
    ├── NetworkError           8   a server that can't be reached or answers wrongly
    ├── BuildError             9   a build step failed
    ├── PolicyError           10   an image or layer breaks its policy and was refused
    ├── GuestError            11   a VM did not come up ready
    ├── BatchError            12   a batch system that can't be reached or says what can't be understood
    └── Interrupted          130   Ctrl-C or SIGTERM

An error says what happened, where, and what to do about it. A user's mistake never shows a traceback.
"""

from __future__ import annotations


class KioskError(Exception):
    """What happened (`what`), where (`where`), and what to do (`hint`)."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        return text if self.hint is None else f"{text}\n  {self.hint}"


class UsageError(KioskError):
    exit_code = 2


class MissingToolError(KioskError):
    exit_code = 3


class BusyError(KioskError):
    exit_code = 4


class VerificationError(KioskError):
    exit_code = 5


class CorruptError(VerificationError):
    pass


class ExpiredError(VerificationError):
    pass


class NotFoundError(KioskError):
    exit_code = 6


class StorageError(KioskError):
    exit_code = 7


class NetworkError(KioskError):
    exit_code = 8


class BuildError(KioskError):
    exit_code = 9


class PolicyError(KioskError):
    exit_code = 10


class GuestError(KioskError):
    exit_code = 11


class BatchError(KioskError):
    exit_code = 12


class Interrupted(KioskError):
    exit_code = 130
