"""What a layer may declare. Pure: the guest and `kiosk layer` decide with this very code.

    declaration_faults   what it declares, by itself
    policy_faults        what it declares, against the policy of a base image
    source_faults        whether what it declares is in it
    shadow_faults        what it would hide or replace in a base image
    account_faults       its users and groups, against those of a base image
    conflict_faults      several layers on one machine

Each yields one line for every fault; no line means that it holds. What a layer may contain is `tree`'s.
"""

from __future__ import annotations

import posixpath
import re
import stat
from fnmatch import fnmatchcase
from typing import Callable, Dict, Iterator, List, Mapping, Sequence, Set, Tuple

from contextualize.document import LayerName, Policy
from contextualize.manifest import Declared, Declares, User
from contextualize.tree import Entry, below, clean

ETC_FILE_LIMIT = 1 << 20
UNIT_LIMIT = 64 * 1024
MOST_CHECKS = 200
"""Programs of the health check on one machine, of all layers together."""
EVERYBODY = stat.S_IXUSR | stat.S_IXOTH
"""An experiment's check does not run as root."""
UNIT_FOLDERS = (
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/usr/local/lib/systemd/system",
)
SHELLS = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false", "/bin/sh", "/usr/bin/sh",
          "/bin/bash", "/usr/bin/bash")  # fmt: skip
LOADERS = (
    "LD_",
    "PYTHON",
    "PERL",
    "RUBY",
    "BASH",
    "GLIBC_",
    "GCONV_",
    "SYSTEMD_",
    "DBUS_",
    "MALLOC_",
    "NODE_",
)
SHELL_OWN = frozenset(
    ("PATH", "IFS", "ENV", "CDPATH", "HOME", "USER", "LOGNAME", "SHELL", "SHELLOPTS", "PROMPT_COMMAND",
     "PS1", "PS2", "PS4", "TERM", "TMPDIR", "EDITOR", "VISUAL", "PAGER", "LESSOPEN", "MAIL", "HOSTNAME")
)  # fmt: skip
RESERVED = ("/etc/profile.d/kiosk-layers.sh", "/etc/environment.d/50-kiosk-layers.conf")
"""Files that the guest writes itself from all layers' environment."""
CVMFS = "/etc/cvmfs/default.local"
"""The file that the guest writes where a layer declares something for CVMFS."""
NEVER = (
    "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid", "/etc/sudoers",
    "/etc/sudoers.d", "/etc/pam.conf", "/etc/pam.d", "/etc/polkit-1", "/etc/dbus-1", "/etc/nsswitch.conf",
    "/etc/ssh", "/etc/ld.so.preload", "/etc/systemd", "/etc/init.d", "/etc/rc.local", "/etc/fstab",
    "/etc/crypttab", "/etc/machine-id", "/etc/environment", "/etc/environment.d", "/etc/profile",
    "/etc/apt", "/etc/dpkg",
)  # fmt: skip
"""What no policy can open, with all that is below it: who is who, who may become root, what is started and
which code is loaded. Users, services and variables are declared instead."""

SYSTEM_OWNERS = frozenset(
    ("systemd", "kiosk", "munge", "slurm", "slurmd", "slurmctld", "condor", "htcondor", "lsf", "lsfadmin", "root",
     "site", "experiment", "system", "user", "dbus", "ssh", "sshd", "cron", "nss", "nscd", "sssd", "ldap", "autofs",
     "cvmfs",
     "network", "networkd", "resolved", "getty", "serial", "console", "emergency", "rescue", "initrd", "dracut", "grub",
     "lvm2", "dm", "modprobe", "cloud", "qemu", "rpc", "nfs", "polkit", "sudo", "hs06", "docker", "containerd")
)  # fmt: skip
"""Owners whose names would be those of the system: what a layer brings is named after its owner. Neither these nor
what begins with one of them and a dash (systemd-x)."""
EXPERIMENT_FILES = "/etc/kiosk"
"""Where an experiment's files may be, as OWNER-NAME. What else lies below /etc is read by root's programs, by
everybody's shells, or by other experiments' jobs."""
UNIT = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,100}[A-Za-z0-9])?"
"""What stands between `OWNER-` and `.service`. It can't end with a dash: systemd gives x-.service.d to all x-*."""

POWERFUL = frozenset(
    ("root", "wheel", "sudo", "admin", "adm", "staff", "disk", "shadow", "kmem", "docker", "podman", "lxd", "incus",
     "libvirt", "kvm", "systemd-journal", "polkitd",
     "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "www-data", "backup",
     "list", "irc", "gnats", "nobody", "nogroup", "tty", "dialout", "fax", "voice", "cdrom", "floppy", "tape", "audio",
     "video", "render", "input", "sgx", "operator", "src",
     "utmp", "plugdev", "users", "netdev", "crontab", "messagebus",
     "dbus", "sshd", "ssh", "ssh_keys", "tss", "rpc",
     "rpcuser", "statd", "ntp", "chrony", "_chrony", "postfix", "postdrop",
     "sssd", "nscd", "unbound", "named", "kiosk", "syslog", "uuidd", "tcpdump", "pcap", "man-db", "halt", "shutdown",
     "slurm", "slurmd", "munge", "condor", "condor_pool", "lsf", "pbs", "sge", "sgeadmin", "apptainer", "singularity")
)  # fmt: skip
"""Names of accounts and groups whose members may become root, or see what only root should, wherever a program that
knows them is installed: also where the base has them not yet. Those of systems and of batch systems are among them:
an image brings them itself. (lsfadmin is missing: LSF is no package, and a site that brings it brings its account.)"""
BATCH = frozenset(("lsfadmin",))
"""More of them that only a site's layer may declare."""


def declaration_faults(layer: LayerName, declares: Declares) -> Iterator[str]:
    """What is wrong with a layer's declarations, whatever the base."""
    if reserved(layer.owner):
        yield f"the owner {layer.owner}: that is a name of the system's own"
    for variable in declares.environment:
        yield from _variable_faults(layer, variable)
    for user in declares.users:
        yield from _user_faults(layer, user)
        for group in user.groups:
            if group not in [g.name for g in declares.groups]:
                yield f"user {user.name}: the group {group} is not one that this layer declares"
    for name in [*(u.name for u in declares.users), *(g.name for g in declares.groups)]:
        if name in POWERFUL or name.startswith(("systemd-", "kiosk-")):
            yield f"{name}: no layer declares a user or group of that name: it gives power over the machine"
        elif layer.kind == "experiment" and (name in BATCH or not _own(layer, name)):
            yield f"{name}: an experiment's users and groups are {layer.owner} or begin with {layer.owner}-"
    yield from _site_faults(layer, declares)
    for program in declares.health:
        if not clean(program):
            yield f"health {program!r:.120}: not a plain path inside the layer"
    for service in declares.services:
        unit = posixpath.basename(service)
        if not clean(service):
            yield f"service {service!r:.120}: not a plain path inside the layer"
        elif not re.fullmatch(rf"{layer.owner}-{UNIT}\.service", unit):
            yield f"service {unit!r:.120}: its name must be {layer.owner}-NAME.service"
    for file in declares.files:
        if not below(file.path, "/etc") or not clean(file.path[1:]):
            yield f"file {file.path!r:.120}: not a plain path below /etc"
        elif file.path in RESERVED:
            yield f"file {file.path}: written by kiosk itself"
        elif any(reaches(file.path, path) for path in NEVER):
            yield f"file {file.path}: no layer may add it, whatever an image's policy opens"
        elif layer.kind == "experiment" and not re.fullmatch(
            rf"{EXPERIMENT_FILES}/{layer.owner}-[^/]+", file.path
        ):
            yield f"file {file.path:.120}: an experiment's are {EXPERIMENT_FILES}/{layer.owner}-NAME"
        if not clean(file.source):
            yield f"file {file.path!r:.120}: the source {file.source!r:.120} is not a plain path inside the layer"
    yield from conflict_faults([(layer, declares)])


def reserved(owner: str) -> bool:
    """Whether an owner's name is one of the system's."""
    return owner in SYSTEM_OWNERS or owner.split("-")[0] in SYSTEM_OWNERS


def _own(layer: LayerName, name: str) -> bool:
    """Whether a name is the owner's, or begins with it."""
    return name == layer.owner or name.startswith(f"{layer.owner}-")


def _variable_faults(layer: LayerName, name: str) -> Iterator[str]:
    """An experiment's variables carry its name, so that it can't change what other programs do; a site's
    may have any name but those that decide which code is loaded."""
    owner = layer.owner.upper().replace("-", "_")
    if layer.kind == "experiment" and not name.startswith((f"{owner}_", f"VO_{owner}_")):
        yield f"variable {name}: an experiment's variables begin with {owner}_ or VO_{owner}_"
    if name in SHELL_OWN or name.startswith(LOADERS):
        yield f"variable {name}: decides how other programs run"


def _site_faults(layer: LayerName, declares: Declares) -> Iterator[str]:
    """What only a site may declare: what contexts may do, its farms, and how CVMFS is reached and cached."""
    if layer.kind == "site":
        yield from _farm_faults(declares)
        return
    if declares.allows:
        yield f"allows {', '.join(declares.allows)}: only a site's layer can allow that"
    if declares.farms:
        yield f"farm {', '.join(sorted(declares.farms))}: only a site's layer declares farms"
    if declares.cvmfs and (declares.cvmfs.http_proxy is not None or declares.cvmfs.quota_mb is not None):
        yield "cvmfs: an experiment may only add repositories; proxies and quota are the site's"


def _farm_faults(declares: Declares) -> Iterator[str]:
    """What no driver would take. The drivers are imported only where a layer declares a farm."""
    if declares.farms:
        from contextualize.farm.drivers import declared_faults

        for name, farm in declares.farms.items():
            yield from declared_faults(name, farm.kind, farm.settings)


def _user_faults(layer: LayerName, user: User) -> Iterator[str]:
    own = ("/nonexistent", f"/home/{user.name}", f"/var/lib/{user.name}", layer.prefix)
    if user.home not in own and not (below(user.home, layer.prefix) and clean(user.home[1:])):
        yield f"user {user.name}: the home {user.home!r:.120} is none of {', '.join(own)}, and not below the last"
    if user.shell not in SHELLS:
        yield f"user {user.name}: the shell {user.shell!r:.120} is none of {', '.join(SHELLS)}"


def policy_faults(layer: LayerName, declares: Declares, policy: Policy) -> Iterator[str]:
    """What the policy of a base image doesn't open to layers."""
    low, high = policy.experiment_ids
    numbers = [("uid", u.uid) for u in declares.users] + [("gid", g.gid) for g in declares.groups]
    for what, number in numbers if layer.kind == "experiment" else ():
        if not low <= number <= high:
            yield f"{what} {number}: the image's policy has {low} to {high} for experiments"
    if layer.kind == "site" and policy.sites and layer.owner not in policy.sites:
        yield f"the image's policy takes layers of the sites {', '.join(policy.sites)} alone"
    if declares.environment and not policy.environment:
        yield "declares environment variables, and the image's policy has environment = false"
    if (declares.users or declares.groups) and not policy.users:
        yield "declares users, and the image's policy has users = false"
    if declares.services and not policy.services:
        yield "declares services, and the image's policy has services = false"
    if declares.cvmfs and not policy.cvmfs:
        yield "declares something for CVMFS, and the image's policy has cvmfs = false"
    for switch in declares.allows:
        if switch not in policy.allows:
            yield f"allows {switch}, and the image's policy has it not among what sites may allow"
    for file in declares.files:
        if not any(opens(pattern, file.path) for pattern in policy.etc):
            opened = ", ".join(policy.etc) or "nothing"
            yield f"file {file.path}: the image's policy does not open it (it opens {opened})"


def opens(pattern: str, path: str) -> bool:
    """Whether a pattern matches a path, name by name: `*` stands for one name, never for several."""
    patterns, names = pattern.split("/"), path.split("/")
    return len(patterns) == len(names) and all(map(fnmatchcase, names, patterns))


def reaches(pattern: str, path: str) -> bool:
    """Whether a pattern can match a path or something below it."""
    patterns, names = pattern.split("/"), path.split("/")
    return len(patterns) >= len(names) and all(map(fnmatchcase, names, patterns))


def source_faults(declares: Declares, entries: Mapping[str, Entry]) -> Iterator[str]:
    """Declared files and units that are not plain files of the layer, or too large. `entries` are by path."""
    limits = [(file.source, ETC_FILE_LIMIT) for file in declares.files]
    for source, limit in [*limits, *((service, UNIT_LIMIT) for service in declares.services)]:
        entry = entries.get(source)
        if entry is None or not stat.S_ISREG(entry.mode):
            yield f"{source!r:.120} is declared, and is not a file of the layer"
        elif entry.size > limit:
            yield f"{source!r:.120} is declared, and larger than {limit} bytes"
    for program in declares.health:
        entry = entries.get(program)
        if entry is None or not stat.S_ISREG(entry.mode) or entry.mode & EVERYBODY != EVERYBODY:
            yield f"health {program!r:.120}: is not a program of the layer"


def shadow_faults(
    layer: LayerName, declares: Declares, exists: Callable[[str], bool], filled: Callable[[str], bool]
) -> Iterator[str]:
    """What of a base image the layer would hide: `exists` says whether the base has a path, `filled` whether
    it has anything below a folder."""
    if filled(layer.prefix):
        yield f"the base has files below {layer.prefix}, which the layer would hide"
    for file in declares.files:
        if exists(file.path):
            yield f"file {file.path}: the base has one of its own"
    if declares.cvmfs and exists(CVMFS):
        yield f"cvmfs: the base has a {CVMFS} of its own"
    for service in declares.services:
        unit = posixpath.basename(service)
        for folder in UNIT_FOLDERS:
            if exists(f"{folder}/{unit}"):
                yield f"service {unit}: the base has one of its own"
                break


def account_faults(declares: Declares, databases: Mapping[str, str]) -> Iterator[str]:
    """Users and groups whose name or number the base has, for a user or for a group. `databases` are the texts of the
    base's /etc/passwd and /etc/group by path."""
    mine = [("user", u.name, u.uid) for u in declares.users]
    mine += [("group", g.name, g.gid) for g in declares.groups]
    for database, text in databases.items():
        lines = account_lines(text)
        names, numbers = {line[0] for line in lines}, {line[2] for line in lines}
        for kind, name, number in mine:
            if name in names or str(number) in numbers:
                yield f"{kind} {name} ({number}): the base's {database} has that name or number"


def account_lines(text: str) -> List[List[str]]:
    """The fields of the lines of passwd(5) or group(5)."""
    return [line.split(":") for line in text.splitlines() if line.count(":") >= 3]


def conflict_faults(layers: Sequence[Declared]) -> Iterator[str]:
    """Two declarations of the same thing, in one layer or in two. No order decides between them: both go.

    Only CVMFS repositories and `allows` may be named by several layers: they add up.
    """
    taken: Dict[Tuple[str, object], LayerName] = {}
    for name, declares in layers:
        seen: Set[Tuple[str, object]] = set()
        for what, key in _claims(name, declares):
            if key in seen:
                yield f"{name} declares {what} twice"
            elif key in taken:
                yield f"{taken[key]} and {name} both declare {what}"
            seen.add(key)
        for key in seen:
            taken.setdefault(key, name)
    checks = sum(len(declares.health) for _, declares in layers)
    if checks > MOST_CHECKS:
        yield f"{checks} health programs altogether; a machine runs at most {MOST_CHECKS}"
    cvmfs = next((name for name, declares in layers if declares.cvmfs), None)
    if cvmfs and ("file", CVMFS) in taken:
        yield f"{taken[('file', CVMFS)]} brings the file {CVMFS}, which kiosk writes from what {cvmfs} declares"


def _claims(name: LayerName, declares: Declares) -> Iterator[Tuple[str, Tuple[str, object]]]:
    """What a layer takes for itself, in words and as a key. A user takes the group of its name and number too."""
    yield f"prefix {name.prefix}", ("prefix", name.prefix)
    for variable in declares.environment:
        yield f"variable {variable}", ("variable", variable)
    for user in declares.users:
        yield f"user {user.name}", ("account", user.name)
        yield f"uid {user.uid}", ("number", user.uid)
    for group in declares.groups:
        yield f"group {group.name}", ("account", group.name)
        yield f"gid {group.gid}", ("number", group.gid)
    for file in declares.files:
        yield f"file {file.path}", ("file", file.path)
    for service in declares.services:
        unit = posixpath.basename(service)
        yield f"service {unit}", ("service", unit)
    for farm in declares.farms:
        yield f"farm {farm}", ("farm", farm)
    if declares.cvmfs and declares.cvmfs.http_proxy is not None:
        yield "cvmfs http_proxy", ("cvmfs", "http_proxy")
    if declares.cvmfs and declares.cvmfs.quota_mb is not None:
        yield "cvmfs quota_mb", ("cvmfs", "quota_mb")
