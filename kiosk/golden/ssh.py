"""A physical golden node, read over ssh: one `tar` of its file systems, unpacked as it comes.

The node's host key must be known beforehand, and nothing of the node is asked beyond its files. Scratch and
temporary space stays where it is. What the node sends is bounded in bytes and in time.

The stream is hostile and is unpacked as root, into an empty folder that only root may enter. Relied upon is GNU
tar: it removes what it finds at a member's last name and never writes through it, unpacks a symbolic link that
is absolute or holds `..` as an empty file until everything else is there, and strips a leading `/` and `..`
from names and from the targets of hard links. Since kiosk asks for relative names alone, a stream in which tar
had to strip anything is refused as a whole.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from kiosk.cloud import untrusted
from kiosk.errors import (
    BuildError,
    GuestError,
    KioskError,
    NetworkError,
    NotFoundError,
    StorageError,
    VerificationError,
)
from kiosk.files import remove_tree, storage_errors
from kiosk.golden import hooks
from kiosk.golden.capture import Answer, Capture
from kiosk.golden.settings import SshSettings
from kiosk.pipe import Ended, piped, told
from kiosk.progress import Bar, bar

EMPTIED = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/scratch", "/mnt", "/media")  # noqa: S108
"""Folders that are kept without what is in them."""
ATTRIBUTES = ("--xattrs", "--xattrs-include=user.*", "--xattrs-include=security.capability", "--acls")
CONNECTION = 255
HOOK_TIME = 600.0
NAMED = 50
CHANGED = re.compile(
    r"^[\w./-]*tar[\w.]*: (\S.*): (file changed as we read it|File removed before we read it)$"
)
STRIPPED = re.compile(r"Removing leading|contains '\.\.'")
FULL = re.compile(r"No space left on device|Disk quota exceeded")


@dataclass(frozen=True)
class SshSource:
    """Reads the node that the settings name."""

    settings: SshSettings

    def describe(self) -> str:
        """The node, on one line."""
        return f"the node {self.settings.host} over ssh"

    def capture(self, folder: Path) -> Capture:
        """Unpacks the node's files to `node/tree` in `folder`; what can't be got whole is removed again."""
        wanted = self.settings
        private = folder / "node"
        tree = private / "tree"
        try:
            with storage_errors(folder):
                private.mkdir(mode=0o700)
                tree.mkdir(mode=0o755)
            with hooks.around(wanted.before, wanted.after, lambda argv: self.run(argv, timeout=HOOK_TIME)):
                warnings = self._transfer(tree)
        except BaseException:
            remove_tree(private)
            raise
        mounts = ", ".join(map(str, wanted.mounts))
        return Capture(method=f"tar of {mounts} over ssh", tree=tree, warnings=warnings)

    def run(self, argv: Sequence[str], *, timeout: float) -> Answer:
        """Runs a command in the node."""
        ended = told([*self._ssh(), shlex.join([*self._become(), *argv])], timeout=timeout)
        if ended.late:
            raise GuestError(
                f"`{shlex.join(argv)}` was not done after {timeout:.0f} s", where=self.settings.host
            )
        if ended.status == CONNECTION:
            raise self._lost(ended)
        return Answer(ended.status, untrusted.printable(ended.text, limit=1 << 20))

    def _transfer(self, tree: Path) -> tuple[str, ...]:
        wanted = self.settings
        with bar(f"read {wanted.host}", None) as progress:
            there, here = piped(
                [*self._ssh(), shlex.join(self._remote_tar())],
                _local_tar(tree, wanted.max_bytes),
                on_bytes=_Meter(wanted.host, wanted.max_bytes, wanted.speed, progress).count,
                timeout=wanted.timeout,
            )
        self._check(there, here, tree)
        return (*_changes(there), *_said(here.lines))

    def _check(self, there: Ended, here: Ended, tree: Path) -> None:
        """Raises what explains best why the node's files are not all there."""
        where = self.settings.host
        if there.late:
            raise NetworkError(
                f"the node was not read after {self.settings.timeout:.0f} s",
                where=where,
                hint="Raise `timeout` or `speed`, or exclude what need not be in an image. Nothing was kept.",
            )
        if here.status != 0 and FULL.search(here.text):
            raise StorageError("no space left for the node's files", where=str(tree))
        if STRIPPED.search(here.text):
            raise VerificationError(
                f"the node's stream names what is outside of it; it was refused\n{hooks.last_lines(here.text)}",
                where=where,
            )
        if there.status == CONNECTION and not there.unread:
            raise self._lost(there)
        if there.status not in (0, 1) and not (there.unread and here.status != 0):
            raise self._failed(there)
        if here.status != 0:
            raise NetworkError(
                f"the node's stream can't be unpacked\n{hooks.last_lines(here.text)}",
                where=where,
                hint="Nothing was kept.",
            )
        if not any(tree.iterdir()):
            raise NetworkError("the node sent no files", where=where)

    def _failed(self, there: Ended) -> KioskError:
        text = hooks.last_lines("\n".join(line for line in there.lines if not CHANGED.match(line)))
        if there.status < 0:
            return NetworkError(f"ssh was ended by signal {-there.status}", where=self.settings.host)
        return BuildError(
            f"tar in the node ended with status {there.status}:\n{text}",
            where=self.settings.host,
            hint="It needs GNU tar and root (`user`, or `sudo = true`).",
        )

    def _lost(self, ended: Ended) -> KioskError:
        """What ssh says about a connection that could not be made, or broke."""
        where, text = self.settings.host, ended.text
        said = hooks.last_lines(text, 5)
        if "Host key verification failed" in text or "host key is known" in text:
            return VerificationError(
                f"the node's host key is not the one in {self.settings.known_hosts}\n{said}",
                where=where,
                hint="Check the key on the node's console before it goes into that file.",
            )
        if "Permission denied" in text:
            return NetworkError(
                f"the node does not accept the key {self.settings.identity}\n{said}", where=where
            )
        return NetworkError(
            f"the connection failed or was lost\n{said}", where=where, hint="Nothing was kept."
        )

    def _ssh(self) -> list[str]:
        """The program up to the command: no question, no other key, no unknown host, nothing forwarded."""
        wanted = self.settings
        for path in (wanted.identity, wanted.known_hosts):
            if not path.is_file():
                raise NotFoundError("is needed for ssh and is not there", where=str(path))
        options = {
            "BatchMode": "yes", "StrictHostKeyChecking": "yes", "UpdateHostKeys": "no",
            "UserKnownHostsFile": _quoted(wanted.known_hosts), "GlobalKnownHostsFile": "none",
            "IdentitiesOnly": "yes", "IdentityAgent": "none", "PreferredAuthentications": "publickey",
            "ConnectTimeout": "15", "ServerAliveInterval": "15", "ServerAliveCountMax": "4",
            "ForwardAgent": "no", "ForwardX11": "no", "ClearAllForwardings": "yes",
            "PermitLocalCommand": "no", "ControlMaster": "no", "ControlPath": "none", "LogLevel": "ERROR",
        }  # fmt: skip
        words = ["ssh", "-F", str(wanted.config or "none"), "-T", "-p", str(wanted.port), "-l", wanted.user]
        words += ["-i", str(wanted.identity).replace("%", "%%")]
        for key, value in options.items():
            words += ["-o", f"{key}={value}"]
        return [*words, "--", wanted.host]

    def _become(self) -> list[str]:
        return ["sudo", "-n", "--"] if self.settings.sudo else []

    def _remote_tar(self) -> list[str]:
        wanted = self.settings
        calm = ["nice", "-n", "19", "ionice", "-c", "3"] if wanted.nice else []
        return [
            *self._become(), "env", "LC_ALL=C", *calm,
            "tar", "--create", "--file=-", "--format=posix", "--directory=/", "--one-file-system",
            "--numeric-owner", "--sparse", *ATTRIBUTES, "--warning=no-file-ignored",
            "--anchored", "--wildcards", "--wildcards-match-slash",
            *(f"--exclude={pattern}" for pattern in exclusions(wanted.mounts, wanted.exclude)),
            *("." + str(mount).rstrip("/") for mount in wanted.mounts),
        ]  # fmt: skip


def exclusions(mounts: Iterable[PurePath], own: Iterable[str]) -> list[str]:
    """Patterns of member names that are left out."""
    emptied = [f".{folder}/*" for folder in EMPTIED]
    lost = ["." + re.sub(r"([\\*?\[])", r"\\\1", str(mount)).rstrip("/") + "/lost+found" for mount in mounts]
    return [*emptied, *lost, *("." + pattern.rstrip("/") for pattern in own)]


@dataclass
class _Meter:
    """Counts what comes, refuses more than `limit` bytes, and waits where it comes faster than `speed`."""

    host: str
    limit: int
    speed: int | None
    progress: Bar
    seen: int = 0
    begun: float = field(default_factory=time.monotonic)
    wait: Callable[[float], None] = time.sleep

    def count(self, length: int) -> None:
        self.seen += length
        self.progress.update(length)
        if self.seen > self.limit:
            raise NetworkError(
                f"the node sends more than {self.limit} bytes",
                where=self.host,
                hint="Raise `max_bytes`, or exclude what need not be in an image. Nothing was kept.",
            )
        if self.speed is not None:
            ahead = self.begun + self.seen / self.speed - time.monotonic()
            if ahead > 0:
                self.wait(ahead)


def _local_tar(tree: Path, largest: int) -> list[str | Path]:
    """Unpacks as root sees it: owners by number, modes, devices, attributes. No file may pretend to be huge."""
    return [
        "prlimit", f"--fsize={largest}", "--core=0", "--",
        "tar", "--extract", "--file=-", "--directory", tree, "--numeric-owner", "--same-owner",
        "--preserve-permissions", "--delay-directory-restore", *ATTRIBUTES, "--warning=no-timestamp",
    ]  # fmt: skip


def _changes(there: Ended) -> list[str]:
    """The files that changed under tar, and whatever else it complained about."""
    changed = [m.group(1) for line in there.lines if (m := CHANGED.match(line))]
    others = [line for line in there.lines if not CHANGED.match(line) and "tar: Exiting" not in line]
    named = [f"changed while it was read: {untrusted.line(name, limit=300)}" for name in changed[:NAMED]]
    if len(changed) > NAMED or (changed and there.cut):
        named.append(f"{len(changed) - NAMED} more files changed while they were read")
    return [*named, *_said(others)]


def _said(lines: Sequence[str]) -> list[str]:
    return [untrusted.line(line, limit=300) for line in lines[:NAMED]]


def _quoted(path: Path) -> str:
    """A path as ssh's options read one."""
    text = str(path).replace("%", "%%")
    return '"' + text.replace('"', '\\"') + '"'
