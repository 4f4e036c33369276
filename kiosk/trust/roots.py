"""Roots of trust: the one that a host was given, and the older ones that guests may have been built with.

A guest walks from its own root up to the newest; an image can be older than the root that its hypervisor
began with. So the roots before that one are kept, too. Each must have named the keys that signed the next;
the guest checks them again.
"""

from __future__ import annotations

from pathlib import Path

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import Metadata, Root

from kiosk.errors import UsageError, VerificationError
from kiosk.files import write
from kiosk.log import logger
from kiosk.trust.fetcher import Fetcher

log = logger(__name__)

LARGEST_ROOT = 512_000


def bootstrap(metadata_dir: Path, given: bytes | None) -> bytes:
    """The root of trust that this host keeps, or the given one the first time."""
    kept = metadata_dir / "trusted-root.json"
    if kept.exists():
        return kept.read_bytes()
    if given is None:
        raise UsageError(
            "this host has not been given a root of trust yet",
            where=str(metadata_dir),
            hint="Use --root ROOT.json once (the kiosk host's metadata/1.root.json, brought by a way you trust).",
        )
    parse(given)
    write(kept, given)
    return given


def parse(data: bytes) -> Metadata[Root]:
    """Root metadata that is signed by its own keys."""
    try:
        found: Metadata[Root] = Metadata.from_bytes(data)
        if isinstance(found.signed, Root):
            found.signed.verify_delegate("root", found.signed_bytes, found.signatures)
            return found
        problem = f"it is {found.signed.type} metadata"
    except (RepositoryError, ValueError) as e:
        problem = str(e)
    raise VerificationError(f"the root of trust is not valid root metadata: {problem}")


def check_given(metadata_dir: Path, given: bytes | None) -> None:
    """A root given later must be one of this repository's, or it is not the trust that was meant."""
    history = (metadata_dir / "root_history").glob("*.root.json")
    if given is None or any(p.read_bytes() == given for p in history):
        return
    raise VerificationError(
        "the root of trust given is not a root of the repository that this host trusts",
        where=str(metadata_dir),
        hint="If the kiosk was set up anew, remove that folder and give the new root once.",
    )


def fetch_older(metadata_dir: Path, base: str, fetcher: Fetcher) -> None:
    """Gets the roots before the first one kept, down to 1, as far as they are offered and fit together."""
    history = metadata_dir / "root_history"
    first = min(int(p.name.split(".")[0]) for p in history.glob("*.root.json"))
    newer = parse((history / f"{first}.root.json").read_bytes())
    for version in range(first - 1, 0, -1):
        try:
            data = fetcher.download_bytes(f"{base}/metadata/{version}.root.json", LARGEST_ROOT)
            older = parse(data)
            older.signed.verify_delegate("root", newer.signed_bytes, newer.signatures)
        except (DownloadError, RepositoryError, VerificationError) as e:
            log.warning("root %d is not kept for guests: %s", version, e)
            return
        write(history / f"{version}.root.json", data)
        newer = older
