"""Writes `lsb.events` and `lsb.acct` as mbatchd does, in the dialect of volclava 2.2 or of IBM LSF 10.1.

Which fields a record has was taken from the published source of OpenLava and volclava, from IBM's reference, and from
published lines of LSF 9.1 (JOB_NEW) and 10.1 (JOB_FINISH). No log of a running master was at hand: that a real one
looks so has been compared only with those lines (see test_lsf_events.PUBLISHED).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

USAGE = "-1 " * 18 + "-1"


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


class Mbatchd:
    """A master that only writes its logs. `now` is its clock."""

    def __init__(self, folder: Path, ibm: bool = False) -> None:
        self.events, self.accounts = folder / "lsb.events", folder / "lsb.acct"
        self.ibm, self.now, self._number = ibm, 1_790_000_000, 0
        self._version = "10.1" if ibm else "2.2"
        self._live: dict[int, list[str]] = {}
        self.events.write_text("#80                \n")
        self.accounts.touch()

    def write(self, kind: str, rest: str, job: int | None = None) -> None:
        """A record, which stands for the job until it is cleaned."""
        line = f'"{kind}" "{self._version}" {self.now} {rest}\n'
        with self.events.open("a") as f:
            f.write(line)
        if job is not None:
            self._live.setdefault(job, []).append(line)

    def submit(
        self, user: str = "alice", queue: str = "normal", text: str = "", slots: int = 1, name: str = "job",
        depends: str = "", begins: int = 0, group: str = "", command: str = "true", limit: int = -1,
    ) -> int:  # fmt: skip
        """A new job, or an array by its name; its number."""
        self._number += 1
        limits = [-1] * (12 if self.ibm else 11)
        limits[9] = limit
        more = f'"" {quoted(group)} "" 5136 0' if self.ibm else "0 0"
        rest = (
            f"{self._number} 500 33554435 {slots} {self.now} {begins} 0 -65535 0 0 {quoted(user)} "
            f'{" ".join(map(str, limits))} "" 100.00 18 {quoted(queue)} {quoted(text)} "lavam" "/home" "" "" "" "" "" '
            f'"{self.now}.{self._number}" 0 {quoted(depends)} "" {quoted(name)} {quoted(command)} 0 "" "default" '
            f'{slots} "linux" "" {more} "" "" "" -1 ""'
        )
        self.write("JOB_NEW", rest, self._number)
        return self._number

    def start(self, job: int, hosts: Sequence[str] = ("lava1",), index: int = 0, short: bool = False) -> None:
        """It runs."""
        names = [f"{hosts.count(name)}*{name}" for name in dict.fromkeys(hosts)] if short else hosts
        more = '"" ' if self.ibm else ""
        rest = f'{job} 4 0 0 100.0 {len(names)} {" ".join(map(quoted, names))} "" "" 0 {more}{index} ""'
        self.write("JOB_START", rest, job)
        self.write("JOB_START_ACCEPT", f"{job} 77 77 {index} ", job)

    def status(self, job: int, status: int, index: int = 0) -> None:
        """It has another status."""
        usage = f"1 {USAGE}" if status & 0x60 else "0"
        self.write("JOB_STATUS", f"{job} {status} 0 0 1.5 {self.now} {usage} 0 {index} 0 0 ", job)

    def finish(
        self, job: int, hosts: Sequence[str] = ("lava1",), index: int = 0, user: str = "alice"
    ) -> None:
        """It has ended, and the accounts say so."""
        self.status(job, 64, index)
        more = '"" ' if self.ibm else ""
        rest = (
            f'{job} 500 33554435 {len(hosts)} {self.now - 100} 0 0 {self.now - 50} {quoted(user)} "normal" '
            f'"select[os==debian12] rusage[mem=500]" "" "" "lavam" "/home" "" "" "" "x.1" 0 {len(hosts)} '
            f'{" ".join(map(quoted, hosts))} 64 100.0 "job ""quoted""" "true" {USAGE} "" "default" 0 1 "" '
            f'{more}{index} 0 0 "" ""'
        )
        with self.accounts.open("a") as f:
            f.write(f'"JOB_FINISH" "{self._version}" {self.now} {rest}\n')

    def clean(self, job: int) -> None:
        """mbatchd forgets it."""
        self.write("JOB_CLEAN", f"{job} 0 ")
        self._live.pop(job, None)

    def control(self, host: str, operation: int, message: str = "") -> None:
        """hopen (1) or hclose (2)."""
        self.write("HOST_CTRL", f'{operation} {quoted(host)} 0 "root" {quoted(message)}')

    def switch(self, lose: Sequence[int] = ()) -> None:
        """The log is switched: the new one has the records of all jobs that are known."""
        rotate(self.events)
        kept = "".join(line for job, lines in self._live.items() if job not in lose for line in lines)
        self.events.write_text(f"#{80 + len(kept)}             \n{kept}")

    def switch_accounts(self) -> None:
        rotate(self.accounts)
        self.accounts.touch()


def rotate(path: Path) -> None:
    """`lsb.events` becomes `lsb.events.1`, that `lsb.events.2`, and so on."""
    numbers = sorted((int(p.suffix[1:]) for p in path.parent.glob(f"{path.name}.*")), reverse=True)
    for number in numbers:
        path.with_name(f"{path.name}.{number}").rename(path.with_name(f"{path.name}.{number + 1}"))
    path.rename(path.with_name(f"{path.name}.1"))
