"""`kiosk demo`: the whole road once, on real input, by the very commands that a user would type.

A recipe becomes an image, the image is signed and published, changed, published again, fetched through a
real Squid (all of it, then only the difference), booted with a site's and an experiment's layer on it, and
asked what it is. Then jobs wait, and the scheduler starts nodes for them. Everything lives below one folder;
what it started is stopped when it ends, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from kiosk import data, files
from kiosk.cli import demo_scheduler
from kiosk.cli.common import say, size, table
from kiosk.errors import KioskError, NetworkError, StorageError, UsageError
from kiosk.run import attached, run, service

IMAGE = "debian-12-minimal"
LAYERS = {"site/example/base": "example-site", "experiment/demo/software": "example-experiment"}
NEEDED = 8_000_000_000
"""Bytes of free disk that the demo needs, with room to spare."""


@dataclass
class Demo:
    """The demo's folders, and what it has done so far."""

    home: Path
    steps: list[tuple[str, float, str]] = field(default_factory=list)

    @property
    def kiosk(self) -> list[str]:
        """The command itself, as it was called."""
        return [sys.executable, "-m", "kiosk"]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Where one of the machines that the demo plays keeps its things."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("KIOSK_") or k == "KIOSK_PROGRESS"}
        return {**kept, "KIOSK_HOME": str(home), **more}

    @property
    def kiosk_host(self) -> dict[str, str]:
        """The machine that builds, signs and publishes."""
        return self.environment(
            self.home / "kiosk-host",
            KIOSK_PASSPHRASE_FILE=str(self.home / "passphrase"),
            KIOSK_RECIPES=str(self.home / "recipes"),
            KIOSK_CACHE=os.environ.get("KIOSK_CACHE", str(self.home / "cache")),
        )

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """Says what is being done and remembers how long it took; the list collects what the table shows."""
        say(f"\n== {len(self.steps) + 1}. {title}")
        start = time.monotonic()
        facts: list[str] = []
        yield facts
        self.steps.append((title, time.monotonic() - start, ", ".join(facts)))

    def do(self, env: dict[str, str], *words: str, timeout: float = 1800, capture: bool = False) -> str:
        """Runs one kiosk command, shown as a user would type it; with `capture` its output comes back."""
        say(f"$ {shlex.join(['kiosk', *words])}")
        try:
            return attached([*self.kiosk, *words], env=env, timeout=timeout, capture=capture)
        except KioskError as e:
            raise KioskError(
                f"the step failed: {shlex.join(['kiosk', *words])}",
                hint="Its message stands above. Run `make demo` again to start over; built trees are kept.",
            ) from e


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def demo(
        home: Annotated[
            Path, typer.Option(help="Folder of the demo; what an earlier demo left there is replaced.")
        ] = Path("/var/tmp/kiosk-demo"),  # noqa: S108
        keep: Annotated[bool, typer.Option(help="Leave the VM running at the end.")] = False,
    ) -> None:
        """The whole road on this machine: build, publish, sync, boot, contextualize, schedule.

        Needs root, 8 GB of disk, and the network of your Debian mirror. `kiosk demo --home /scratch/demo`
        """
        if os.geteuid() != 0:
            raise UsageError("the demo builds images in a chroot and needs root", hint="sudo kiosk demo")
        with files.locked(home / "lock", what="a demo"):
            walk(Demo(home), keep)


def walk(demo: Demo, keep: bool) -> None:
    """The road, step by step."""
    start = time.monotonic()
    prepare(demo)
    make_kiosk(demo)
    first = build_and_publish(demo, "Build the image from its recipe (a real diskimage-builder)")
    make_layers(demo)
    with serving(demo) as (url, proxy):
        hypervisor = demo.environment(demo.home / "hypervisor", KIOSK_URL=url, KIOSK_PROXY=proxy)
        shutil.copy(demo.home / "kiosk-host/repository/metadata/1.root.json", demo.home / "root.json")
        sync(demo, hypervisor, "A hypervisor syncs through Squid: everything", first=True)
        change_recipe(demo)
        second = build_and_publish(demo, "Build the changed recipe: a second version")
        sync(demo, hypervisor, "The hypervisor syncs again: only the difference", first=False)
        boot(demo, hypervisor, keep)
        demo_scheduler.burst(demo, hypervisor)
    say()
    table(["step", "took#", "what"], [(t, f"{s:.1f} s", facts) for t, s, facts in demo.steps])
    say(
        f"\nDone in {time.monotonic() - start:.0f} s: {first} and {second} are built, signed, moved, and ran."
    )
    say(NEXT.format(home=demo.home, kiosk=Path(sys.argv[0]).resolve()))


NEXT = """
What to try next (as root):
  export KIOSK_HOME={home}/hypervisor
  {kiosk} host list                                  what this hypervisor holds
  {kiosk} vm start debian-12-minimal --layer experiment/demo/software
  {kiosk} vm list; {kiosk} vm console NAME --log     follow it booting
  {kiosk} scheduler run --scheduler-config {home}/scheduler/scheduler.toml
                                                     with jobs that you add to workload.toml beside it
  export KIOSK_HOME={home}/kiosk-host
  {kiosk} list; {kiosk} show debian-12-minimal       what is published, and who signed it
  {kiosk} build debian-12-worker                     a full batch worker node"""


def prepare(demo: Demo) -> None:
    """Ends what an earlier demo left running, and makes room. Built trees and packages are kept."""
    free = shutil.disk_usage(demo.home).free
    if free < NEEDED:
        raise StorageError(
            f"the demo needs {size(NEEDED)} of free disk and there are {size(free)}",
            where=str(demo.home),
            hint="Free some space or name another folder with --home.",
        )
    if (demo.home / "hypervisor/vms").is_dir():
        run(
            [*demo.kiosk, "vm", "stop", "--all", "--now"],
            env=demo.environment(demo.home / "hypervisor"),
            timeout=120,
        )
    for old in ("hypervisor", "recipes", *(f"kiosk-host/{n}" for n in ("repository", "keys", "built"))):
        files.remove_tree(demo.home / old)
    files.write(demo.home / "passphrase", secrets.token_hex(16).encode(), mode=0o600)
    shutil.copytree(data.folder("recipes"), demo.home / "recipes")


def make_kiosk(demo: Demo) -> None:
    """Keys and an empty signed repository; the site and the experiment make their own keys."""
    host = demo.kiosk_host
    with demo.step("Make a kiosk: keys, and an empty signed repository") as facts:
        demo.do(host, "init")
        for layer in LAYERS:
            party = "/".join(layer.split("/")[:2])
            role = party.replace("/", "-")
            demo.do(host, "key", "create", role)
            demo.do(host, "delegate", party, "--key", str(demo.home / f"kiosk-host/keys/{role}.pub"))
        facts.append("root of trust, roles, and two delegations")


def build_and_publish(demo: Demo, title: str) -> str:
    """Builds the image's next version and publishes it; returns NAME@VERSION."""
    with demo.step(title) as facts:
        demo.do(demo.kiosk_host, "build", IMAGE)
    with demo.step("Sign and publish it") as facts:
        done = json.loads(demo.do(demo.kiosk_host, "publish", IMAGE, "--json", capture=True))
        name = f"{done['name']}@{done['version']}"
        stored = f"{name}: {size(done['new_bytes'])} in {done['new_objects']} new objects"
        say(f"Published {stored}.")
        facts.append(stored)
    return name


def make_layers(demo: Demo) -> None:
    """A site layer and an experiment layer, each signed by its own key."""
    with demo.step("Build and publish a site layer and an experiment layer, each with its own key") as facts:
        for layer, recipe in LAYERS.items():
            demo.do(demo.kiosk_host, "layer", "build", recipe)
            demo.do(demo.kiosk_host, "layer", "publish", layer)
            facts.append(layer)


def change_recipe(demo: Demo) -> None:
    """One more package: what a day's change of a recipe looks like."""
    recipe = demo.home / f"recipes/images/{IMAGE}.toml"
    text = recipe.read_text()
    changed = text.replace("packages = [", 'packages = [\n  "less",', 1)
    if changed == text:
        raise KioskError("found no list of packages to add to", where=str(recipe))
    files.write(recipe, changed.encode())
    say(f"\n   (added the package less to {recipe})")


@contextlib.contextmanager
def serving(demo: Demo) -> Iterator[tuple[str, str]]:
    """A static web server over the repository and a real Squid in front of it, both on loopback."""
    from kiosk.serve import squid

    web = free_port()
    url = f"http://127.0.0.1:{web}"
    folder = demo.home / "squid"
    files.remove_tree(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            service(
                [*demo.kiosk, "serve", "--listen", f"127.0.0.1:{web}"],
                log_to=demo.home / "serve.log",
                env=demo.kiosk_host,
            )
        )
        wait_for(web, demo.home / "serve.log")
        proxy = stack.enter_context(squid.running(folder, port=free_port(), kiosk=url))
        yield url, proxy


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


def wait_for(port: int, log: Path) -> None:
    """Waits until something listens on a loopback port, 30 s at most."""
    for _ in range(300):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise NetworkError(f"nothing listens on port {port} after 30 s", where=str(log))


def sync(demo: Demo, hypervisor: dict[str, str], title: str, *, first: bool) -> None:
    """Brings the hypervisor up to date and shows what moved."""
    with demo.step(title) as facts:
        words = ["sync", "--json", *(["--root", str(demo.home / "root.json")] if first else [])]
        done = json.loads(demo.do(hypervisor, *words, capture=True))
        table(
            ["name", "version", "state", "size#", "moved#", "by", "already here#", "requests#"],
            [
                (r["name"], r["version"], r["state"], size(r["size"]), size(r["moved"]),
                 " and ".join(sorted(set(r["ways"].values()))), size(r["reused"]), r["requests"])
                for r in done["results"]
            ],
        )  # fmt: skip
        if not first:
            demo.do(hypervisor, "diff", IMAGE)
        facts.append(f"{size(done['moved'])} moved in {done['requests']} requests")


def boot(demo: Demo, hypervisor: dict[str, str], keep: bool) -> None:
    """A VM with both layers: what it says it is, and a command that came with the experiment's layer."""
    with demo.step("Boot a VM with both layers") as facts:
        words = [word for layer in LAYERS for word in ("--layer", layer)]
        demo.do(hypervisor, "vm", "start", IMAGE, "--name", "node-1", *words, timeout=900)
        facts.append("ready")
    with demo.step("Ask it what it is, and run the experiment's own command in it"):
        demo.do(hypervisor, "vm", "report", "node-1")
        demo.do(hypervisor, "vm", "exec", "node-1", "--", "/opt/experiment/demo/bin/hello")
    if not keep:
        with demo.step("Stop it"):
            demo.do(hypervisor, "vm", "stop", "node-1")
