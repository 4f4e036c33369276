"""The rules for layers: links, names, declarations, unit files."""

from __future__ import annotations

import posixpath
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextualize import rules, tree, units
from contextualize.document import LayerName, Policy, policy
from contextualize.errors import Refused
from contextualize.manifest import Declares, EtcFile, User
from contextualize.tree import Entry

SITE = LayerName("site", "example", "base")
DEMO = LayerName("experiment", "demo", "software")
PREFIX = DEMO.prefix
OPEN = Policy(("/etc/kiosk/*", "/etc/x/*.conf"), True, True, True)


def declares(**what: object) -> Declares:
    empty: dict[str, object] = {"environment": {}, "users": (), "services": (), "files": ()}
    return Declares(**{**empty, **what})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "target", "good"),
    [
        ("bin/a", "b", True),
        ("bin/a", "../lib/b", True),
        ("a", "/opt/experiment/demo/lib/b", True),
        ("a", "/usr/bin/python3", True),
        ("a", "/etc/ssl/certs", True),
        ("a", "..", True),  # the folder of all experiments: verified layers
        ("a", "../../../usr/bin/env", True),
        ("a", "../../../run/x", False),
        ("a", "/run/x", False),
        ("a", "/tmp/x", False),
        ("a", "/proc/self/root", False),
        ("a", "/", False),
        ("a", "/usr/../tmp/x", False),
        ("a", "lib/../../../../tmp", False),
        ("a", "", False),
        ("a", "/usr", False),
        ("a", "/usrlocal/x", False),
    ],
)
def test_links(path: str, target: str, good: bool) -> None:
    assert (tree.link_fault(PREFIX, path, target) is None) == good


@given(
    st.lists(st.sampled_from(["a", "b", "lib"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["..", ".", "a", "tmp", "usr", "opt", ""]), max_size=8),
    st.booleans(),
)
def test_a_link_that_is_let_through_never_leaves(path: list[str], target: list[str], absolute: bool) -> None:
    text = ("/" if absolute else "") + "/".join(target)
    if tree.link_fault(PREFIX, "/".join(path), text) is None:
        full = posixpath.normpath(posixpath.join(PREFIX, *path[:-1], text))
        assert full.startswith((PREFIX, "/usr/", "/opt/", "/etc/"))


@given(st.text(max_size=40))
def test_a_clean_path_stays_below_where_it_is_put(path: str) -> None:
    if tree.clean(path):
        assert posixpath.normpath(f"/x/{path}") == f"/x/{path}"


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_a_layer_has_files_folders_and_links_only(kind: int) -> None:
    assert list(tree.tree_faults(PREFIX, [Entry("x", kind | 0o644)]))


def test_too_many_files_are_counted_before_they_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MOST_ENTRIES", 10)
    seen = []

    def endless() -> object:
        while True:
            seen.append(1)
            yield Entry(f"f{len(seen)}", stat.S_IFREG | 0o644)

    assert list(tree.tree_faults(PREFIX, endless())) == ["more than 10 files"]  # type: ignore[arg-type]
    assert len(seen) == 11


@pytest.mark.parametrize(
    ("layer", "name", "good"),
    [
        (DEMO, "DEMO_HOME", True),
        (DEMO, "VO_DEMO_SW_DIR", True),
        (DEMO, "SITE_NAME", False),
        (DEMO, "VO_OTHER_SW_DIR", False),
        (SITE, "SITE_NAME", True),
        (SITE, "PATH", False),
        (SITE, "LD_PRELOAD", False),
        (SITE, "PYTHONPATH", False),
        (SITE, "BASH_ENV", False),
    ],
)
def test_variables(layer: LayerName, name: str, good: bool) -> None:
    assert (not list(rules.declaration_faults(layer, declares(environment={name: "x"})))) == good


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("/etc/kiosk/a", True),
        ("/etc/kiosk/a/b", False),
        ("/etc/x/a.conf", True),
        ("/etc/x/a.sh", False),
        ("/etc/passwd", False),
        ("/etc/kioskx/a", False),
    ],
)
def test_the_policy_opens_names_one_by_one(path: str, good: bool) -> None:
    file = EtcFile(path, "etc/a", 0o644)
    assert (not list(rules.policy_faults(SITE, declares(files=(file,)), OPEN))) == good


@pytest.mark.parametrize(
    "path", ["/etc/ld.so.preload", "/etc/pam.d/sshd", "/etc/systemd/system/x.service.d/y.conf"]
)
def test_what_makes_somebody_root_is_refused_before_any_policy_is_asked(path: str) -> None:
    faults = list(rules.declaration_faults(SITE, declares(files=(EtcFile(path, "etc/a", 0o644),))))
    assert [f for f in faults if "no layer may add it" in f]


@pytest.mark.parametrize(
    "path", ["/etc/profile.d/a.sh", "/etc/environment.x", "/etc/sshx/a", "/etc/kiosk/passwd"]
)
def test_what_only_looks_like_it_is_not_refused(path: str) -> None:
    assert not list(rules.declaration_faults(SITE, declares(files=(EtcFile(path, "etc/a", 0o644),))))


def test_two_layers_that_declare_the_same_thing() -> None:
    user = User("pilot", 990, "/nonexistent", "/usr/sbin/nologin", "")
    other = User("pool", 990, "/nonexistent", "/usr/sbin/nologin", "")
    found = list(rules.conflict_faults([(SITE, declares(users=(user,))), (DEMO, declares(users=(other,)))]))
    assert found == ["site/example/base and experiment/demo/software both declare uid 990"]
    second = LayerName("experiment", "demo", "data")
    assert any("prefix" in f for f in rules.conflict_faults([(DEMO, declares()), (second, declares())]))


GOOD = "[Unit]\nDescription=x\n[Service]\nUser=demo\nExecStart=/opt/experiment/demo/bin/x --flag\n"


def unit(text: str, layer: LayerName = DEMO) -> list[str]:
    return list(units.unit_faults(layer, "demo-x.service", text.encode(), ["demo"], ["demo-x.service"]))


def test_a_good_unit() -> None:
    assert unit(GOOD) == []


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("User=demo\n", ""),
        GOOD.replace("User=demo", "User=root"),
        GOOD.replace("User=demo", "User=0"),
        GOOD + "User=root\n",
        GOOD + "User=\n",
        GOOD.replace("User=demo", "# \\\nUser=demo"),
        GOOD.replace("Description=x", "Description=x\rUser=demo").replace("\nUser=demo\n", "\n"),
        GOOD.replace("ExecStart=", "ExecStart=+"),
        GOOD.replace("ExecStart=", "ExecStart=!!"),
        GOOD.replace("ExecStart=", "ExecStart=@"),
        GOOD.replace("/opt/experiment/demo/bin", "/tmp"),
        GOOD.replace("/demo/bin/x", "/demo/../other/bin/x"),
        GOOD.replace("/bin/x --flag", "/bin/x\\\n --flag"),
        GOOD + "ExecStartPost=/bin/true\n",
        GOOD + "PermissionsStartOnly=yes\n",
        GOOD + "AmbientCapabilities=CAP_SYS_ADMIN\n",
        GOOD.replace("[Unit]", "[Unit]\nBefore=kiosk-ready.target"),
        GOOD.replace("[Unit]", "[Unit]\nWants=poweroff.target"),
        GOOD.replace("[Service]", "[Socket]"),
        GOOD + "StandardOutput=file:/etc/passwd\n",
        GOOD + "StateDirectory=../../etc\n",
        GOOD + "KillMode=none\n",
        GOOD + "KillMode=process\n",
        GOOD + "TimeoutStopSec=infinity\n",
        GOOD + "TimeoutStopSec=0\nTimeoutStopSec=5h\n",
        GOOD + "TimeoutStopSec=301\n",
        "[Service]\nUser=demo\n",
        "[Service]\nUser=demo\nExecStart=\n",
        GOOD + "garbage\n",
        GOOD + "Nice=\x00\n",
        GOOD + "x" * 70000,
    ],
)
def test_units_that_are_refused(text: str) -> None:
    assert unit(text)


def test_a_sites_service_may_run_as_root() -> None:
    text = GOOD.replace("User=demo\n", "").replace("/opt/experiment/demo", "/opt/site")
    assert unit(text, SITE) == []


@pytest.mark.parametrize("owner", ["systemd", "systemd-x", "kiosk", "slurm", "lsf", "root", "hs06"])
def test_an_owner_with_a_name_of_the_systems(owner: str) -> None:
    layer = LayerName("site", owner, "base")
    assert [f for f in rules.declaration_faults(layer, declares()) if "a name of the system's own" in f]


@pytest.mark.parametrize(
    "name", ["demo-.service", "demo-x-.service", "demo.service", "demo-x@.service", "other-x.service"]
)
def test_a_units_name_says_whose_it_is_and_is_nobodys_prefix(name: str) -> None:
    assert list(rules.declaration_faults(DEMO, declares(services=(f"s/{name}",))))
    assert not list(rules.declaration_faults(DEMO, declares(services=("s/demo-x.y-1.service",))))


def test_an_images_policy_says_which_numbers_experiments_have_and_whose_layers_it_takes() -> None:
    user = User("demo", 30001, "/nonexistent", "/usr/sbin/nologin", "")
    mine = policy(b'{"experiment_ids": [30000, 30999], "sites": ["example"]}')
    assert list(rules.policy_faults(DEMO, declares(users=(user,)), OPEN))
    assert not list(rules.policy_faults(DEMO, declares(users=(user,)), mine))
    assert not list(rules.policy_faults(SITE, declares(), mine))
    other = LayerName("site", "other", "base")
    assert list(rules.policy_faults(other, declares(), mine)) == [
        "the image's policy takes layers of the sites example alone"
    ]
    assert not list(rules.policy_faults(other, declares(), OPEN))
    for wrong in (b"[1]", b"[0, 5]", b"[500, 400]", b'"x"', b"[200, true]"):
        with pytest.raises(Refused):
            policy(b'{"experiment_ids": ' + wrong + b"}")


def test_a_service_may_take_some_time_to_stop() -> None:
    assert unit(GOOD + "TimeoutStopSec=300s\nKillMode=mixed\nStateDirectory=kiosk-layer-demo-x\n") == []


def test_more_health_programs_than_a_machine_runs() -> None:
    many = declares(health=tuple(f"bin/{i}" for i in range(101)))
    found = list(rules.conflict_faults([(SITE, many), (DEMO, many)]))
    assert found == ["202 health programs altogether; a machine runs at most 200"]


@pytest.mark.parametrize(("mode", "good"), [(0o755, True), (0o744, False), (0o644, False)])
def test_a_health_program_is_one_that_its_user_can_run(mode: int, good: bool) -> None:
    entries = {"bin/x": Entry("bin/x", stat.S_IFREG | mode)}
    assert (not list(rules.source_faults(declares(health=("bin/x",)), entries))) == good
