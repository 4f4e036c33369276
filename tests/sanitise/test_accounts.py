"""Account files stay consistent and in order; only people, and passwords, go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.model.accounts import AccountPolicy
from kiosk.sanitise import rules
from kiosk.sanitise.accounts import NO_PASSWORD, accounts, revise
from kiosk.sanitise.engine import sanitise
from tests.sanitise import debian

PASSWD = b"""root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
alice:x:1000:1000:Alice:/home/alice:/bin/bash
toor:x:0:0:a second root:/root:/bin/bash
carol:x:1002:100:Carol:/home/carol:/bin/bash
system:$1$old$hash:990:990::/var/lib/system:/bin/false
#mallory:$6$a$b:1003:1003::/home/mallory:/bin/sh
+::::::
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
broken:x:1005
"""
GROUP = b"""root:x:0:
adm:x:4:alice,carol,daemon
sudo:x:27:alice,directory-user
users:x:100:
system:x:990:
alice:x:1000:
software:x:1470:
nogroup:x:65534:
"""


def test_what_stays_is_consistent_and_in_its_order() -> None:
    files = {
        "passwd": PASSWD,
        "group": GROUP,
        "shadow": b"root:$y$j9T$a$b:1::::::\nalice:$6$a$b:1::::::\ncarol:!$6$a$b:1::::::\n"
        b"system:*:1::::::\nlost:$6$a$b:1::::::\n",
        "gshadow": b"root:*::\nadm:!:alice:alice,carol,daemon\nsystem:$6$a$b::\nalice:!::\nlost:$6$a$b::\n",
        "subuid": b"alice:100000:65536\ncarol:165536:65536\n1000:1:1\n",
    }
    outcome = revise(files, AccountPolicy(keep=("carol",)))
    assert outcome.files == {
        "passwd": b"root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
        b"carol:x:1002:100:Carol:/home/carol:/bin/bash\nsystem:x:990:990::/var/lib/system:/bin/false\n"
        b"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        "group": b"root:x:0:\nadm:x:4:carol,daemon\nsudo:x:27:\nusers:x:100:\n"
        b"system:x:990:\nsoftware:x:1470:\nnogroup:x:65534:\n",
        "shadow": b"root:*:1::::::\ncarol:*:1::::::\nsystem:*:1::::::\n",
        "gshadow": b"root:*::\nadm:!::carol,daemon\nsystem:!::\n",
        "subuid": b"carol:165536:65536\n",
    }
    assert [a.name for a in outcome.removed] == [b"alice", b"toor"]
    assert outcome.locked == (b"carol", b"root", b"system")


def test_a_second_time_there_is_nothing_to_do() -> None:
    once = revise({"passwd": PASSWD, "group": GROUP}, AccountPolicy())
    again = revise(once.files, AccountPolicy())
    assert (again.files, again.removed, again.locked) == (once.files, (), ())


@pytest.mark.parametrize("first", [500, 1000])
def test_where_people_begin_is_a_matter_of_policy(first: int) -> None:
    found = revise({"passwd": b"old:x:500:500::/home/old:/bin/sh\n"}, AccountPolicy(first=first))
    assert bool(found.removed) == (first == 500)


FIELD = st.binary(max_size=12).map(lambda b: b.replace(b"\n", b""))
TEXT = st.lists(st.lists(FIELD, max_size=9).map(b":".join), max_size=12).map(b"\n".join)


@given(TEXT, TEXT, TEXT, TEXT)
def test_whatever_stands_there_no_password_is_left(
    passwd: bytes, shadow: bytes, group: bytes, gshadow: bytes
) -> None:
    files = {"passwd": passwd, "shadow": shadow, "group": group, "gshadow": gshadow}
    outcome = revise(files, AccountPolicy())
    names = {a.name for a in accounts(outcome.files["passwd"])}
    for line in outcome.files["shadow"].splitlines():
        assert line.split(b":")[0] in names
        assert line.split(b":")[1] in NO_PASSWORD
    for line in outcome.files["passwd"].splitlines():
        assert line.split(b":")[1] in (*NO_PASSWORD, b"x")
    assert revise(outcome.files, AccountPolicy()).files == outcome.files


def test_homes_go_with_their_accounts_and_others_stay(tmp_path: Path) -> None:
    root = debian.make(tmp_path / "root")
    with (root / "etc/passwd").open("a") as f:
        f.write("alice:x:1000:1000::/home/alice:/bin/sh\nbob:x:1001:1001::/data/bob:/bin/sh\n")
        f.write("carol:x:1002:1002::/home/group/carol:/bin/sh\ndora:x:1003:1003::/usr/share:/bin/sh\n")
        f.write("emil:x:1004:1004::/var/www:/bin/sh\nfay:x:1005:1005::/home/../../outside:/bin/sh\n")
    for name in (
        "home/alice",
        "data/bob",
        "home/group/carol",
        "home/group/other",
        "home/remote",
        "usr/share",
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "file").write_text("x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("x")
    (root / "data/bob").chmod(0o755)
    if os.geteuid() == 0:
        os.chown(root / "data/bob", 1001, 1001)
    sanitise(root, rules.load(), AccountPolicy(keep=("carol", "slurm")))
    assert sorted(str(p.relative_to(root)) for p in (root / "home").rglob("*")) == [
        "home/group",
        "home/group/carol",
        "home/group/carol/file",
    ]
    assert (root / "data/bob").exists() == (os.geteuid() != 0)
    assert (root / "usr/share/file").exists()
    assert (root / "var/www/index.html").exists()
    assert (tmp_path / "outside/file").exists()
