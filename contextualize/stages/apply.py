"""Stage `apply`: carries out what the layers declare, after all of it has been checked.

Nothing is changed before every declaration of every layer holds: by itself, against the base's policy and
files, and against the other layers. A service's unit is copied, as it was checked, and can only start
after kiosk-ready.target. The health check finds the layers' programs in /run/kiosk/private/health.json.
"""

from __future__ import annotations

import json
import posixpath
import stat
from typing import Dict, Iterable, List, Sequence

from contextualize import document, rules, units
from contextualize.document import Policy
from contextualize.errors import Refused
from contextualize.machine import PRIVATE, Machine
from contextualize.manifest import Declares, Group, User
from contextualize.stages.verify import Layer

POLICY = "/usr/lib/kiosk/policy.json"
SYSUSERS = "/run/sysusers.d/kiosk-layers.conf"
UNITS = "/run/systemd/system"
PASSWD, GROUP = "/etc/passwd", "/etc/group"
HEALTH = f"{PRIVATE}/health.json"
PROFILE, ENVIRONMENT = rules.RESERVED
AFTER_READY = b"[Unit]\nAfter=kiosk-ready.target\nRequisite=kiosk-ready.target\n"


def run(machine: Machine, layers: Sequence[Layer]) -> List[str]:
    """Checks, then carries out; returns the services that shall start once the machine is ready."""
    policy = document.policy(machine.read(POLICY))
    for layer in layers:
        _check(machine, layer, policy)
    _none(rules.conflict_faults([layer.declared for layer in layers]))
    _unknown(machine, [layer.manifest.declares for layer in layers])
    files = {
        file: machine.inside(layer.use.name.prefix, file.source, rules.ETC_FILE_LIMIT)
        for layer in layers
        for file in layer.manifest.declares.files
    }
    services = {
        posixpath.basename(service): _unit(machine, layer, service)
        for layer in layers
        for service in layer.manifest.declares.services
    }
    health = [_program(machine, layer, path) for layer in layers for path in layer.manifest.declares.health]
    for file, data in files.items():
        machine.create(file.path, data, file.mode)
    _accounts(
        machine,
        [group for layer in layers for group in layer.manifest.declares.groups],
        [user for layer in layers for user in layer.manifest.declares.users],
    )
    _environment(machine, layers)
    _cvmfs(machine, layers)
    machine.replace(HEALTH, json.dumps(health).encode(), 0o600)
    _services(machine, services)
    return sorted(services)


def _none(faults: Iterable[str]) -> None:
    for fault in faults:
        raise Refused(fault)


def _check(machine: Machine, layer: Layer, policy: Policy) -> None:
    name, declares = layer.use.name, layer.manifest.declares
    faults = [
        *rules.declaration_faults(name, declares),
        *rules.policy_faults(name, declares, policy),
        *rules.shadow_faults(name, declares, machine.exists, lambda _mounted: False),
        *rules.account_faults(declares, {path: _database(machine, path) for path in (PASSWD, GROUP)}),
    ]
    if faults:
        raise Refused(f"{name}: {faults[0]}")


def _database(machine: Machine, path: str) -> str:
    return machine.read(path, 8 << 20).decode(errors="replace")


def _unknown(machine: Machine, declared: Sequence[Declares]) -> None:
    """Refuses users and groups whose name or number another database than /etc has: LDAP, systemd's own."""
    for database, keys in (
        ("passwd", [key for d in declared for u in d.users for key in (u.name, str(u.uid))]),
        ("group", [key for d in declared for u in d.users for key in (u.name, str(u.uid))]
         + [key for d in declared for g in d.groups for key in (g.name, str(g.gid))]),
    ):  # fmt: skip
        found = machine.known(database, keys) if keys else ""
        if found:
            raise Refused(
                f"{found.split(':')[0]:.60}: this machine's {database} database has that name or number"
            )


def _unit(machine: Machine, layer: Layer, service: str) -> bytes:
    """The text of a unit that holds."""
    name, declares = layer.use.name, layer.manifest.declares
    unit = posixpath.basename(service)
    data = machine.inside(name.prefix, service, rules.UNIT_LIMIT)
    own = [posixpath.basename(s) for s in declares.services]
    for fault in units.unit_faults(name, unit, data, [u.name for u in declares.users], own):
        raise Refused(f"{name}: {fault}")
    if machine.exists(f"{UNITS}/{unit}") or machine.exists(f"{UNITS}/{unit}.d"):
        raise Refused(f"{name}: service {unit}: the machine has one of its own")
    return data


def _program(machine: Machine, layer: Layer, path: str) -> Dict[str, str]:
    """A program of the layer that the health check runs, reached without any link."""
    at = machine.reach(layer.use.name.prefix, path)
    mode = machine.mode(at)
    if not stat.S_ISREG(mode) or mode & rules.EVERYBODY != rules.EVERYBODY:
        raise Refused(f"{layer.use.name}: health {path!r:.120}: is not a program of the layer")
    return {"layer": str(layer.use.name), "program": at}


def _accounts(machine: Machine, groups: Sequence[Group], users: Sequence[User]) -> None:
    """Creates groups and accounts with systemd-sysusers, and looks whether they are as declared."""
    if not users and not groups:
        return
    lines = [f"g {g.name} {g.gid}\n" for g in groups]
    lines += [f'u {u.name} {u.uid} "{u.comment}" {u.home} {u.shell}\n' for u in users]
    lines += [f"m {u.name} {group}\n" for u in users for group in u.groups]
    machine.replace(SYSUSERS, "".join(lines).encode())
    machine.run(["systemd-sysusers", f"--root={machine.root}", str(machine.path(SYSUSERS))])
    there = {entry[0]: entry for entry in rules.account_lines(_database(machine, GROUP))}
    for group in groups:
        entry = there.get(group.name, [])
        members = sorted(u.name for u in users if group.name in u.groups)
        if entry[2:3] != [str(group.gid)] or sorted(filter(None, entry[3].split(","))) != members:
            raise Refused(f"group {group.name} was made as {':'.join(entry)!r}, not as declared")
    found = {entry[0]: entry for entry in rules.account_lines(_database(machine, PASSWD))}
    for user in users:
        _user(machine, user, found.get(user.name, []))


def _user(machine: Machine, user: User, entry: List[str]) -> None:
    """Refuses an account that was made otherwise than declared; makes its home."""
    if entry[2:4] != [str(user.uid)] * 2 or entry[5:7] != [user.home, user.shell]:
        raise Refused(f"user {user.name} was made as {':'.join(entry)!r}, not as declared")
    if user.home in (f"/home/{user.name}", f"/var/lib/{user.name}"):
        if machine.exists(user.home) and not stat.S_ISDIR(machine.mode(user.home)):
            raise Refused(f"user {user.name}: {user.home} is there and is no folder")
        machine.folder(user.home, 0o700)
        machine.chown(user.home, user.uid, user.uid)


def _cvmfs(machine: Machine, layers: Sequence[Layer]) -> None:
    """What the CVMFS client reads after its defaults. A shell reads it: every value is quoted, and its pattern
    has no quote in it."""
    declared = [layer.manifest.declares.cvmfs for layer in layers if layer.manifest.declares.cvmfs]
    if not declared:
        return
    repositories = dict.fromkeys(name for one in declared for name in one.repositories)
    lines = ["# What the verified layers declare.\n"]
    if repositories:
        lines.append(f"CVMFS_REPOSITORIES='{','.join(repositories)}'\n")
    for one in declared:
        if one.http_proxy is not None:
            lines.append(f"CVMFS_HTTP_PROXY='{one.http_proxy}'\n")
        if one.quota_mb is not None:
            lines.append(f"CVMFS_QUOTA_LIMIT='{one.quota_mb}'\n")
    machine.create(rules.CVMFS, "".join(lines).encode())


def _environment(machine: Machine, layers: Sequence[Layer]) -> None:
    """Variables for shells, for users' services, and for services that start from now on; and each layer's
    bin folder at the end of a shell's PATH, so that it never stands before a program of the base."""
    variables = {k: v for layer in layers for k, v in layer.manifest.declares.environment.items()}
    shell = [f"export {k}='{v}'\n" for k, v in sorted(variables.items())]
    bins = [f"{layer.use.name.prefix}/bin" for layer in layers]
    shell += [f'PATH="$PATH:{folder}"\n' for folder in bins if stat.S_ISDIR(machine.mode(folder))]
    if shell:
        machine.create(PROFILE, "".join(["# What the verified layers declare.\n", *shell]).encode())
    if variables:
        lines = [f'{k}="{v}"\n' for k, v in sorted(variables.items())]
        machine.create(ENVIRONMENT, "".join(lines).encode())
        machine.systemctl("set-environment", *[f"{k}={v}" for k, v in sorted(variables.items())])


def _services(machine: Machine, services: Dict[str, bytes]) -> None:
    for unit, data in services.items():
        machine.create(f"{UNITS}/{unit}", data)
        machine.create(f"{UNITS}/{unit}.d/kiosk-ready.conf", AFTER_READY)


def start(machine: Machine, services: Sequence[str]) -> None:
    """Has systemd start services once the machine is ready. A systemd before 244 has to read its units anew
    for that, which takes seconds on a slow machine; later ones find new units by themselves."""
    if not services:
        return
    try:
        machine.systemctl("start", "--no-block", *services)
    except Refused:
        machine.systemctl("daemon-reload")
        machine.systemctl("start", "--no-block", *services)
