"""What went wrong with a repository, in plain words: python-tuf's exceptions as kiosk errors.

Each names the file, says which promise was broken, and what to do. The file itself is looked into only to
tell which role's key signed it instead of the right one.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    SlowRetrievalError,
    UnsignedMetadataError,
)
from tuf.api.serialization import DeserializationError

from kiosk import tls
from kiosk.errors import CorruptError, ExpiredError, KioskError, NetworkError, VerificationError
from kiosk.trust.fetcher import Fetcher

KEPT = "What is current on this host stays as it is."


@contextlib.contextmanager
def explained(where: str, fetcher: Fetcher, signers: Callable[[], dict[str, str]]) -> Iterator[None]:
    """Turns python-tuf's exceptions into kiosk's. `signers()` maps key ids to the roles that name them."""
    try:
        yield
    except (RepositoryError, DownloadError) as e:
        raise explain(e, where, fetcher, signers) from e


def explain(
    error: RepositoryError | DownloadError,
    where: str,
    fetcher: Fetcher,
    signers: Callable[[], dict[str, str]],
) -> KioskError:
    """The kiosk error for one of python-tuf's."""
    file = fetcher.last_url or where
    if isinstance(error, ExpiredMetadataError):
        named = re.search(r"([a-z0-9-]+)(?:\.json)? is expired", str(error))
        return ExpiredError(
            f"{named[1] if named else 'the metadata'} has expired",
            where=where,
            hint=f"{KEPT} `kiosk resign` on the kiosk host renews it; if that was done, "
            "a proxy or mirror shows an old state, or this host's clock is wrong.",
        )
    if isinstance(error, BadVersionNumberError):
        return VerificationError(
            f"an older state than this host has seen, or numbers that do not fit (rolled back): {error}",
            where=file,
            hint=f"{KEPT} Somebody shows old metadata again, or the repository was put back from a backup.",
        )
    if isinstance(error, UnsignedMetadataError):
        return VerificationError(
            f"is not signed by enough of the right keys: {error}{others(error, fetcher, signers)}",
            where=file,
            hint=f"{KEPT} The file was not made by those who may sign it.",
        )
    if isinstance(error, LengthOrHashMismatchError):
        return CorruptError(
            "differs from what was signed (altered, truncated, or of another state)",
            where=file,
            hint=f"{KEPT} A mirror or proxy is at fault, or the repository is damaged.",
        )
    if isinstance(error, DownloadLengthMismatchError):
        return CorruptError(
            "is longer than what was signed, or than such a file may be", where=file, hint=KEPT
        )
    if isinstance(error, DeserializationError):
        return CorruptError("is not valid metadata (truncated or altered)", where=file, hint=KEPT)
    if isinstance(error, RepositoryError):
        return VerificationError(f"does not verify: {error}", where=file, hint=KEPT)
    return network(error, file)


def network(error: DownloadError, file: str) -> NetworkError:
    """The error for what never arrived."""
    if isinstance(error.__cause__, NetworkError):
        return NetworkError(error.__cause__.what, where=file, hint=error.__cause__.hint)
    if isinstance(error, DownloadHTTPError):
        return NetworkError(
            f"can't be read: {error}",
            where=file,
            hint="Is this the URL of a kiosk, and is its repository complete?",
        )
    if isinstance(error, SlowRetrievalError):
        return NetworkError(f"takes too long: {error}", where=file, hint=KEPT)
    if (fault := tls.fault(error)) is not None:
        return NetworkError(f"can't be reached: {fault}", where=file, hint=tls.HINT)
    reason = innermost(error)
    return NetworkError(
        f"can't be reached: {reason}",
        where=file,
        hint="Check the URL, the proxy, and that the kiosk is served.",
    )


def others(error: UnsignedMetadataError, fetcher: Fetcher, signers: Callable[[], dict[str, str]]) -> str:
    """Whose keys have signed the last file instead, for the message only."""
    known = signers()
    try:
        found = json.loads(fetcher.last_bytes)["signatures"]
        names = sorted({known.get(s["keyid"], "an unknown role") for s in found})
    except (ValueError, KeyError, TypeError):
        return ""
    return f" (it carries a signature of {', '.join(names)})" if names else " (it carries no signature)"


def innermost(error: BaseException) -> str:
    """The reason at the bottom: HTTP libraries wrap a refused connection four times."""
    seen = 0
    while seen < 8:
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(inner, BaseException) or (isinstance(error, OSError) and error.errno is not None):
            break
        error, seen = inner, seen + 1
    return getattr(error, "strerror", None) or str(error)
