"""Layers made to do harm, signed by their rightful owner: neither published nor booted.

Every image is hostile in one way and made without kiosk's help. `kiosk layer publish` opens it again as data
and refuses it; and were it published all the same, the guest refuses it as well.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kiosk.build import layer
from kiosk.errors import KioskError, PolicyError
from kiosk.model.manifest import LayerPolicy
from tests.contextualize.guest import Guest

BASE = layer.Base(
    "debian-12-minimal@20260301.1",
    frozenset(
        (
            "/etc/passwd",
            "/etc/profile.d",
            "/etc/kiosk/demo-base",
            "/usr/lib/systemd/system/demo-own.service",
        )
    ),
    LayerPolicy(etc=("/etc/kiosk/*", "/etc/profile.d/*")),
)
UNIT = "[Service]\nUser=demo\nExecStart=/opt/experiment/demo/bin/x\n"
USER = {"name": "demo", "uid": 50990}


@dataclass(frozen=True)
class Attack:
    """A layer's files, pseudo files (mksquashfs -p), declarations, and what is said to each of them."""

    story: str
    expected: str
    files: dict[str, str] = field(default_factory=dict)
    pseudo: Sequence[str] = ()
    declares: dict[str, Any] = field(default_factory=dict)
    swap: tuple[bytes, bytes] | None = None
    guest: str | None = ""
    """What the guest says where that differs; None where its kernel would not even mount the image."""


ATTACKS = [
    Attack("a block device", "is a device", pseudo=["disk b 666 0 0 254 0"]),
    Attack("a character device", "is a device", pseudo=["mem c 666 0 0 1 1"]),
    Attack("a program that runs as root", "is set-user-ID", pseudo=["su f 4755 0 0 echo x"]),
    Attack(
        "a program that runs as a group", "is set-user-ID or set-group-ID", pseudo=["sg f 2755 0 0 echo x"]
    ),
    Attack("a file of another user", "belongs to 1000:1000", pseudo=["x f 644 1000 1000 echo x"]),
    Attack("an absolute link to what anybody writes", "links to '/tmp/x'", pseudo=["l s 777 0 0 /tmp/x"]),
    Attack("a link that climbs out", "links to '/run/x'", pseudo=["l s 777 0 0 ../../../run/x"]),
    Attack(
        "a link that climbs after going in", "can't be followed safely", pseudo=["l s 777 0 0 a/../../../x"]
    ),
    Attack(
        "a file whose name has a line break, posing as two",
        "can't be read",
        files={"good\nevil": "x"},
        guest="not a plain relative path",
    ),
    Attack(
        "a name that climbs out",
        "not a readable SquashFS",
        files={"AAAAAAA": "x"},
        swap=(b"AAAAAAA", b"../../x"),
        guest=None,
    ),
    Attack(
        "a file over one of the base",
        "the base has one of its own",
        files={"p": "x"},
        declares={"files": [{"path": "/etc/kiosk/demo-base", "source": "p"}]},
    ),
    Attack(
        "a file where the policy opens nothing",
        "an experiment's are /etc/kiosk/demo-NAME",
        files={"p": "x"},
        declares={"files": [{"path": "/etc/other/me", "source": "p"}]},
    ),
    Attack(
        "a file in everybody's shells",
        "an experiment's are /etc/kiosk/demo-NAME",
        files={"p": "x"},
        declares={"files": [{"path": "/etc/profile.d/00.sh", "source": "p"}]},
    ),
    Attack(
        "a file that the site's own tools read",
        "an experiment's are /etc/kiosk/demo-NAME",
        files={"p": "x"},
        declares={"files": [{"path": "/etc/kiosk/jobslots", "source": "p"}]},
    ),
    Attack(
        "the account of a batch system's admin",
        "an experiment's users and groups are demo or begin with demo-",
        declares={"users": [{**USER, "name": "lsfadmin"}]},
    ),
    Attack(
        "an account among the site's people",
        "has 50000 to 59999 for experiments",
        declares={"users": [{**USER, "uid": 1000}]},
    ),
    Attack(
        "a service whose settings would be those of others",
        "its name must be demo-NAME.service",
        files={"demo-.service": UNIT},
        declares={"services": ["demo-.service"], "users": [USER]},
    ),
    Attack(
        "a service that takes a folder of the system's",
        "must be kiosk-layer-demo",
        files={"demo-x.service": UNIT + "RuntimeDirectory=demo\n"},
        declares={"services": ["demo-x.service"], "users": [USER]},
    ),
    Attack(
        "a file that no policy can open",
        "no layer may add it",
        files={"p": "x"},
        declares={"files": [{"path": "/etc/sudoers.d/me", "source": "p"}]},
    ),
    Attack(
        "a path that leaves /etc by the back door",
        "not a plain path below /etc",
        files={"p": "x"},
        declares={"files": [{"path": "/etc/kiosk/../passwd", "source": "p"}]},
    ),
    Attack(
        "a source outside the layer",
        "not a plain path inside the layer",
        declares={"files": [{"path": "/etc/kiosk/demo-x", "source": "../../etc/shadow"}]},
    ),
    Attack(
        "a source that is a link to a secret",
        "is not a file of the layer",
        pseudo=["p s 777 0 0 /etc/shadow"],
        declares={"files": [{"path": "/etc/kiosk/demo-x", "source": "p"}]},
        guest="apply: ",
    ),
    Attack(
        "a source below a folder that is a link",
        "is not a file of the layer",
        pseudo=["d s 777 0 0 /etc/ssl"],
        declares={"files": [{"path": "/etc/kiosk/demo-x", "source": "d/key"}]},
        guest="is not a folder",
    ),
    Attack(
        "a file that would fill the memory",
        "larger than 1048576 bytes",
        pseudo=["big f 644 0 0 head -c 3000000 /dev/zero"],
        declares={"files": [{"path": "/etc/kiosk/demo-x", "source": "big"}]},
    ),
    Attack(
        "the same file twice",
        "declares file /etc/kiosk/demo-x twice",
        files={"p": "x"},
        declares={"files": [{"path": "/etc/kiosk/demo-x", "source": "p"}] * 2},
    ),
    Attack(
        "the same user twice", "declares user demo twice", declares={"users": [USER, {**USER, "uid": 50991}]}
    ),
    Attack(
        "two users with one number",
        "declares uid 50990 twice",
        declares={"users": [USER, {**USER, "name": "demo-d"}]},
    ),
    Attack("a user with the number of root", "users[0]: uid", declares={"users": [{**USER, "uid": 0}]}),
    Attack("a user at home in root's", "the home '/root'", declares={"users": [{**USER, "home": "/root"}]}),
    Attack(
        "a user with a line break",
        "users[0]: comment",
        declares={"users": [{**USER, "comment": "x\nu evil 0"}]},
    ),
    Attack(
        "a variable that loads code", "variable LD_PRELOAD", declares={"environment": {"LD_PRELOAD": "/x.so"}}
    ),
    Attack("a variable of the site's", "begin with DEMO_", declares={"environment": {"SITE_NAME": "X"}}),
    Attack(
        "a variable with a command", "environment.DEMO_X", declares={"environment": {"DEMO_X": "$(reboot)"}}
    ),
    Attack("a declaration that nobody knows", "'kernel': unknown key", declares={"kernel": "evil"}),
    Attack(
        "a service that runs as root",
        "must have User=",
        files={"demo-x.service": UNIT.replace("User=demo", "User=root")},
        declares={"services": ["demo-x.service"], "users": [USER]},
    ),
    Attack(
        "a service under the name of one of the base",
        "the base has one of its own",
        files={"demo-own.service": UNIT},
        declares={"services": ["demo-own.service"], "users": [USER]},
    ),
    Attack(
        "a service under somebody else's name",
        "its name must be demo-NAME.service",
        files={"ssh.service": UNIT},
        declares={"services": ["ssh.service"], "users": [USER]},
    ),
]


def image(home: Path, attack: Attack) -> bytes:
    """The attack's image, made with mksquashfs and bent where the attack says so."""
    tree, made = home / "tree", home / "evil.squashfs"
    tree.mkdir()
    for name, content in attack.files.items():
        (tree / name).write_text(content)
    argv = [
        "mksquashfs",
        tree,
        made,
        "-noappend",
        "-root-owned",
        "-no-xattrs",
        "-noI",
        "-quiet",
        "-no-progress",
    ]
    argv = [a for a in argv if a != "-root-owned"]
    for line in attack.pseudo:
        argv += ["-p", line]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    data = made.read_bytes()
    if attack.swap is not None:
        assert attack.swap[0] in data
        data = data.replace(*attack.swap)
    return data


def built(home: Path, data: bytes, declares: dict[str, Any], **changes: object) -> Path:
    """A folder as `kiosk layer build` leaves it."""
    folder = home / "built"
    folder.mkdir()
    (folder / layer.IMAGE).write_bytes(data)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    manifest = {
        "schema": "kiosk.layer/1",
        "kind": "experiment",
        "owner": "demo",
        "name": "software",
        "version": "1",
        "created": "2026-03-01T00:00:00Z",
        "prefix": "/opt/experiment/demo",
        "images": ["debian-12-minimal"],
        "declares": declares,
        "artifacts": {"layer": {"file": layer.IMAGE, "size": len(data), "digest": digest}},
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.story)
def test_it_is_not_published(tmp_path: Path, attack: Attack) -> None:
    folder = built(tmp_path, image(tmp_path, attack), attack.declares)
    with pytest.raises(KioskError) as refused:
        layer.check(folder, [BASE])
    assert refused.value.exit_code in (PolicyError.exit_code, 5)
    if refused.value.exit_code == PolicyError.exit_code:
        assert attack.expected in str(refused.value)


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.guest is not None], ids=lambda a: a.story)
def test_it_does_not_boot(tmp_path: Path, attack: Attack) -> None:
    guest = Guest(tmp_path / "guest")
    guest.write("/usr/lib/systemd/system/demo-own.service", b"")
    guest.write("/etc/shadow", b"secret\n")
    guest.write("/etc/kiosk/demo-base", b"the base's own\n")
    guest.add_layer("experiment/demo/software", image(tmp_path, attack), attack.declares)
    assert guest.boot() == 1
    assert (attack.guest or attack.expected) in guest.refused()
    assert not guest.machine.exists("/etc/kiosk/demo-x")
    assert not guest.machine.asked


def test_a_good_layer_is_let_through(tmp_path: Path) -> None:
    good = Attack("good", "", files={"p": "x", "demo-x.service": UNIT})
    declares = {
        "files": [{"path": "/etc/kiosk/demo-x", "source": "p"}],
        "services": ["demo-x.service"],
        "users": [USER],
        "environment": {"DEMO_X": "1"},
    }
    data = image(tmp_path, good)
    layer.check(built(tmp_path, data, declares), [BASE])
    guest = Guest(tmp_path / "guest")
    guest.add_layer("experiment/demo/software", data, declares)
    assert guest.boot() == 0


def test_a_prefix_that_the_base_fills(tmp_path: Path) -> None:
    data = image(tmp_path, Attack("good", "", files={"p": "x"}))
    base = layer.Base("base@1", frozenset(("/opt/experiment/demo", "/opt/experiment/demo/x")), LayerPolicy())
    with pytest.raises(PolicyError, match="which the layer would hide"):
        layer.check(built(tmp_path, data, {}), [base])
    guest = Guest(tmp_path / "guest")
    guest.write("/opt/experiment/demo/x", b"the base's own\n")
    guest.add_layer("experiment/demo/software", data)
    assert guest.boot() == 1
    assert "which the layer would hide" in guest.refused()


def test_a_manifest_that_asks_for_another_prefix(tmp_path: Path) -> None:
    data = image(tmp_path, Attack("good", "", files={"p": "x"}))
    with pytest.raises(PolicyError, match="its prefix is /usr"):
        layer.check(built(tmp_path, data, {}, prefix="/usr"), [BASE])


@pytest.mark.parametrize("what", ["user", "number", "group"])
def test_an_account_of_the_base(tmp_path: Path, what: str) -> None:
    user = {
        "user": {"name": "demo-old", "uid": 50990},
        "number": {"name": "demo-x", "uid": 50201},
        "group": {"name": "demo-group", "uid": 50990},
    }
    guest = Guest(tmp_path / "guest")
    guest.write(
        "/etc/passwd", b"root:x:0:0:root:/root:/bin/bash\ndemo-old:x:202:202::/:\nold:x:50201:9::/:\n"
    )
    guest.write("/etc/group", b"root:x:0:\ndemo-group:x:211:\n")
    guest.add_layer(
        "experiment/demo/software", image(tmp_path, Attack("", "", files={"p": "x"})), {"users": [user[what]]}
    )
    assert guest.boot() == 1
    assert "the base's /etc/" in guest.refused()


def test_a_link_of_the_base_is_not_written_through(tmp_path: Path) -> None:
    guest = Guest(tmp_path / "guest")
    (guest.root / "etc/kiosk").symlink_to("profile.d")
    data = image(tmp_path, Attack("", "", files={"p": "evil"}))
    guest.add_layer(
        "experiment/demo/software", data, {"files": [{"path": "/etc/kiosk/demo-x", "source": "p"}]}
    )
    assert guest.boot() == 1
    assert guest.refused() == "apply: /etc/kiosk: not a folder"
    assert not (guest.root / "etc/profile.d/x").exists()


def test_two_layers_that_both_declare_a_user(tmp_path: Path) -> None:
    guest = Guest(tmp_path / "guest")
    data = image(tmp_path, Attack("", "", files={"p": "x"}))
    guest.add_layer("site/example/base", data, {"users": [USER]})
    guest.add_layer("experiment/demo/software", data, {"users": [{**USER, "uid": 50995}]})
    assert guest.boot() == 1
    assert guest.refused() == "apply: site/example/base and experiment/demo/software both declare user demo"
    assert "demo" not in guest.text("/etc/passwd")


def test_two_layers_at_one_prefix(tmp_path: Path) -> None:
    guest = Guest(tmp_path / "guest")
    data = image(tmp_path, Attack("", "", files={"p": "x"}))
    guest.add_layer("experiment/demo/software", data)
    guest.add_layer("experiment/demo/data", data)
    assert guest.boot() == 1
    assert "would both be mounted at /opt/experiment/demo" in guest.refused()


@pytest.mark.parametrize(
    ("offset", "value", "expected"),
    [
        (0, b"xxxx", "is not a SquashFS image"),
        (4, b"\xff\xff\xff\xff", "has more than"),
        (40, b"\0\0\0\0\0\1\0\0", "but its signed size is"),
        (56, b"\x60\0\0\0\0\0\0\0", "has extended attributes"),
    ],
)
def test_a_superblock_that_lies(tmp_path: Path, offset: int, value: bytes, expected: str) -> None:
    data = bytearray(image(tmp_path, Attack("", "", files={"p": "x"})))
    data[offset : offset + len(value)] = value
    with pytest.raises(PolicyError, match=expected):
        layer.check(built(tmp_path, bytes(data), {}), [BASE])
    guest = Guest(tmp_path / "guest")
    guest.add_layer("experiment/demo/software", bytes(data))
    assert guest.boot() == 1
    assert expected in guest.refused()
