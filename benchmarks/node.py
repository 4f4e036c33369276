"""What a worker node writes by itself: logs, journal, accounts, generated configuration. The same on every run.

`write_day(root, 0)` leaves what a node has when it is first copied, `write_day(root, 1)` what one quiet day
changes in place: logs grow, the journal fills and rotates, two accounts come, revocation lists, the batch
system's and the farm's configuration are written anew (as a new file renamed over the old one).
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

JOURNAL = 8 << 20
UNITS = ("systemd", "slurmd", "sshd", "automount", "kernel", "cron", "munged", "chronyd", "cvmfs2")
EVENTS = (
    "Started session {a} of user pool{b:03d}.",
    "launch task StepId={a}.0 request from UID:{b} GID:{b} HOST:10.20.{c}.{d} PORT:{e}",
    "Accepted publickey for pool{b:03d} from 10.20.{c}.{d} port {e} ssh2: RSA SHA256:{h}",
    "attempting to mount entry /cvmfs/repository{c}.example.org",
    "Received disconnect from 10.20.{c}.{d} port {e}:11: disconnected by user",
    "job_container/none: step {a} cleaned up in {d}.{e:05d} s",
    "(CMD) test -x /usr/local/libexec/farm-check && /usr/local/libexec/farm-check {a}",
    "Selected source 10.1.{c}.{d} (ntp{d}.example.org), offset {e} ns",
)


def write_day(root: Path, day: int) -> None:
    """Writes what the node itself writes on that day below `root`."""
    log = root / "var/log"
    for name, lines in {"syslog": 24_000, "auth.log": 5_000, "slurmd.log": 9_000, "cron.log": 1_500}.items():
        with (log / name).open("ab") as f:
            f.writelines(_line(name, day, n) for n in range(lines))
    journal = log / "journal" / hashlib.md5(b"node", usedforsecurity=False).hexdigest()
    journal.mkdir(parents=True, exist_ok=True)
    live = journal / "system.journal"
    if live.exists():
        live.rename(journal / f"system@{day:016x}.journal")
    live.write_bytes(_journal("system", day))
    with (log / "wtmp").open("ab") as f:
        f.write(b"".join(_record(day, n) for n in range(300)))
    with (log / "lastlog").open("ab") as f:
        f.truncate(292 * 70_000)
    with (log / "lastlog").open("r+b") as f:
        for n in range(40):
            f.seek(292 * (60_000 + 211 * n))
            f.write(_record(day, n)[:292])
    _accounts(root, day)
    _configuration(root, day)


def _line(name: str, day: int, n: int) -> bytes:
    r = random.Random(f"{name} {day} {n}")
    seconds = n * 86_400 // 24_000
    event = r.choice(EVENTS).format(
        a=40_000 + n,
        b=r.randrange(400),
        c=r.randrange(256),
        d=r.randrange(1, 255),
        e=r.randrange(1024, 65536),
        h=r.randbytes(16).hex(),
    )
    clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"Mar {day + 3:2d} {clock} wn0421 {r.choice(UNITS)}[{r.randrange(400, 32000)}]: {event}\n".encode()


def _journal(name: str, day: int) -> bytes:
    """Entries as in a journal file: a binary head with times and hashes before each text; the rest is zeros."""
    parts = [b"LPKSHHRH" + bytes(232)]
    for n in range(16_000):
        text = _line(name, day, n)
        head = hashlib.sha256(text).digest()[:24] + (1_700_000_000_000_000 + n * 5_400_000).to_bytes(
            8, "little"
        )
        entry = head + len(text).to_bytes(8, "little") + text
        parts.append(entry.ljust(-(-len(entry) // 8) * 8, b"\0"))
    return b"".join(parts).ljust(JOURNAL, b"\0")[:JOURNAL]


def _record(day: int, n: int) -> bytes:
    r = random.Random(f"wtmp {day} {n}")
    return (b"\7\0\0\0" + r.randbytes(4) + f"pts/{n % 9}".encode()).ljust(44, b"\0").ljust(384, b"\0")


def _accounts(root: Path, day: int) -> None:
    people = range(400) if day == 0 else range(400 + 2 * day - 2, 400 + 2 * day)
    for file, form in {
        "etc/passwd": "pool{n:03d}:x:{uid}:{uid}:pool account:/home/pool{n:03d}:/bin/bash\n",
        "etc/group": "pool{n:03d}:x:{uid}:\n",
        "etc/shadow": "pool{n:03d}:!:19500:0:99999:7:::\n",
    }.items():
        path = root / file
        added = "".join(form.format(n=n, uid=60_000 + n) for n in people)
        _replace(path, path.read_bytes() + added.encode())


def _configuration(root: Path, day: int) -> None:
    r = random.Random(f"configuration {day}")
    nodes = "".join(
        f"NodeName=wn{n:04d} CPUs={r.choice((32, 64, 128))} RealMemory=257000 State=UNKNOWN\n"
        for n in range(900)
    )
    _replace(root / "etc/slurm/slurm.conf", f"# written on day {day}\nClusterName=farm\n{nodes}".encode())
    hosts = "".join(
        f"10.20.{n // 250}.{n % 250 + 1} wn{n:04d}.example.org wn{n:04d}\n" for n in range(900 + day)
    )
    _replace(root / "etc/hosts", f"127.0.0.1 localhost\n{hosts}".encode())
    keys = "".join(
        f"wn{n:04d} ssh-ed25519 {random.Random(n).randbytes(33).hex()}\n" for n in range(900 + day)
    )
    _replace(root / "etc/ssh/ssh_known_hosts", keys.encode())
    for n in range(8):  # revocation lists: signed anew each day, so they do not compress
        crl = random.Random(f"crl {n} {day}").randbytes(9_000 + 4_000 * n)
        _replace(root / f"etc/grid-security/certificates/{n:08x}.r0", crl)
    facts = "".join(f"fact{n}={r.randrange(10**9)}\n" for n in range(300))
    _replace(root / "etc/kiosk/facts.conf", facts.encode())


def _replace(path: Path, data: bytes) -> None:
    """A new file with the old one's mode takes its place, as every tool that writes configuration does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    new.chmod(path.stat().st_mode & 0o7777 if path.exists() else 0o644)
    new.rename(path)
