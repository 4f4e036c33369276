"""A volume group of the real LVM on a loop device, for a machine without device-mapper.

The programs of LVM run for real and keep real metadata; they are only told not to activate anything. What an active
volume would be, a loop device on a file plays, at the place where LVM has its devices.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kiosk.run import run, tool

PROGRAM = """#!{python}
import json, os, subprocess, sys
folder, pv, group, lvm = {folder!r}, {pv!r}, {group!r}, {lvm!r}
command, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(f"{{folder}}/log", "a") as log:
    log.write(json.dumps([command, *words]) + "\\n")
if os.path.exists(f"{{folder}}/fail-{{command}}"):
    sys.exit("  the disk is on fire")
off = ["--driverloaded", "n", "--devices", pv]
more = {{"lvcreate": ["-an", "-Zn"], "lvremove": ["-f"]}}.get(command, [])
os.environ["LVM_SUPPRESS_FD_WARNINGS"] = "1"
done = subprocess.run([lvm, command, *words, *off, *more], capture_output=True, text=True)
sys.stderr.write(done.stderr)
sys.stdout.write(done.stdout.replace('"lv_device_open":"-1"', '"lv_device_open":"0"'))
devices = f"{{folder}}/dev/{{group}}"
os.makedirs(devices, exist_ok=True)
if done.returncode == 0 and command == "lvrename":
    os.rename(f"{{devices}}/{{words[1]}}", f"{{devices}}/{{words[2]}}")
if done.returncode == 0 and command == "lvremove":
    device = f"{{devices}}/{{words[-1].rpartition('/')[2]}}"
    subprocess.run(["losetup", "-d", os.path.realpath(device)], check=True)
    os.unlink(device)
if done.returncode == 0 and command == "lvcreate":
    name, size = words[words.index("--name") + 1], int(words[words.index("--size") + 1].removesuffix("b"))
    backing = f"{{folder}}/{{name}}.{{os.getpid()}}"
    with open(backing, "wb") as f:
        f.write(b"what was on the disk before" * (size // 27 + 1))
    loop = subprocess.run(["losetup", "-f", "--show", backing], capture_output=True, text=True, check=True)
    os.symlink(loop.stdout.strip(), f"{{devices}}/{{name}}")
sys.exit(done.returncode)
"""


class Volumes:
    """The volume group."""

    def __init__(self, folder: Path, pv: str, group: str) -> None:
        self.folder, self.pv, self.group = folder, pv, group
        self.devices = folder / "dev"
        (self.devices / group).mkdir(parents=True)
        self.bin = folder / "bin"
        self.bin.mkdir()
        text = PROGRAM.format(python=sys.executable, folder=str(folder), pv=pv, group=group, lvm=tool("lvm"))
        for name in ("lvcreate", "lvs", "lvrename", "lvchange", "lvremove"):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    def lvm(self, *words: str) -> str:
        """Runs LVM itself."""
        env = {**os.environ, "LVM_SUPPRESS_FD_WARNINGS": "1"}
        argv = [tool("lvm"), *words, "--driverloaded", "n", "--devices", self.pv]
        return subprocess.run(argv, capture_output=True, text=True, env=env, check=True).stdout

    def listed(self) -> dict[str, str]:
        """The volumes by name, with their permission: r or w."""
        said = self.lvm("lvs", "--noheadings", "-o", "lv_name,lv_attr", self.group)
        return {line.split()[0]: line.split()[1][1] for line in said.splitlines() if line.strip()}

    def device(self, name: str) -> Path:
        """A volume's device."""
        return self.devices / self.group / name

    def calls(self) -> list[list[str]]:
        """What was run since the last time, without questions."""
        log = self.folder / "log"
        found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        return [call for call in found if call[0] != "lvs"]


@contextmanager
def volumes(folder: Path) -> Iterator[Volumes]:
    """A group of 64 MiB while the block lasts."""
    folder.mkdir()
    with (folder / "pv").open("wb") as f:
        f.truncate(64 << 20)
    pv = run(["losetup", "-f", "--show", folder / "pv"], timeout=20).strip()
    made = Volumes(folder, pv, f"kiosk{os.getpid()}")
    try:
        made.lvm("pvcreate", "-q", pv)
        made.lvm("vgcreate", "-q", made.group, pv)
        yield made
    finally:
        for link in (made.devices / made.group).iterdir():
            run(["losetup", "-d", str(link.resolve())], timeout=20)
        run(["losetup", "-d", pv], timeout=20)
        shutil.rmtree(folder)
