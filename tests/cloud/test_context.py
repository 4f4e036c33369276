"""What a user's file adds to a VM's context; a mistake is told before a VM is started, and a secret is never shown."""

from __future__ import annotations

import base64
import json
import re
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contextualize import context as guest
from contextualize.document import LayerName
from contextualize.manifest import Declared, Declares, FarmSettings
from kiosk import order
from kiosk.cloud import context, context_disk
from kiosk.cloud.api import VmSpec
from kiosk.cloud.context_schema import schema
from kiosk.cloud.qemu import argv
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.errors import PolicyError, UsageError
from kiosk.model.flavour import FLAVOURS
from kiosk.model.names import ImageRef
from tests.cloud.test_argv import RECORD, UEFI, values

SECRET = base64.b64encode(b"not for eyes, and of a length that munge takes").decode()
FARM = {"kind": "slurm", "name": "main", "settings": {"controllers": "ctl"}, "secrets": {"munge_key": SECRET}}
WORDS: dict[str, Any] = {
    "uuid": "0c0ffee0-0000-4000-8000-000000000001",
    "name": "node-1",
    "image": ImageRef.parse("w@1"),
    "layers": [],
}


def file(folder: Path, content: object, mode: int = 0o600) -> Path:
    path = folder / "context.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def made(more: dict[str, Any], lifetime: int | None = None) -> guest.Context:
    return guest.parse(context.data(context.document(**WORDS, lifetime=lifetime, more=more)))


def test_a_file_adds_to_what_kiosk_says(tmp_path: Path) -> None:
    more = context.given(file(tmp_path, {"farm": FARM, "scratch": {"swap": 512}, "life": {"jitter": 60}}))
    found = made(more, lifetime=3600)
    assert found.farm is not None and found.farm.secrets == {"munge_key": base64.b64decode(SECRET)}
    assert found.scratch == guest.Scratch("scratch", "/scratch", 512)
    assert found.life == guest.Life(3600, 60)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a JSON object"),
        ({"node": {}}, "'node' is not for this file"),
        ({"colour": 1}, "'colour' is not for this file"),
        (" " * (guest.LIMIT + 1), "larger than a context may be"),
    ],
)
def test_a_file_that_does_not_fit_is_told(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        context.given(file(tmp_path, content))


@pytest.mark.parametrize(
    "more",
    [
        {"life": {"age": 7200}},
        {"life": []},
        {"scratch": {"device": "other"}},
        {"farm": {**FARM, "kind": "?"}},
        {"farm": {**FARM, "secrets": {"munge_key": "?"}}},
        {"farm": {**FARM, "kind": "pbs"}},
        {"farm": {**FARM, "settings": {"server": "ctl"}}},
        {"farm": {**FARM, "settings": {"controllers": "a b"}}},
        {"farm": {**FARM, "secrets": {"munge": SECRET}}},
        {"network": {"address": "here"}},
    ],
)
def test_a_mistake_is_told_before_a_vm_is_started(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        made(more, lifetime=3600)
    assert SECRET not in str(caught.value)


SITE = LayerName.parse("site/a/base")
DEMO = LayerName.parse("experiment/demo/software")


def declares(**what: Any) -> Declares:
    return Declares({}, (), (), (), **what)


@pytest.mark.parametrize(
    ("more", "layers", "words"),
    [
        ({"hooks": {"prolog": "true"}}, [], "no site layer of this machine allows hooks"),
        (
            {"user_data": "#!/bin/sh"},
            [(DEMO, declares(allows=("user-data",)))],
            "no site layer of this machine",
        ),
        (
            {"farm": {**FARM, "settings": {}}},
            [(SITE, declares(farms={"main": FarmSettings("slurm", {"partition": "p"})}))],
            "the setting controllers is missing",
        ),
        (
            {"farm": FARM},
            [(SITE, declares(farms={"main": FarmSettings("slurm", {"controllers": "other"})}))],
            "the context's controllers differs from what site/a/base has signed",
        ),
        (
            {},
            [(SITE, declares(health=("x",))), (DEMO, declares()), (DEMO, declares())],
            "both declare prefix /opt/experiment/demo",
        ),
    ],
)
def test_what_the_guest_would_find_in_its_layers_is_told_before_a_vm_is_started(
    more: dict[str, Any], layers: list[Declared], words: str
) -> None:
    told = context.document(**WORDS, lifetime=None, more=more)
    with pytest.raises(PolicyError, match=words):
        context.agree(told, layers)


def test_a_site_that_allows_and_declares_what_is_asked_for() -> None:
    more = {"farm": {**FARM, "settings": {}}, "hooks": {"prolog": "true"}}
    signed = {"main": FarmSettings("slurm", {"controllers": "ctl"})}
    told = context.document(**WORDS, lifetime=None, more=more)
    context.agree(told, [(SITE, declares(allows=("hooks",), farms=signed))])


def test_a_plan_asks_its_layers(cloud: QemuCloud, tmp_path: Path) -> None:
    told = file(tmp_path, {"hooks": {"prolog": "true"}})
    asked = order.Order("worker", ("site/a/base",), "tiny", "node-1", None, True, context=told)
    with pytest.raises(PolicyError, match="no site layer of this machine allows hooks"):
        order.plan(cloud.cache, asked)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_file_with_secrets_is_its_owners_alone(tmp_path: Path, mode: int) -> None:
    with pytest.raises(PolicyError, match="holds secrets, and others than its owner") as caught:
        context.given(file(tmp_path, {"farm": FARM}, mode))
    assert "chmod 600" in str(caught.value)
    assert context.given(file(tmp_path, {"life": {"age": 60}}, mode))


def test_secrets_are_neither_in_the_plan_nor_in_the_command_nor_in_any_file_that_others_read(
    cloud: QemuCloud, tmp_path: Path
) -> None:
    told = file(tmp_path, {"farm": FARM})
    asked = order.Order("worker", (), "tiny", "node-1", None, True, source="opennebula")
    planned = replace(order.plan(cloud.cache, asked), context=context.given(told))
    assert SECRET not in repr(planned)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    spec = VmSpec(
        name="node-1", image=planned.image, layers=(), flavour=FLAVOURS["tiny"], bundle=bundle,
        source=planned.source, context=planned.context,
    )  # fmt: skip
    assert SECRET not in repr(spec)
    state = replace(cloud, boot="uefi").start(spec)
    folder = cloud.folder(state.id)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / argv.CONTEXT).stat().st_mode) == 0o600
    packed = (folder / argv.CONTEXT).read_bytes().partition(b"KIOSK_CONTEXT_BASE64='")[2].partition(b"'")[0]
    assert packed
    assert SECRET not in (folder / "vm.json").read_text() + (folder / argv.QEMU_LOG).read_text()
    assert not [p for p in folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


@pytest.mark.parametrize("source", context_disk.LABELS)
def test_a_context_disk_is_readable_by_its_owner_alone(tmp_path: Path, source: context.Source) -> None:
    disk = tmp_path / "context.img"
    told = context.document(**WORDS, lifetime=None)
    context_disk.make_disk(disk, told, tmp_path, source)
    assert stat.S_IMODE(disk.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["context.img"]


# -- EC2 --------------------------------------------------------------------------------------------------


def test_a_guest_of_ec2_has_no_context_disk_and_reaches_its_own_service_alone() -> None:
    words = argv.command(RECORD.model_copy(update={"network": True, "source": "ec2"}), UEFI)
    assert "context" not in " ".join(words)
    (net,) = values(words, "-netdev")
    assert net.endswith(",guestfwd=tcp:169.254.169.254:80-chardev:metadata")
    assert "socket,id=metadata,path=metadata.sock,server=on,wait=off" in values(words, "-chardev")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"context": {}}, "the guest must know where to fetch it"),
        ({"network": False}, "needs a network"),
    ],
)
def test_what_can_not_be_told_by_ec2_is_refused(cloud: QemuCloud, change: dict[str, Any], words: str) -> None:
    spec = VmSpec(
        name="node-1", image=ImageRef.parse("worker@1"), layers=(), flavour=FLAVOURS["tiny"], 
        bundle=Path("/nonexistent"),
        source="ec2", context={"repository": {"url": "http://kiosk"}},
    )  # fmt: skip
    with pytest.raises(UsageError, match=words):
        cloud.start(replace(spec, **change))
    with pytest.raises(UsageError, match="has no such line"):
        replace(cloud, boot="uefi").start(spec)
    assert not cloud.list_vms()


# -- kiosk context ----------------------------------------------------------------------------------------


def kiosk(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    words = (sys.executable, "-m", "kiosk", "context", *words)
    return subprocess.run(words, input=stdin, capture_output=True, text=True, check=False, timeout=60)


def test_a_document_is_checked_as_a_guest_does(tmp_path: Path) -> None:
    more = {"farm": FARM, "hooks": {"prolog": "true"}, "root_keys": [f"ssh-ed25519 {'A' * 68}"]}
    told = context.data(context.document(**WORDS, lifetime=3600, more=more)).decode()
    done = kiosk("check", "-", stdin=told)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert (lines["farm"], lines["secrets"], lines["allows"]) == (
        "main (slurm)",
        "munge_key",
        "hooks, root-login",
    )
    assert json.loads(kiosk("check", "-", "--json", stdin=told).stdout)["digest"].startswith("sha256:")
    wrong = kiosk("check", str(file(tmp_path, told.replace("node-1", "node_1"))))
    assert (wrong.returncode, wrong.stdout) == (UsageError.exit_code, "")
    assert "a guest would refuse this: context: node: name: 'node_1' is not valid" in wrong.stderr
    unknown = kiosk("check", "-", stdin=told.replace('"controllers"', '"server"'))
    assert unknown.returncode == UsageError.exit_code
    assert "a guest would refuse this: farm main (slurm): unknown setting server; it has " in unknown.stderr


def test_a_document_for_many_machines_is_checked_too() -> None:
    told = context.document(**WORDS, lifetime=3600, more={"life": {"jitter": 600}})
    del told["node"]
    done = kiosk("check", "-", stdin=context.data(told).decode())
    assert done.returncode == 0, done.stderr
    assert "node        as ec2, configdrive or opennebula know it\n" in done.stdout
    assert "drains      3000 to 3600 s after its start\n" in done.stdout


def test_the_schema_is_printed() -> None:
    published = Path(__file__).parents[2] / "docs/context.schema.json"
    assert kiosk("schema").stdout == published.read_text()


def test_the_page_says_what_the_command_says_and_leaves_no_key_out(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/context.md").read_text()
    smallest, larger = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    guest.parse(smallest.encode())
    said = kiosk("check", str(file(tmp_path, larger))).stdout
    assert "".join(f"    {line}\n" for line in said.splitlines()) in page
    keys = set(re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE))
    assert set(schema()["properties"]) - keys == {"schema"}
