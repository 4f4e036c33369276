"""What layers declare besides files: groups, CVMFS, farms, health checks, what contexts may do. In their order."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from contextualize import farms, switches
from contextualize.context import Farm
from contextualize.document import LayerName
from contextualize.errors import Refused
from contextualize.machine import Machine
from contextualize.manifest import Declared, Declares, FarmSettings
from tests.contextualize.guest import Guest

Squashfs = Callable[[dict[str, str]], bytes]
SITE, DEMO, OTHER = "site/example/base", "experiment/demo/software", "experiment/other/software"
PROXY = "http://squid.example.org:3128|http://squid2.example.org:3128;DIRECT"


def layers(guest: Guest, squashfs: Squashfs, declared: dict[str, dict[str, Any]]) -> Guest:
    """The guest with a layer for each name, all with the same files."""
    for name, declares in declared.items():
        guest.add_layer(name, squashfs({"bin/check": "#!/bin/sh\n", "share/version": "1\n"}), declares)
    return guest


def test_groups_and_their_members(guest: Guest, squashfs: Squashfs) -> None:
    user = {"name": "pilot", "uid": 990, "groups": ["grid", "prod"]}
    groups = [{"name": "grid", "gid": 801}, {"name": "prod", "gid": 802}]
    layers(guest, squashfs, {SITE: {"groups": groups, "users": [user]}})
    assert guest.boot() == 0
    lines = guest.text("/etc/group").splitlines()
    assert {"grid:x:801:pilot", "prod:x:802:pilot", "pilot:x:990:"} <= set(lines)


@pytest.mark.parametrize(
    ("declares", "expected"),
    [
        (
            {"groups": [{"name": "other", "gid": 801}]},
            "group other (801): the base's /etc/group has that name",
        ),
        ({"groups": [{"name": "grid", "gid": 210}]}, "group grid (210): the base's /etc/group has that name"),
        ({"users": [{"name": "a", "uid": 990, "groups": ["other"]}]}, "the group other is not one that this"),
        (
            {"groups": [{"name": "docker", "gid": 801}]},
            "docker: no layer declares a user or group of that name",
        ),
        ({"users": [{"name": "wheel", "uid": 801}]}, "wheel: no layer declares a user or group of that name"),
        ({"groups": [{"name": "root", "gid": 0}]}, "gid: 0 is not a whole number from 200"),
        ({"cvmfs": {"http_proxy": "http://s:1'\nrm"}}, "http_proxy: "),
        ({"cvmfs": {"repositories": ["a.example.org b"]}}, "repositories: "),
        ({"cvmfs": {"quota_mb": 1}}, "quota_mb: "),
        ({"cvmfs": {"server_url": "http://x"}}, "'server_url': unknown key"),
        ({"allows": ["everything"]}, "allows: 'everything' is not valid"),
        ({"health": ["share/version"]}, "health 'share/version': is not a program of the layer"),
        ({"health": ["bin/gone"]}, "health 'bin/gone': is not a program of the layer"),
        ({"health": ["../../usr/bin/true"]}, "not a plain path inside the layer"),
        ({"farms": {"grid": {"kind": "slurm", "secrets": {}}}}, "'secrets': unknown key"),
        ({"farms": {"Grid!": {"kind": "slurm"}}}, "the name 'Grid!' is not valid"),
    ],
)
def test_declarations_that_do_not_hold(
    guest: Guest, squashfs: Squashfs, declares: dict[str, Any], expected: str
) -> None:
    layers(guest, squashfs, {SITE: declares})
    assert guest.boot() == 1
    assert expected in guest.refused()


@pytest.mark.parametrize(
    ("declares", "expected"),
    [
        ({"allows": ["hooks"]}, "only a site's layer can allow that"),
        ({"farms": {"grid": {"kind": "slurm", "settings": {}}}}, "only a site's layer declares farms"),
        ({"cvmfs": {"http_proxy": "DIRECT"}}, "an experiment may only add repositories"),
        ({"cvmfs": {"quota_mb": 1000}}, "an experiment may only add repositories"),
    ],
)
def test_what_only_a_site_may_declare(
    guest: Guest, squashfs: Squashfs, declares: dict[str, Any], expected: str
) -> None:
    layers(guest, squashfs, {DEMO: declares})
    assert guest.boot() == 1
    assert guest.refused().startswith(f"apply: {DEMO}: ")
    assert expected in guest.refused()


def test_cvmfs_is_told_the_sites_proxies_and_everybodys_repositories(
    guest: Guest, squashfs: Squashfs
) -> None:
    layers(
        guest,
        squashfs,
        {
            DEMO: {"cvmfs": {"repositories": ["demo.example.org", "grid.example.org"]}},
            SITE: {
                "cvmfs": {"repositories": ["grid.example.org"], "http_proxy": PROXY, "quota_mb": 20000},
            },
        },
    )
    assert guest.boot() == 0
    sourced = f". {guest.root}/etc/cvmfs/default.local && echo $CVMFS_REPOSITORIES $CVMFS_HTTP_PROXY"
    words = guest.machine.run(["sh", "-c", f"{sourced} $CVMFS_QUOTA_LIMIT"])
    assert words == f"grid.example.org,demo.example.org {PROXY} 20000"


def test_an_image_with_a_cvmfs_configuration_of_its_own_keeps_it(guest: Guest, squashfs: Squashfs) -> None:
    guest.write("/etc/cvmfs/default.local", b"CVMFS_HTTP_PROXY=DIRECT\n")
    layers(guest, squashfs, {SITE: {"cvmfs": {"http_proxy": PROXY}}})
    assert guest.boot() == 1
    assert "the base has a /etc/cvmfs/default.local of its own" in guest.refused()


@pytest.mark.parametrize(
    ("policy", "declares", "expected"),
    [
        ({"cvmfs": False}, {"cvmfs": {"repositories": ["a.example.org"]}}, "has cvmfs = false"),
        ({"users": False}, {"groups": [{"name": "grid", "gid": 801}]}, "has users = false"),
        ({"allows": ["user-data"]}, {"allows": ["hooks"]}, "allows hooks, and the image's policy has it not"),
    ],
)
def test_the_images_policy_forbids_it(
    guest: Guest, squashfs: Squashfs, policy: dict[str, Any], declares: dict[str, Any], expected: str
) -> None:
    guest.write("/usr/lib/kiosk/policy.json", policy)
    layers(guest, squashfs, {SITE: declares})
    assert guest.boot() == 1
    assert expected in guest.refused()


def test_the_health_checks_of_all_layers_are_listed_for_root_alone(guest: Guest, squashfs: Squashfs) -> None:
    layers(guest, squashfs, {DEMO: {"health": ["bin/check"]}, SITE: {"health": ["bin/check"]}})
    assert guest.boot() == 0
    assert json.loads(guest.text("/run/kiosk/private/health.json")) == [
        {"layer": SITE, "program": "/opt/site/bin/check"},
        {"layer": DEMO, "program": "/opt/experiment/demo/bin/check"},
    ]
    assert (guest.root / "run/kiosk/private/health.json").stat().st_mode & 0o077 == 0


def test_a_site_layer_comes_first_wherever_the_context_names_it(guest: Guest, squashfs: Squashfs) -> None:
    layers(guest, squashfs, {OTHER: {}, SITE: {}, DEMO: {}})
    assert guest.boot() == 0
    attestation = json.loads(guest.text("/run/kiosk/attestation.json"))
    assert [layer["name"] for layer in attestation["layers"]] == [SITE, OTHER, DEMO]
    path = [line for line in guest.text("/etc/profile.d/kiosk-layers.sh").splitlines() if "PATH" in line]
    assert path == [
        f'PATH="$PATH:{prefix}/bin"'
        for prefix in ("/opt/site", "/opt/experiment/other", "/opt/experiment/demo")
    ]


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (
            {"groups": [{"name": "demo-g", "gid": 801}]},
            {"groups": [{"name": "demo-g", "gid": 50802}]},
            "both declare group demo-g",
        ),
        (
            {"groups": [{"name": "g", "gid": 50801}]},
            {"groups": [{"name": "demo-h", "gid": 50801}]},
            "both declare gid 50801",
        ),
        (
            {"groups": [{"name": "g", "gid": 50990}]},
            {"users": [{"name": "demo", "uid": 50990}]},
            "both declare uid 50990",
        ),
        (
            {"files": [{"path": "/etc/kiosk/demo-x", "source": "share/version"}]},
            {"files": [{"path": "/etc/kiosk/demo-x", "source": "share/version"}]},
            "both declare file /etc/kiosk/demo-x",
        ),
    ],
)
def test_two_layers_in_conflict_end_the_machine(
    guest: Guest, squashfs: Squashfs, one: dict[str, Any], two: dict[str, Any], expected: str
) -> None:
    layers(guest, squashfs, {DEMO: two, SITE: one})
    assert guest.boot() == 1
    assert guest.refused() == f"apply: {SITE} and {DEMO} {expected}"


def test_two_layers_for_one_prefix_end_the_machine(guest: Guest, squashfs: Squashfs) -> None:
    layers(guest, squashfs, {SITE: {}, "site/example/batch": {}})
    assert guest.boot() == 1
    assert guest.refused() == f"layers: {SITE} and site/example/batch would both be mounted at /opt/site"


def test_a_file_that_kiosk_writes_from_another_layers_declaration(guest: Guest, squashfs: Squashfs) -> None:
    guest.write("/usr/lib/kiosk/policy.json", {"etc": ["/etc/cvmfs/*"]})
    file = {"path": "/etc/cvmfs/default.local", "source": "share/version"}
    layers(
        guest, squashfs, {SITE: {"files": [file]}, DEMO: {"cvmfs": {"repositories": ["demo.example.org"]}}}
    )
    assert guest.boot() == 1
    assert "which kiosk writes from what experiment/demo/software declares" in guest.refused()


def verified(name: str, **declares: Any) -> Declared:
    """A layer and its declarations, as verify gives them."""
    return LayerName.parse(name), Declares({}, (), (), (), **declares)


def test_only_a_sites_word_switches_something_on() -> None:
    assert switches.allowed([]) == frozenset()
    both = [verified(SITE, allows=("hooks",)), verified(DEMO, allows=("root-login",))]
    assert switches.allowed(both) == {"hooks"}
    with pytest.raises(Refused, match="no site layer of this machine allows root-login"):
        switches.require(switches.allowed(both), "root-login", "root_keys")


FARM = Farm("slurm", "grid", {"partition": "long"}, {"munge_key": b"secret"})


def test_what_the_site_has_signed_of_a_farm_stands_and_the_context_adds_the_rest() -> None:
    layer = verified(SITE, farms={"grid": FarmSettings("slurm", {"controllers": "slurm.example.org"})})
    merged = farms.merged(FARM, [layer])
    assert merged.settings == {"partition": "long", "controllers": "slurm.example.org"}
    assert merged.secrets == FARM.secrets
    assert farms.merged(FARM, [verified(SITE)]) == FARM


@pytest.mark.parametrize(
    ("signed", "expected"),
    [
        (FarmSettings("lsf", {}), "the context says slurm, and site/example/base has signed lsf"),
        (FarmSettings("slurm", {"partition": "short"}), "the context's partition differs"),
    ],
)
def test_a_context_that_contradicts_what_the_site_has_signed(signed: FarmSettings, expected: str) -> None:
    with pytest.raises(Refused, match=expected):
        farms.merged(FARM, [verified(SITE, farms={"grid": signed})])


def test_a_declared_farm_needs_no_switch_but_for_settings_that_say_who_leads_it() -> None:
    site = verified(SITE, farms={"grid": FarmSettings("slurm", {"controllers": "slurm.example.org"})})
    assert farms.settled(FARM, [site], frozenset())[1] == []
    half = verified(SITE, farms={"grid": FarmSettings("slurm", {})})
    theirs = Farm("slurm", "grid", {"controllers": "slurm.example.net", "cpus": "4"}, {})
    with pytest.raises(Refused, match="the context sets controllers of the farm grid, which no site layer"):
        farms.settled(theirs, [half], frozenset())
    assert farms.settled(theirs, [half], frozenset(["farm"])) == (theirs, ["farm"])


def test_no_experiment_stands_for_a_farm() -> None:
    demo = verified(DEMO, farms={"grid": FarmSettings("slurm", {})}, allows=("farm",))
    with pytest.raises(Refused, match="the context has the farm grid, which no site layer of this machine"):
        farms.settled(FARM, [demo], switches.allowed([demo]))


@pytest.mark.parametrize("line", ["pilot:x:7001:7001::/home/pilot:/bin/sh", "990:x:990:990:::"])
def test_an_account_that_only_the_name_service_knows(guest: Guest, squashfs: Squashfs, line: str) -> None:
    guest.machine.accounts = [line]
    layers(guest, squashfs, {SITE: {"users": [{"name": "pilot", "uid": 990}]}})
    assert guest.boot() == 1
    assert "this machine's passwd database has that name or number" in guest.refused()


def test_the_machine_itself_is_asked() -> None:
    assert Machine().known("passwd", ["no-such-user-here", "0"]).startswith("root:")
    assert Machine().known("group", ["no-such-group-here"]) == ""
