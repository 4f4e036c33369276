"""The one source of a machine's context: the same machine whatever it was told by, and none where it is not clear."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest

from contextualize.boot import boot
from contextualize.context import LIMIT
from contextualize.errors import Refused
from contextualize.sources.find import find
from contextualize.stages import context as stage
from contextualize.stages.report import Reporter
from kiosk.cloud import context_disk
from kiosk.cloud.context import Source
from tests.contextualize.guest import FolderMachine, Guest

Squashfs = Callable[[dict[str, str]], bytes]
LINKS: dict[Source, str] = {s: f"/dev/disk/by-label/{label}" for s, label in context_disk.LABELS.items()}
TIMES = ("ready", "drains", "stops", "boot_seconds", "stage_seconds")


def only(guest: Guest, source: Source) -> Guest:
    """The guest with one context disk, as the cloud of that source makes it."""
    (guest.root / "dev/disk/by-label/CIDATA").unlink(missing_ok=True)
    guest.sign()
    disk = guest.root.parent / f"{source}.img"
    context_disk.make_disk(disk, guest.context, guest.disk / "kiosk", source)
    guest.write(LINKS[source], disk.read_bytes())
    guest.machine.disks = [("/dev/vda1", ""), ("/dev/vdc", context_disk.LABELS[source])]
    return guest


def words(guest: Guest, *more: str) -> Guest:
    """The guest with more words on its kernel's command line."""
    guest.write("/proc/cmdline", f"{guest.text('/proc/cmdline').strip()} {' '.join(more)}\n".encode())
    return guest


def open_nebula(guest: Guest, variables: str, **scripts: str) -> Guest:
    """The guest with a hand-made context disk of OpenNebula."""
    (guest.root / "dev/disk/by-label/CIDATA").rename(guest.root / "dev/disk/by-label/CONTEXT")
    guest.sign()
    (guest.disk / "user-data").rename(guest.disk / "document")
    (guest.disk / "context.sh").write_text(variables.replace("DOCUMENT", json.dumps(guest.context)))
    for name, text in scripts.items():
        (guest.disk / f"{name}.sh").write_text(text)
    return guest


def test_the_same_document_gives_the_same_attestation_but_for_its_source(guest: Guest) -> None:
    attested: dict[str, Any] = {}
    for source in LINKS:
        only(guest, source)
        root = guest.root.parent / source
        shutil.copytree(guest.root, root)
        machine = FolderMachine(root, guest.disk)
        machine.disks = guest.machine.disks
        assert boot(machine, Reporter(machine, patience=1)) == 0
        found = json.loads((root / "run/kiosk/attestation.json").read_text())
        assert found["context"].pop("source") == f"{source}:{LINKS[source]}"
        attested[source] = {k: v for k, v in found.items() if k not in TIMES}
        (guest.root / LINKS[source].lstrip("/")).unlink()
    assert attested["nocloud"] == attested["configdrive"] == attested["opennebula"]
    assert attested["nocloud"]["context"]["digest"].startswith("sha256:")
    assert attested["nocloud"]["context"]["scripts"] == {}


def test_the_bundle_is_in_the_folder_of_the_disk_and_is_none_where_none_came(guest: Guest) -> None:
    only(guest, "configdrive")
    told = find_in(guest)
    assert told.bundle is not None and (told.bundle / "metadata/timestamp.json").is_file()
    guest.machine.unmount(stage.MOUNT)
    guest.repository.write(guest.disk / "unused")
    shutil.rmtree(guest.disk / "kiosk")
    (guest.root / LINKS["configdrive"].lstrip("/")).unlink()
    guest.write("/dev/disk/by-label/CIDATA", b"")
    guest.machine.disks = []
    assert find_in(guest).bundle is None


def find_in(guest: Guest) -> Any:
    for folder in ("/run/kiosk", "/run/kiosk/private"):
        guest.machine.folder(folder, 0o700)
    return find(guest.machine)


@pytest.mark.parametrize("second", ["CIDATA", "cidata", "config-2", "CONTEXT"])
def test_two_disks_that_look_like_a_source_end_the_machine(guest: Guest, second: str) -> None:
    guest.machine.disks = [("/dev/vdc", "CIDATA"), ("/dev/sr0", second), ("/dev/vda1", "root")]
    assert guest.boot() == 1
    assert guest.refused() == (
        f"context: more than one disk looks like a source of context: /dev/sr0 ({second}), /dev/vdc (CIDATA)"
    )


def test_the_kernels_word_fixes_the_source_among_several(guest: Guest) -> None:
    only(guest, "opennebula")
    guest.write("/dev/disk/by-label/CIDATA", b"not looked at")
    guest.machine.disks = [("/dev/vdc", "CONTEXT"), ("/dev/vdd", "CIDATA")]
    assert words(guest, "kiosk.context=opennebula").boot(signed=True) == 0
    found = json.loads(guest.text("/run/kiosk/attestation.json"))
    assert found["context"]["source"] == "opennebula:/dev/disk/by-label/CONTEXT"


def test_a_source_that_the_kernel_names_and_that_is_not_there_ends_the_machine(guest: Guest) -> None:
    assert words(guest, "kiosk.context=configdrive").boot() == 1
    assert guest.refused().startswith(
        "context: /dev/disk/by-label/config-2 or /dev/disk/by-label/CONFIG-2 did not"
    )


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["kiosk.context=floppy"], "kiosk.context=floppy on the kernel's command line is none of nocloud"),
        (["kiosk.context=nocloud", "kiosk.context=ec2"], "kiosk.context= is twice"),
        (["kiosk.context=cmdline"], "says kiosk.context=cmdline, and has no kiosk.context_base64="),
        (["kiosk.context=ec2", "kiosk.context_base64=e30="], "says kiosk.context=ec2, and has a"),
        (["kiosk.context_base64=e30"], "is not base64 (was it cut off?)"),
        (["kiosk.context_base64=e30="], "context: schema: missing"),
    ],
)
def test_words_that_fit_nothing_end_the_machine(guest: Guest, more: list[str], expected: str) -> None:
    assert words(guest, *more).boot() == 1
    assert expected in guest.refused()


def test_a_small_document_can_stand_on_the_kernels_command_line(guest: Guest) -> None:
    packed = base64.b64encode(gzip.compress(json.dumps(guest.context).encode())).decode()
    words(guest, f"kiosk.context_base64={packed}")
    found = stage.run(guest.machine)
    assert (found.source, found.bundle, found.context.node_name) == ("cmdline", None, "node-7.example.org")
    assert not guest.machine.mounts
    stage.release(guest.machine)


def test_secrets_do_not_stand_where_every_user_can_read_them(guest: Guest) -> None:
    guest.context["farm"] = {"kind": "slurm", "name": "main", "secrets": {"key": "c2VjcmV0"}}
    packed = base64.b64encode(json.dumps(guest.context).encode()).decode()
    assert words(guest, f"kiosk.context_base64={packed}").boot() == 1
    assert (
        guest.refused()
        == "context: the context has secrets, and every user can read the kernel's command line"
    )
    assert "c2VjcmV0" not in json.dumps(guest.reports())


@pytest.mark.parametrize("part", [{"hooks": {"epilog": "x"}}, {"user_data": "#!/bin/sh\n"}])
def test_scripts_do_not_stand_there_either(guest: Guest, part: dict[str, Any]) -> None:
    guest.context.update(part)
    packed = base64.b64encode(json.dumps(guest.context).encode()).decode()
    assert words(guest, f"kiosk.context_base64={packed}").boot() == 1
    assert guest.refused().startswith("context: the context has scripts, which can hold secrets")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: gzip.compress(data)[:-9], "cut off"),
        (lambda data: gzip.compress(data) + b"more", "something behind it"),
        (lambda data: b"\x1f\x8b" + data, "not valid gzip"),
        (lambda data: gzip.compress(data + b" " * LIMIT), "larger than"),
        (lambda data: gzip.compress(b" " * (200 << 20), 1), "larger than"),
    ],
)
def test_a_packed_document_is_unpacked_within_its_bounds(
    guest: Guest, change: Callable[[bytes], bytes], expected: str
) -> None:
    guest.sign()
    document = guest.disk / "user-data"
    good = document.read_bytes()
    document.write_bytes(gzip.compress(good))
    assert find_in(guest).document == good
    guest.machine.unmount(stage.MOUNT)
    document.write_bytes(change(good))
    with pytest.raises(Refused, match=expected):
        stage.run(guest.machine)


# -- OpenNebula -------------------------------------------------------------------------------------------


def test_a_plain_document_with_quotes_in_it_and_the_variables_beside_it(guest: Guest) -> None:
    guest.context["user_data"] = "it's"
    open_nebula(guest, "# by hand\nTARGET='hda'\nKIOSK_CONTEXT='DOCUMENT'\n")
    text = (guest.disk / "context.sh").read_text()
    (guest.disk / "context.sh").write_text(text.replace("it's", "it'\\''s"))
    found = stage.run(guest.machine)
    assert found.context.user_data == "it's"
    assert found.variables == {"TARGET": "hda"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ("TARGET='hda'\n", "must have one of KIOSK_CONTEXT and KIOSK_CONTEXT_BASE64"),
        ("KIOSK_CONTEXT='{}'\nKIOSK_CONTEXT_BASE64='e30='\n", "must have one of"),
        ("KIOSK_CONTEXT_BASE64='e30'\n", "KIOSK_CONTEXT_BASE64 is not base64"),
        ("KIOSK_CONTEXT='DOCUMENT'\nSTART_SCRIPT='reboot'\n", "START_SCRIPT is not done here"),
        ("KIOSK_CONTEXT='DOCUMENT'\nreboot\n", "context.sh: line 2: not NAME='value'"),
    ],
)
def test_an_opennebula_context_that_is_not_clear_ends_the_machine(
    guest: Guest, variables: str, expected: str
) -> None:
    assert open_nebula(guest, variables).boot(signed=True) == 1
    assert expected in guest.refused()


def test_one_document_is_for_all_machines_of_an_openstack(guest: Guest) -> None:
    del guest.context["node"]
    (guest.root / "dev/disk/by-label/CIDATA").rename(guest.root / "dev/disk/by-label/config-2")
    guest.sign()
    latest = guest.disk / "openstack/latest"
    latest.mkdir(parents=True)
    (guest.disk / "user-data").rename(latest / "user_data")
    known = {"uuid": "d8e02d56-2648-49a3-bf97-6be8f1204f38", "hostname": "wn-1.novalocal", "meta": {"a": "b"}}
    (latest / "meta_data.json").write_text(json.dumps(known))
    found = stage.run(guest.machine).context
    own = str(uuid5(NAMESPACE_URL, f"kiosk:configdrive:{known['uuid']}"))
    assert (found.node_name, found.node_id) == ("wn-1.novalocal", own)

    guest.machine.unmount(stage.MOUNT)
    (latest / "meta_data.json").write_text("[")
    with pytest.raises(Refused, match="node: missing, and the source has no id of this machine"):
        stage.run(guest.machine)


@pytest.mark.parametrize(
    ("more", "name"), [("", "{image}-4711"), ("SET_HOSTNAME='wn-1.example.org'\n", "wn-1.example.org")]
)
def test_an_opennebula_vm_is_known_by_its_number(guest: Guest, more: str, name: str) -> None:
    del guest.context["node"]
    found = stage.run(open_nebula(guest, f"KIOSK_CONTEXT='DOCUMENT'\nVMID='4711'\n{more}").machine).context
    assert found.node_name == name.format(image=found.image)
    assert found.node_id == str(uuid5(NAMESPACE_URL, "kiosk:opennebula:4711"))


def test_a_disk_of_nocloud_names_its_machine_in_the_document(guest: Guest) -> None:
    del guest.context["node"]
    assert guest.boot() == 1
    assert guest.refused() == "context: context: node: missing, and the source has no id of this machine"


@pytest.mark.parametrize("hooks", [True, False])
def test_the_attestation_has_the_digests_of_the_files_that_hooks_are_made_of(
    guest: Guest, squashfs: Squashfs, hooks: bool
) -> None:
    guest.add_layer("site/example/base", squashfs({"bin/": ""}), {"allows": ["hooks"]})
    scripts = {"prolog": "true\n", "init": "test $SITE = here\n"} if hooks else {}
    assert open_nebula(guest, "KIOSK_CONTEXT='DOCUMENT'\nSITE='here'\n", **scripts).boot(signed=True) == 0
    names = ("context.sh", "init.sh", "prolog.sh") if hooks else ()
    assert json.loads(guest.text("/run/kiosk/attestation.json"))["context"]["scripts"] == {
        name: f"sha256:{hashlib.sha256((guest.disk / name).read_bytes()).hexdigest()}" for name in names
    }


def test_scripts_beside_the_document_are_its_hooks(guest: Guest) -> None:
    found = stage.run(open_nebula(guest, "KIOSK_CONTEXT='DOCUMENT'\n", prolog="one\n", init="two\n").machine)
    assert (found.context.hooks.prolog, found.context.hooks.epilog) == ("one\n", "two\n")


def test_a_hook_that_is_in_two_places_ends_the_machine(guest: Guest) -> None:
    guest.context["hooks"] = {"epilog": "three"}
    with pytest.raises(Refused, match="the epilog is in the context document and beside it"):
        stage.run(open_nebula(guest, "KIOSK_CONTEXT='DOCUMENT'\n", init="two\n").machine)
    guest.machine.unmount(stage.MOUNT)
    (guest.disk / "epilog.sh").write_text("four")
    with pytest.raises(Refused, match="two names of one thing"):
        stage.run(guest.machine)


def test_a_link_on_the_disk_leads_nowhere(guest: Guest, tmp_path: Path) -> None:
    guest.sign()
    (tmp_path / "shadow").write_text("root:x")
    (guest.disk / "user-data").unlink()
    guest.machine.mount = lambda device, where, kind, options: (  # type: ignore[method-assign]
        guest.machine.path(where) / "user-data"
    ).symlink_to(tmp_path / "shadow")
    with pytest.raises(Refused, match="Too many levels of symbolic links"):
        stage.run(guest.machine)
