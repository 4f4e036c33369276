"""The checks: what each finds, why an image must not have it, what to do, and which clause of the HEPiX endorsement
policy it stands for. `docs/audit.md` and the rules of a SARIF report are made from this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Clause = Literal["credentials", "accounts", "patched", "site-control", "auditable"]
Severity = Literal["error", "warning"]

CLAUSES: dict[Clause, str] = {
    "credentials": "no host or service certificates, ssh keys, or credentials of any form",
    "accounts": "no accounts of people",
    "patched": "all security patches are applied",
    "site-control": "sites can log what happens and decide who gets in",
    "auditable": "a full list of packages and versions that can be relied upon",
}
"""What the HEPiX endorsement policy asks of an image, in short."""


@dataclass(frozen=True)
class Check:
    """A check by its name; exceptions in recipes use the same word. `clause` is None for what is kiosk's own."""

    name: str
    finds: str
    reason: str
    advice: str
    clause: Clause | None = None
    severity: Severity = "error"


_C: Clause = "credentials"
_SHARED = "Every machine started from the image would have it, and everyone who can read the image."
_CLONE = "Machines started from one image would all take themselves for the same machine."
_REMOVE = "Remove the file; what needs it makes or gets its own at boot."
_MADE_AT_BOOT = "Empty or remove the file; it is made anew at boot."

_TABLE = (
    Check(
        "private-key",
        "Private keys by content: PEM (RSA, EC, DSA, PKCS#8, encrypted ones too), OpenSSH, SSH2, PuTTY, DER, Dropbear, "
        "WireGuard, age, minisign, signify, JWK, DNSSEC, OpenVPN; PEM in UTF-16, several DER keys in one file",
        _SHARED,
        "Remove the key and make a new one: this one may have been copied already.",
        _C,
    ),
    Check(
        "key-store",
        "PKCS#12, JKS and JCEKS files with private keys (or that can't be opened), KeePass, NSS and GNOME key stores, "
        "LUKS containers",
        _SHARED,
        "Remove the file. A store of CA certificates alone is accepted when its password is empty or `changeit`.",
        _C,
    ),
    Check(
        "pgp-secret-key",
        "OpenPGP secret keys, armoured, binary, and as GnuPG keeps them",
        _SHARED,
        _REMOVE,
        _C,
    ),
    Check(
        "ssh-host-key",
        "ssh host keys, public halves and certificates too, by their names",
        "Whoever has the private half can pose as each of these machines; the same public half makes them one.",
        "Remove them; sshd's unit makes new ones at the first start.",
        _C,
    ),
    Check(
        "authorized-key",
        "ssh public keys in any file but known_hosts: they let somebody in",
        "An image that lets somebody in gives that person every machine at every site.",
        "Remove it; sites let people in through their own layer or context.",
        "accounts",
    ),
    Check(
        "host-certificate",
        "X.509 certificates of hosts, services or people (no CA), PEM or DER",
        "It is the identity of one host or person, and says that its key is near.",
        _REMOVE,
        _C,
    ),
    Check("x509-proxy", "X.509 proxy certificates", "It lets anyone act as its owner until it ends.", _REMOVE, _C),
    Check("kerberos-keytab", "Kerberos keytabs by content", _SHARED, _REMOVE, _C),
    Check("kerberos-cache", "Kerberos credential caches by content", _SHARED, _REMOVE, _C),
    Check(
        "key-file",
        "Files of random bytes (up to 64 KiB), hex or base64 that are no known format: munge keys, raw secrets, "
        "unique ids",
        _SHARED,
        _REMOVE,
        _C,
    ),
    Check(
        "token",
        "Access tokens by their form: JWT (HTCondor IDTOKENs and SciTokens too), AWS, GitHub, GitLab, Slack, Google, "
        "Azure, Vault, npm, PyPI, Docker and others",
        _SHARED,
        "Remove the token and revoke it.",
        _C,
    ),
    Check(
        "password",
        "Passwords in the clear: in configuration (`password = …`, JSON, YAML, XML, quoted literals of programs, SNMP "
        "communities), URLs, .netrc, .pgpass, PPP and Wi-Fi secrets",
        _SHARED,
        "Remove the password; give it to the machine through its context or a site layer.",
        _C,
    ),
    Check(
        "password-hash",
        "Password hashes in shadow files, and in any other file",
        "A hash that everyone can read is a password that somebody will find.",
        "Lock the account (`!`) or remove the file.",
        _C,
    ),
    Check(
        "empty-password",
        "Accounts that need no password",
        "Anyone who reaches the machine's console gets in.",
        "Lock the account (`!`).",
        _C,
    ),
    Check(
        "account",
        "Accounts of people (uid 1000 and above, but nobody) that the image's policy does not have",
        "An image has no users; sites and experiments bring theirs.",
        "Remove the account from passwd, shadow and group, with its home.",
        "accounts",
    ),
    Check(
        "second-root",
        "Accounts besides root with the uid 0",
        "It is root under another name.",
        "Remove the account.",
        "accounts",
    ),
    Check(
        "history",
        "What people typed and where they went: histories of shells and tools, known_hosts of a user",
        "Histories name hosts, users and passwords.",
        "Remove the file.",
        _C,
    ),
    Check(
        "core-dump",
        "Core dumps of programs and of the kernel, by content",
        "They hold whatever was in memory, keys too.",
        "Remove the file.",
        _C,
    ),
    Check("machine-id", "Identifiers of the machine: machine-id in all its places, hostid, entry tokens", _CLONE,
          _MADE_AT_BOOT),
    Check("hostname", "The name of a machine: /etc/hostname, mailname, 127.0.1.1 in hosts", _CLONE,
          "Remove the name; it comes from DHCP or the context."),
    Check("random-seed", "Seeds of random numbers and systemd's credential secret",
          "Machines that start from one seed can draw the same keys.", _MADE_AT_BOOT),
    Check("dhcp-lease", "DHCP leases and client identifiers", _CLONE, _REMOVE),
    Check("network-identity",
          "MAC and static addresses in the network's configuration (udev, ifcfg, interfaces, networkd, NetworkManager, "
          "netplan), name servers of the network that the image was made in", _CLONE,
          "Configure the network for any machine: DHCP, no addresses."),
    Check("cloud-init-state", "What cloud-init kept of an instance", _CLONE, "Run `cloud-init clean --logs --seed`."),
    Check("cvmfs-cache", "Content of a CernVM-FS cache", "It makes the image large and is soon out of date.",
          "Empty the cache folder."),
    Check("container-content", "Images, layers and volumes of containers and virtual machines that a node keeps",
          "They hold files of other machines, which nobody looks into.",
          "Empty the store; the machine fetches what it runs."),
    Check("log", "Log files that are not empty, and systemd journals anywhere",
          "Logs name hosts, users and addresses of another machine.", "Empty /var/log."),
    Check("mail", "Mail boxes and mail queues", "Mail belongs to people, not to an image.", "Remove the files.", _C),
    Check("user-job", "Crontabs and at jobs of users", "Every machine would run them.",
          "Remove them; what the image needs is a packaged timer or a file in /etc/cron.d.", "accounts"),
    Check("config-management",
          "Profiles, certificates and state of Quattor, Puppet, Chef, Salt, CFEngine, Ansible, Foreman", _CLONE,
          "Remove profile and state; the tool's package may stay."),
    Check("monitoring-identity",
          "Identity and state of monitoring: Lemon, Zabbix, Icinga, Netdata, Ganglia, Checkmk, Wazuh, Telegraf, sar",
          _CLONE, "Remove identity and state; the site layer configures its monitoring."),
    Check("batch-state", "Host configuration, keys and state of LSF, Slurm, HTCondor, PBS, Grid Engine", _CLONE,
          "Remove it; the farm's configuration comes with the site layer or the context."),
    Check("directory-state", "State of sssd, FreeIPA, Samba, winbind, AFS: the machine's place in a directory", _CLONE,
          "Remove the state; the machine joins at boot.", _C),
    Check("storage-identity", "Names of this machine for iSCSI, NVMe, multipath, and descriptions of its disks", _CLONE,
          _MADE_AT_BOOT),
    Check("subscription", "Subscription and registration identifiers (Red Hat, SUSE, Ubuntu Pro, popularity contest)",
          _CLONE, "Unregister, and remove the files.", _C),
    Check("foreign-mount", "Disks, swap and network shares in fstab, crypttab or mount units that are not the image's",
          "The machine waits at boot for a disk that it does not have, or mounts one that is not its own.",
          "Remove the line."),
    Check("temporary-file", "Files left in /tmp, /var/tmp, /run and scratch folders",
          "They are left from making the image.",
          "Empty the folder.", None, "warning"),
    Check("setuid-file",
          "Setuid and setgid files that no package owns or whose package brings them without, and interpreters, shells "
          "or editors with such a bit", "Whoever runs it becomes somebody else.",
          "Install it from a package, or take the bit away (`chmod u-s,g-s`)."),
    Check("capability-file", "Files with capabilities that no package owns", "It is setuid by another name.",
          "Install it from a package, or take them away (`setcap -r`)."),
    Check("device-node", "Device nodes but for the common ones in /dev",
          "With it whoever may open the file reads a disk or memory.", "Remove it; devtmpfs has what is there."),
    Check("world-writable", "Files that everyone may write, and such folders without the sticky bit",
          "Any user can change what others read or run.", "Take the right away (`chmod o-w`)."),
    Check("package-file-changed", "Files that differ from what their package brought (configuration apart)",
          "The list of packages says something about the image that is not so.",
          "Install the package again; put own versions elsewhere or divert the file (`dpkg-divert`).", "auditable"),
    Check("package-database", "No database of packages, or one that can't be read",
          "Nobody can say what is in the image.", "Keep the database of dpkg or rpm in the image.", "auditable"),
    Check("package-list", "Differences between the image's own database and the published list of packages",
          "The published list is what sites decide by.", "Build the version again.", "auditable"),
    Check("security-update", "Packages for which the archive's security suite has a newer version",
          "A known hole in the image is a hole in every machine.",
          "Build the image again, from a fresh base tree (`kiosk build NAME --no-cache`).", "patched"),
    Check("updates-unknown", "It can't be said whether security updates are missing",
          "Not known is not the same as none.",
          "Make the archive reachable, or leave the check out with --no-updates, which the report then says.",
          "patched"),
    Check("site-logging", "No system log (journald, rsyslog, syslog-ng)",
          "A site must be able to see what happened on its machines.", "Install a system log.", "site-control"),
    Check("unexamined", "What the audit could not look into: files too large, encrypted or damaged; file systems other "
          "than the root's that it does not know", "What nobody looked at can't be vouched for.",
          "Leave it out of the image, or accept it with a reason."),
)  # fmt: skip

CHECKS: dict[str, Check] = {c.name: c for c in _TABLE}
