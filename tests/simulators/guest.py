"""A bare QEMU guest of a built image, without context: for tests of the image itself."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiosk.run import run, tool

FIRMWARE = Path("/usr/share/OVMF")
BOOT_LIMIT = 600.0


@dataclass(frozen=True)
class Guest:
    """A running guest; `console` is what it wrote on its serial line."""

    socket: Path
    console: Path
    process: subprocess.Popen[bytes]

    def shell(self, script: str) -> str:
        """Runs a script in the guest, through its agent, and returns what it printed."""
        argv = {"path": "/bin/sh", "arg": ["-c", script + " 2>&1"], "capture-output": True}
        until = time.monotonic() + BOOT_LIMIT
        while True:
            try:
                return self._run(argv)
            except (TimeoutError, ConnectionError):
                if time.monotonic() > until or self.process.poll() is not None:
                    text = self.console.read_text(errors="replace")[-3000:]
                    raise AssertionError(f"the guest's agent does not answer; its console:\n{text}") from None

    def _run(self, argv: dict[str, Any]) -> str:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(str(self.socket))
            with s.makefile("rwb") as f:
                f.write(b"\xff")  # makes the agent drop what an earlier, unanswered call left
                self._ask(f, "guest-sync-delimited", {"id": 1})
                s.settimeout(120)
                pid = self._ask(f, "guest-exec", argv)["pid"]
                while not (done := self._ask(f, "guest-exec-status", {"pid": pid}))["exited"]:
                    time.sleep(0.5)
        return base64.b64decode(done.get("out-data", "")).decode().strip()

    @staticmethod
    def _ask(f: Any, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        f.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        f.flush()
        while True:
            line = f.readline()
            if not line:
                raise ConnectionError
            try:
                answer = json.loads(line[line.rfind(b"\xff") + 1 :])
            except ValueError:
                continue
            if isinstance(answer, dict) and isinstance(answer.get("return"), dict):
                return dict(answer["return"])
            if command == "guest-sync-delimited":
                if answer.get("return") == arguments["id"]:
                    return {}
                continue
            raise AssertionError(f"the agent answered {answer}")


@contextmanager
def started(
    built: Path, cmdline: str, folder: Path, *, append: str = "", firmware: str = "direct"
) -> Iterator[Guest]:
    """Boots a built version on a throw-away overlay, by its kernel or (`uefi`) by its disk alone."""
    overlay, agent, console = folder / "disk.qcow2", folder / "agent", folder / "console"
    run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", built / "disk.raw", "-F", "raw", overlay],
        timeout=60,
    )
    argv = [tool("qemu-system-x86_64"), "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]
    argv += ["-smp", "2", "-m", "1024", "-display", "none", "-nodefaults", "-serial", f"file:{console}"]
    argv += ["-drive", f"file={overlay},format=qcow2,if=virtio", "-nic", "user,model=virtio-net-pci"]
    argv += ["-device", "virtio-rng-pci", "-device", "virtio-serial"]
    argv += ["-chardev", f"socket,path={agent},server=on,wait=off,id=agent"]
    argv += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
    if firmware == "uefi":
        shutil.copyfile(FIRMWARE / "OVMF_VARS_4M.fd", folder / "vars.fd")
        code = f"if=pflash,format=raw,readonly=on,file={FIRMWARE}/OVMF_CODE_4M.fd"
        argv += ["-drive", code, "-drive", f"if=pflash,format=raw,file={folder}/vars.fd"]
    else:
        argv += ["-kernel", str(built / "vmlinuz"), "-initrd", str(built / "initrd")]
        argv += ["-append", f"{cmdline} {append}".strip()]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while not agent.exists() and time.monotonic() < until:
            time.sleep(0.1)
        yield Guest(agent, console, process)
    finally:
        process.kill()
        process.wait()
