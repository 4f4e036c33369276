"""Accounts of any kind that is known: which one it is, is seen in the file."""

from __future__ import annotations

from pathlib import Path

from kiosk.batch.accounts.files import lines, shown, wrong
from kiosk.batch.accounts.lsb_acct import LsbAcct
from kiosk.batch.accounts.sacct import Sacct
from kiosk.batch.accounts.swf import Swf
from kiosk.batch.api import Accounts
from kiosk.batch.lsf.events import HEAD
from kiosk.errors import BatchError


def accounts(path: Path, cores_per_host: int = 1) -> Accounts:
    """The accounts of a file: `lsb.acct`, what `sacct --parsable2` printed, or the Standard Workload Format, for which
    `cores_per_host` says how large a job may be that is on one host. BatchError where it is none of them."""
    for number, line in lines(path):
        if not line.strip() or line.startswith("#"):
            continue
        if HEAD.match(line):
            return LsbAcct(path)
        if "|" in line and "JobID" in line.split("|"):
            return Sacct(path)
        words = line.split()
        if line.lstrip().startswith(";") or (len(words) == 18 and words[0].isdecimal()):
            return Swf(path, cores_per_host)
        hint = "known are lsb.acct, the output of sacct --parsable2, and the Standard Workload Format"
        raise wrong(path, number, f"is of no accounts that are known: {shown(line)}", hint)
    raise BatchError("is empty", where=str(path))
