"""Runs what docs/scheduler.md shows: `python -m tests.scheduler.page` writes the page with what the commands print.

The commands run in a folder with the page's own scheduler.toml, the accounts of a day (`lsb.acct` of test_dayplan, as a
trace), and a cluster of LSF's relative volclava as it was recorded: two jobs run there and eight wait. Times, and how
long a tick took, are those of the page.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import sys
import tempfile
from pathlib import Path
from unittest import mock

from kiosk.cli import common, main
from tests.batch.programs import install, recorded
from tests.scheduler.test_dayplan import swf

PAGE = Path(__file__).parents[2] / "docs/scheduler.md"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MOMENT = r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\+00:00"
TOOK = r"of [0-9.]+ s"
WAITED = r"has waited [0-9.]+ h"


def example(text: str) -> str:
    """The page's scheduler.toml."""
    found = re.search(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def printed(text: str) -> str:
    """The page with what its commands print now."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        here = Path(folder)
        commands = {
            k: v
            for name in ("lsid", "bjobs", "bqueues", "bhosts", "lshosts")
            for k, v in recorded(f"{name}.txt").items()
        }
        bin = install(here, commands)
        config = here / "scheduler.toml"
        config.write_text(example(text).replace("/usr/share/lsf/10.1/bin", str(bin)))
        swf(here, [(8.0, 3.0, 16), (20.0, 0.5, 100)]).rename("lsb.acct")
        with (
            mock.patch("kiosk.scheduler.settings.FILE", config),
            mock.patch.object(socket, "gethostname", lambda: "hv-1"),
            mock.patch.dict(os.environ, {"KIOSK_HOME": folder}),
        ):
            return BLOCK.sub(lambda block: f"```console\n{_session(block[1])}```", text)


def _session(block: str) -> str:
    lines = [line for line in block.splitlines() if line.startswith("$ ")]
    return "".join(f"{line}\n{_run(line.split()[1:])}" for line in lines)


def _run(words: list[str]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), mock.patch.object(sys, "argv", words):
        assert common.guard(main.call) == 0, words
    said = re.sub(MOMENT, "2026-11-25T09:00:00+00:00", out.getvalue())
    said = re.sub(WAITED, "has waited 9.5 h", re.sub(TOOK, "of 0.03 s", said))
    return "".join(f"{line.rstrip()}\n" for line in said.splitlines())


if __name__ == "__main__":
    PAGE.write_text(printed(PAGE.read_text()))
