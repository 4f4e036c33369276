"""The one door for subprocesses: argument lists only, never a shell; a failure is shown as it could be typed.

A program that is missing is named together with the Debian package that brings it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from kiosk.errors import KioskError, MissingToolError
from kiosk.log import logger

log = logger(__name__)

PACKAGES = {
    "debootstrap": "debootstrap",
    "disk-image-create": "diskimage-builder",
    "mkfs.ext4": "e2fsprogs",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "losetup": "mount",
    "e2fsck": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "mmd": "mtools",
    "sfdisk": "fdisk",
    "veritysetup": "cryptsetup-bin",
    "virsh": "libvirt-clients",
    "ssh": "openssh-client",
    "objcopy": "binutils",
    "objdump": "binutils",
    "mksquashfs": "squashfs-tools",
    "unsquashfs": "squashfs-tools",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "rpm": "rpm",
    "squid": "squid",
    "nginx": "nginx-light",
    "tar": "tar",
    "openssl": "openssl",
    "ionice": "util-linux",
    "setpriv": "util-linux",
    "prlimit": "util-linux",
    "unshare": "util-linux",
}
SYSTEM_PATHS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")


class CommandError(KioskError):
    """A program ended with an error; `status` is its exit status, `output` the last of what it printed."""

    def __init__(self, argv: Sequence[str], status: int, output: str) -> None:
        last = "\n".join(output.strip().splitlines()[-15:])
        super().__init__(f"`{shlex.join(argv)}` ended with status {status}" + (f":\n{last}" if last else ""))
        self.status = status
        self.output = output


def tool(name: str) -> str:
    """The path of a program; MissingToolError names the package when it is not there."""
    search = os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_PATHS])
    found = shutil.which(name, path=search)
    if found is None:
        package = PACKAGES.get(name, name)
        raise MissingToolError(f"the program {name} is not installed", hint=f"apt-get install {package}")
    return found


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Runs a program to its end and returns what it printed on standard output.

    `env` is added to a minimal environment. Raises CommandError on a status other than 0 and after
    `timeout` seconds, MissingToolError when the program is not installed.
    """
    words = [tool(str(argv[0])), *map(str, argv[1:])]
    log.debug("run %s", shlex.join(words))
    try:
        done = subprocess.run(
            words,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            env=environment(env),
            cwd=cwd,
            timeout=timeout,
            capture_output=True,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        text = ((e.stdout or b"") + (e.stderr or b"")).decode(errors="replace")
        raise CommandError(words, -signal.SIGKILL, f"{text}\nnot done after {timeout:.0f} s") from None
    if done.returncode != 0:
        raise CommandError(words, done.returncode, (done.stdout + done.stderr).decode(errors="replace"))
    return done.stdout.decode(errors="replace")


def stream(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    log_to: Path,
    on_line: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Runs a long program, writing all its output to the file `log_to` and handing each line to `on_line`.

    The program runs in a session of its own; whatever ends this call early (an error, Ctrl-C) ends its
    whole process group first. Raises CommandError like `run`.
    """
    words = [tool(str(argv[0])), *map(str, argv[1:])]
    log_to.parent.mkdir(parents=True, exist_ok=True)
    with (
        log_to.open("ab") as out,
        _process(words, env, cwd) as process,
        deadline(process, timeout) as expired,
    ):
        assert process.stdout is not None
        for raw in process.stdout:
            out.write(raw)
            out.flush()
            on_line(raw.decode(errors="replace").rstrip("\n"))
        status = process.wait()
    if expired:
        raise CommandError(words, status, f"not done after {timeout:.0f} s")
    if status != 0:
        tail = log_to.read_bytes()[-64_000:].decode(errors="replace")
        raise CommandError(words, status, tail)


def attached(
    argv: Sequence[str | Path], *, env: Mapping[str, str], timeout: float, capture: bool = False
) -> str:
    """Runs a program on our own terminal, with exactly the environment `env`.

    With `capture`, what it prints on standard output comes back instead of being shown (messages and
    progress on standard error stay on the terminal). Raises CommandError like `run`.
    """
    words = [tool(str(argv[0])), *map(str, argv[1:])]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if capture else None, env=env
    )
    with ended(process), deadline(process, timeout) as expired:
        out, _ = process.communicate()
    if process.returncode != 0 or expired:
        raise CommandError(words, process.returncode, f"not done after {timeout:.0f} s" if expired else "")
    return out.decode(errors="replace") if capture else ""


@contextlib.contextmanager
def service(
    argv: Sequence[str | Path], *, log_to: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program beside us while the block lasts, its output in the file `log_to`, and then ends it."""
    words = [tool(str(argv[0])), *map(str, argv[1:])]
    log_to.parent.mkdir(parents=True, exist_ok=True)
    with log_to.open("ab") as out:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment(env),
            start_new_session=True,
        )
    with ended(process):
        yield process


def detached(
    argv: Sequence[str | Path], *, log_to: Path, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a program that outlives us, in a session of its own, its output in the file `log_to`."""
    words = [tool(str(argv[0])), *map(str, argv[1:])]
    log.debug("start %s", shlex.join(words))
    with log_to.open("ab") as out:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment(env),
            cwd=cwd,
            start_new_session=True,
        )


@contextlib.contextmanager
def _process(
    words: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(env),
        cwd=cwd,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout, ended(process):
        yield process


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends the process when the block ends before it: SIGTERM, 30 s to clean up, SIGKILL."""
    try:
        yield
    finally:
        if process.poll() is None:
            _signal(process, signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signals the whole process group where the process leads one, else the process alone."""
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)


@contextlib.contextmanager
def deadline(process: subprocess.Popen[bytes], seconds: float) -> Iterator[list[bool]]:
    """Kills the process (and its group) after `seconds`; the list is not empty then."""
    expired: list[bool] = []

    def end() -> None:
        expired.append(True)
        _signal(process, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A program's environment: ours without language settings and without our secrets, plus `extra`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "KIOSK_", "PYTHON"))}
    path = os.pathsep.join(dict.fromkeys([*os.environ.get("PATH", "").split(os.pathsep), *SYSTEM_PATHS]))
    return {**kept, "LC_ALL": "C.UTF-8", "PATH": path, **(extra or {})}
