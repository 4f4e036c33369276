"""The only door to the system: mounts, programs, the clock, paths below a root that tests can choose.

Every program has a time limit, and one that fails is a Refused that says how it could be typed.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import pwd
import shlex
import socket
import stat
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from contextualize import guard, script
from contextualize.errors import Refused

PRIVATE = "/run/kiosk/private"
"""Only root looks in here: the context disk, while it is read, and signed metadata."""


PROGRAMS = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
"""The environment of every program that is run."""
UNANSWERED = 124
"""The status of a program that had to be ended after its time."""


class Answer(NamedTuple):
    """How a program ended and what it printed; `said` is its last line, wherever it went."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        lines = (self.err or self.out).splitlines()
        return lines[-1].strip()[:300] if lines else f"status {self.status} and no word"


class Machine:
    """The machine itself. `root` is `/`, or a test's folder in its place."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def path(self, absolute: str) -> Path:
        """Where an absolute path of the machine is."""
        return self.root / absolute.lstrip("/")

    def read(self, absolute: str, limit: int = 1 << 20) -> bytes:
        """A regular file's content, of at most `limit` bytes."""
        try:
            fd = os.open(self.path(absolute), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as e:
            raise Refused(f"{absolute}: {os.strerror(e.errno or 0)}") from None
        with os.fdopen(fd, "rb") as f:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Refused(f"{absolute}: not a regular file")
            data = f.read(limit + 1)
        if len(data) > limit:
            raise Refused(f"{absolute}: larger than {limit} bytes")
        return data

    def inside(self, folder: str, relative: str, limit: int) -> bytes:
        """The content of a regular file below `folder`, reached without any symbolic link."""
        return self.read(self.reach(folder, relative), limit)

    def reach(self, folder: str, relative: str) -> str:
        """The path of something below `folder`, to which no symbolic link leads; it may be one itself."""
        at = folder
        for part in relative.split("/")[:-1]:
            at = f"{at}/{part}"
            if not stat.S_ISDIR(self.mode(at)):
                raise Refused(f"{folder}/{relative}: {at} is not a folder")
        return f"{folder}/{relative}"

    def mode(self, absolute: str) -> int:
        """The mode of what is at a path, a link itself and not what it points at; 0 where there is nothing."""
        try:
            return os.lstat(self.path(absolute)).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def exists(self, absolute: str) -> bool:
        """Whether anything is at a path, be it a broken link."""
        return self.mode(absolute) != 0

    def filled(self, folder: str) -> bool:
        """Whether there is anything but an empty folder at a path."""
        mode = self.mode(folder)
        if not stat.S_ISDIR(mode):
            return mode != 0
        with os.scandir(self.path(folder)) as entries:
            return next(entries, None) is not None

    def create(self, absolute: str, data: bytes, mode: int = 0o644) -> None:
        """Writes a file that must not be there yet, in folders that are not links."""
        self.folder(posixpath.dirname(absolute))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(self.path(absolute), flags, mode), "wb") as f:
                os.fchmod(f.fileno(), mode)
                f.write(data)
        except OSError as e:
            raise Refused(f"{absolute}: {os.strerror(e.errno or 0)}") from None

    def folder(self, absolute: str, mode: int = 0o755) -> None:
        """Makes a folder and those above it where they are missing; a link among them is refused."""
        at = ""
        for part in absolute.strip("/").split("/"):
            at = f"{at}/{part}"
            found = self.mode(at)
            if not found:
                path = self.path(at)
                path.mkdir()
                path.chmod(mode if at == absolute else 0o755)
            elif not stat.S_ISDIR(found):
                raise Refused(f"{at}: not a folder")

    def replace(self, absolute: str, data: bytes, mode: int = 0o644) -> None:
        """Puts a file in place of whatever was there, so that a reader sees the old or the new one."""
        self.folder(posixpath.dirname(absolute))
        new = f"{absolute}.new"
        self.path(new).unlink(missing_ok=True)
        self.create(new, data, mode)
        self.path(new).replace(self.path(absolute))

    def run(self, argv: Sequence[str], timeout: float = 60) -> str:
        """Runs a program to its end; Refused with what it printed when it fails."""
        shown = shlex.join(argv)
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
                env=PROGRAMS,
            )
        except subprocess.TimeoutExpired:
            raise Refused(f"`{shown}` was not done after {timeout:.0f} s") from None
        except OSError as e:
            raise Refused(f"`{shown}`: {os.strerror(e.errno or 0)}") from None
        text = done.stdout.decode(errors="replace").strip()
        if done.returncode != 0:
            raise Refused(f"`{shown}` ended with status {done.returncode}: {text[-300:]}")
        return text

    def run_told(
        self, argv: Sequence[str], name: str, timeout: float, env: Optional[Mapping[str, str]] = None
    ) -> None:
        """Runs a program to its end and prints each line of its output behind `name` (contextualize.script)."""
        script.run(argv, name, timeout, {**PROGRAMS, **(env or {})}, self.root)

    def ask(
        self, argv: Sequence[str], timeout: float = 20, environment: Optional[Mapping[str, str]] = None
    ) -> Answer:
        """Runs a program whose failure means something, and says how it ended; Refused only when it can't be
        started. One that isn't done in time is ended, with the status UNANSWERED. At most 1 MiB of what it
        prints is kept."""
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                check=False,
                env={**PROGRAMS, **(environment or {})},
            )
        except subprocess.TimeoutExpired:
            return Answer(UNANSWERED, "", f"no answer after {timeout:.0f} s")
        except OSError as e:
            raise Refused(f"`{shlex.join(argv)}`: {os.strerror(e.errno or 0)}") from None
        out, err = (text[: 1 << 20].decode(errors="replace").strip() for text in (done.stdout, done.stderr))
        return Answer(done.returncode, out, err)

    def processes(self, name: str, parent: Optional[int] = None) -> int:
        """How many of root's processes have a name, as the kernel keeps it: at most 15 bytes; of all, or of a parent.
        Root's by their real user, whatever they act as: others can call themselves what they like. Needs no program:
        a small image has none for it."""
        found = 0
        for status in self.path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError, IndexError):  # it has just ended
                lines = status.read_bytes().decode(errors="replace").splitlines()
                fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
                is_its = parent is None or fields.get("PPid") == str(parent)
                found += fields.get("Name") == name and fields.get("Uid", "-").split()[0] == "0" and is_its
        return found

    def appears(self, paths: Sequence[str], seconds: float) -> str:
        """Waits until one of some paths is there (udev makes them as disks appear) and returns it."""
        end = time.monotonic() + seconds
        while True:
            for path in paths:
                if self.path(path).exists():
                    return path
            if time.monotonic() >= end:
                raise Refused(f"{' or '.join(paths)} did not appear within {seconds:.0f} s")
            time.sleep(0.1)

    def file_systems(self) -> List[Tuple[str, str]]:
        """Every disk and partition that the kernel has, with the label of the file system on it (empty: none)."""
        text = self.run(["lsblk", "--json", "--list", "--paths", "--output", "NAME,LABEL"])
        return [(str(d["name"]), str(d["label"] or "")) for d in json.loads(text)["blockdevices"]]

    def open_disk(self, serial: str, seconds: float = 30) -> BinaryIO:
        """Opens the virtio disk of a serial for reading."""
        path = self.appears([self.disk(serial)], seconds)
        try:
            return self.path(path).open("rb", buffering=0)
        except OSError as e:
            raise Refused(f"{path}: {os.strerror(e.errno or 0)}") from None

    @staticmethod
    def disk(serial: str) -> str:
        """The path of a virtio disk by its serial."""
        return f"/dev/disk/by-id/virtio-{serial}"

    def mount(self, device: str, where: str, kind: str, options: str) -> None:
        """Mounts a device on a folder that is there."""
        self.run(["mount", "-t", kind, "-o", options, device, where])

    def unmount(self, where: str) -> None:
        """Takes a mount away."""
        self.run(["umount", where])

    def systemctl(self, *words: str) -> None:
        """Asks systemd for something."""
        self.run(["systemctl", *words], timeout=90)

    def set_hostname(self, name: str) -> None:
        """Sets the running kernel's host name."""
        socket.sethostname(name)

    def only_root(self, address: str) -> None:
        """Closes an address to all other users."""
        guard.only_root(address)

    def chown(self, absolute: str, uid: int, gid: int) -> None:
        """Gives a file to a user; a link itself, not what it points at."""
        os.chown(self.path(absolute), uid, gid, follow_symlinks=False)

    def address(self, host: str) -> Optional[str]:
        """The address from which this machine would talk to a host (IPv4, where it has one), or None. Nothing is
        sent."""
        try:
            found = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
        except OSError:
            return None
        for family, kind, protocol, _name, there in sorted(found, key=lambda entry: entry[0]):
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as s:
                s.connect(there)
                return str(s.getsockname()[0])
        return None

    def account(self, name: str) -> Tuple[int, int]:
        """A user's number and that of the group; Refused where there is no such user."""
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            raise Refused(f"this image has no user {name}") from None
        return found.pw_uid, found.pw_gid

    def known(self, database: str, keys: Sequence[str]) -> str:
        """The first line that the name service has for one of some names or numbers; empty where it has none.
        Refused when it does not answer."""
        answer = self.ask(["getent", database, *keys])
        if answer.status not in (0, 2):
            raise Refused(f"`getent {database}`: {answer.said}")
        return answer.out.partition("\n")[0]

    def wipe(self, absolute: str) -> None:
        """Overwrites a file with zeros and takes it away; nothing happens where none is."""
        if not stat.S_ISREG(self.mode(absolute)):
            return
        path = self.path(absolute)
        with path.open("r+b", buffering=0) as f:
            f.write(bytes(os.fstat(f.fileno()).st_size))
            os.fsync(f.fileno())
        path.unlink()

    def walk(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """Everything below a folder, links not followed."""
        pending: List[str] = [str(self.path(folder))]
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    yield entry
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)

    def now(self) -> datetime:
        """The time now, in UTC."""
        return datetime.now(timezone.utc)

    def uptime(self) -> float:
        """Seconds since the kernel started."""
        return float(self.read("/proc/uptime").split()[0])

    def clock(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Lets time pass."""
        time.sleep(seconds)
