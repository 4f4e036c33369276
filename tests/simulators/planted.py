"""What a golden node may hold and an image must not: secrets and identities of all kinds, in their real formats.

Each has a marker: bytes of its own content that are nowhere else, by whose absence from an image it is proved gone.
Markers stand near the beginning of small files, so that no end of a block cuts them in an image of a disk. None of
them disturbs a running Debian: `plant` may be used on the root of a VM, or its files be copied there one by one.
"""

# ruff: noqa: E501  (a table has one line for each)
from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.simulators import secrets as make
from tests.simulators.secrets import seed


@dataclass(frozen=True)
class Planted:
    """A file to plant at `path` (absolute), or text to append to the file that is there."""

    name: str
    kind: str
    path: str
    content: bytes
    mode: int
    owner: tuple[int, int]
    marker: bytes
    append: bool = False


def word(name: str) -> str:
    """A word of 24 letters and digits that is nowhere else."""
    return base64.b32encode(seed(name, 15)).decode().lower()


def _text(name: str, kind: str, path: str, text: str, mode: int = 0o644, *, append: bool = False) -> Planted:
    """`{}` in the text becomes the marker."""
    marker = word(name)
    return Planted(
        name, kind, path, text.replace("{}", marker).encode(), mode, (0, 0), marker.encode(), append
    )


def _bytes(name: str, kind: str, path: str, content: bytes, marker: bytes, mode: int = 0o600) -> Planted:
    return Planted(name, kind, path, content, mode, (0, 0), marker)


def _armour(name: str, kind: str, path: str, content: bytes, mode: int = 0o600) -> Planted:
    """Of PEM and the like the marker is a line from the middle, and different for each key or certificate."""
    lines = [line for line in content.split(b"\n") if len(line) >= 60]
    return Planted(name, kind, path, content, mode, (0, 0), lines[len(lines) // 2])


def _raw(name: str) -> bytes:
    return make.ec_key(name).private_numbers().private_value.to_bytes(32)


def _ec(name: str, form: PrivateFormat) -> bytes:
    return make.pem(make.ec_key(name), form)


def _hash(name: str, scheme: str) -> str:
    text = base64.b64encode(seed(name, 63), altchars=b"./").decode()
    return {"6": "$6$", "y": "$y$j9T$"}[scheme] + text[:16] + "$" + text[: 86 if scheme == "6" else 43]


def _account(name: str, uid: int, scheme: str) -> list[Planted]:
    user, hashed = "u" + word(name), _hash(name, scheme)
    mark = user.encode()
    line = f"{user}:x:{uid}:{uid}:A Person:/home/{user}:/bin/bash\n".encode()
    shadow = f"{user}:{hashed}:20000:0:99999:7:::\n".encode()
    return [
        Planted(f"account-{name}", "account", "/etc/passwd", line, 0o644, (0, 0), mark, append=True),
        Planted(
            f"group-{name}",
            "account",
            "/etc/group",
            f"{user}:x:{uid}:\n".encode(),
            0o644,
            (0, 0),
            mark,
            append=True,
        ),
        Planted(
            f"hash-{name}",
            "password-hash",
            "/etc/shadow",
            shadow,
            0o640,
            (0, 42),
            hashed.encode(),
            append=True,
        ),
        _text(f"home-{name}", "account", f"/home/{user}/thesis.tex", "{}\n"),
    ]


_KEYTAB, _SERVICE, _TICKET, _SESSION = (
    seed(n) for n in ("host-keytab", "service-keytab", "ticket", "session")
)
_MUNGE, _JWT, _POOL, _SEED, _AFS = (seed(n, 128) for n in ("munge", "jwt", "pool", "random-seed", "afs-key"))
_WG = seed("wireguard")
_HOST_SSH, _USER_SSH, _ADMIN_SSH = make.ed_key("ssh-host"), make.ed_key("ssh-user"), make.ed_key("ssh-admin")
_TOKEN, _BEARER = make.token("farm"), make.token("pilot")

PLANTED: tuple[Planted, ...] = (
    # What tells the machine from others
    _bytes("machine-id", "identity", "/etc/machine-id", seed("id", 16).hex().encode() + b"\n", seed("id", 16).hex().encode(), 0o444),
    _text("hostname", "identity", "/etc/hostname", "golden-{}.example.org\n"),
    _text("hosts", "identity", "/etc/hosts", "127.0.1.1\tgolden-{}.example.org\n", append=True),
    _bytes("random-seed", "identity", "/var/lib/systemd/random-seed", _SEED, _SEED),
    _text("iscsi-initiator", "identity", "/etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.1993-08.org.debian:01:{}\n"),
    # Keys of ssh
    _armour("ssh-host-key", "private-key", "/etc/ssh/ssh_host_ed25519_key", make.openssh(_HOST_SSH)),
    _bytes("ssh-host-public-key", "identity", "/etc/ssh/ssh_host_ed25519_key.pub", make.ssh_public(_HOST_SSH) + b" root@golden\n", make.ssh_public(_HOST_SSH), 0o644),
    _armour("ssh-user-key", "private-key", "/root/.ssh/id_ed25519", make.openssh(_USER_SSH)),
    Planted("authorized-key", "authorized-key", "/root/.ssh/authorized_keys", make.ssh_public(_ADMIN_SSH) + b" admin\n", 0o600, (0, 0), make.ssh_public(_ADMIN_SSH), append=True),
    _text("known-host", "trace", "/root/.ssh/known_hosts", "{}.example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5\n", 0o600),
    # Certificates and private keys in every format
    _armour("host-key", "private-key", "/etc/grid-security/hostkey.pem", _ec("host-key", PrivateFormat.PKCS8), 0o400),
    _armour("host-certificate", "certificate", "/etc/grid-security/hostcert.pem", make.certificate("golden.example.org", make.rsa_key()), 0o644),
    _armour("rsa-key", "private-key", "/etc/pki/tls/private/service.key", make.pem(make.rsa_key(), PrivateFormat.TraditionalOpenSSL)),
    _armour("ec-key", "private-key", "/opt/service/conf/server.conf", b"listen 443\n" + _ec("ec-key", PrivateFormat.TraditionalOpenSSL)),
    _bytes("der-key", "private-key", "/opt/service/conf/server.bin", make.ec_key("der-key").private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), _raw("der-key")),
    _bytes("pkcs12", "private-key", "/etc/grid-security/robot.p12", make.pkcs12_file(word("pkcs12")), word("pkcs12").encode("utf-16-be")),
    _bytes("java-keystore", "private-key", "/etc/service/keystore.jks", make.keystore("server"), seed("server", 600)),
    _armour("x509-proxy", "proxy", "/tmp/x509up_u1000", make.proxy("proxy")),
    _armour("robot-proxy", "proxy", "/var/lib/robot/current", make.proxy("robot")),
    _armour("pgp-key", "private-key", "/root/backup/signing.asc", make.pgp_armour("signer")),
    _bytes("pgp-keyring", "private-key", "/root/.gnupg/secring.gpg", make.pgp_secret_key("keyring"), seed("keyring")),
    _armour("puppet-key", "configuration-management", "/etc/puppetlabs/puppet/ssl/private_keys/golden.pem", _ec("puppet", PrivateFormat.PKCS8)),
    _armour("salt-key", "configuration-management", "/etc/salt/pki/minion/minion.pem", _ec("salt", PrivateFormat.PKCS8)),
    _armour("subscription-key", "private-key", "/etc/pki/consumer/key.pem", _ec("consumer", PrivateFormat.PKCS8)),
    # Kerberos, directory, AFS
    _bytes("host-keytab", "keytab", "/etc/krb5.keytab", make.keytab("host/golden.example.org", _KEYTAB), _KEYTAB),
    _bytes("service-keytab", "keytab", "/opt/service/conf/identity", make.keytab("service/golden.example.org", _SERVICE), _SERVICE),
    _bytes("credential-cache", "credential-cache", "/tmp/krb5cc_1000", make.credential_cache("alice", _TICKET), _TICKET),
    _bytes("hidden-credential-cache", "credential-cache", "/var/lib/robot/state", make.credential_cache("robot", _SESSION), _SESSION),
    _text("sssd-cache", "cache", "/var/lib/sss/db/cache_example.ldb", "TDB file\n{}\n", 0o600),
    _text("directory-password", "password", "/etc/sssd/sssd.conf", "[domain/example]\nldap_default_authtok = {}\n", 0o600),
    _bytes("afs-key", "private-key", "/etc/openafs/server/KeyFileExt", _AFS, _AFS),
    # Accounts and passwords
    *_account("alice", 1000, "6"),
    *_account("bob", 1501, "y"),
    _text("shadow-copy", "password-hash", "/etc/shadow-", "root:$6${}$abcdefgh:20000:0:99999:7:::\n", 0o600),
    # Tokens and passwords of people and services
    _text("history", "history", "/root/.bash_history", "ls\nmysql -u root -p{}\n", 0o600),
    _text("python-history", "history", "/root/.python_history", "password = '{}'\n", 0o600),
    _text("cloud-keys", "credential", "/root/.aws/credentials", "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = {}\n", 0o600),
    _text("netrc", "credential", "/root/.netrc", "machine git.example.org login admin password {}\n", 0o600),
    _text("registry-login", "credential", "/root/.docker/config.json", '{"auths": {"registry.example.org": {"auth": "{}"}}}', 0o600),
    _text("git-credentials", "credential", "/root/.git-credentials", "https://admin:{}@git.example.org\n", 0o600),
    _text("vault-token", "token", "/root/.vault-token", "hvs.{}", 0o600),
    _text("environment-token", "token", "/etc/environment", "SITE_API_TOKEN={}\n", append=True),
    _text("archive-password", "password", "/etc/apt/auth.conf.d/site.conf", "machine deb.example.org login farm password {}\n", 0o600),
    _bytes("wireguard", "private-key", "/etc/wireguard/wg0.conf", make.wireguard(_WG), make.wireguard(_WG).split(b"\n")[1]),
    # Configuration management and monitoring
    _text("quattor-profile", "configuration-management", "/var/lib/ccm/profile.3/profile.xml", '<nlist name="profile"><string name="rootpwd">{}</string></nlist>\n'),
    _text("quattor-configuration", "configuration-management", "/etc/ccm.conf", "profile https://quattor.example.org/{}.xml\n"),
    _text("puppet-report", "configuration-management", "/var/lib/puppet/state/last_run_report.yaml", "host: {}\n"),
    _text("lemon-spool", "monitoring", "/var/spool/lemon-agent/2026-01-01/samples", "{} 10001 1767225600 0.5\n"),
    _text("zabbix-psk", "monitoring", "/etc/zabbix/agent.psk", "{}\n", 0o640),
    _text("telegraf-token", "monitoring", "/etc/telegraf/telegraf.conf", '[[outputs.influxdb_v2]]\n  token = "{}"\n', 0o640),
    # Batch systems
    _text("lsf-configuration", "batch", "/etc/lsf.conf", "LSF_SERVER_HOSTS={}\n"),
    _text("lsf-state", "batch", "/var/lsf/lsbatch/4711.out", "{}\n", 0o600),
    _text("slurm-configuration", "batch", "/etc/slurm/slurm.conf", "ClusterName={}\nNodeName=golden\n"),
    _text("slurm-state", "batch", "/var/spool/slurmd/job04711/slurm_script", "#!/bin/sh\n# {}\n", 0o700),
    _bytes("munge-key", "batch", "/etc/munge/munge.key", _MUNGE, _MUNGE, 0o400),
    _bytes("slurm-jwt-key", "batch", "/etc/slurm/jwt_hs256.key", _JWT, _JWT),
    _bytes("condor-token", "token", "/etc/condor/tokens.d/farm", _TOKEN, _TOKEN.strip()),
    _bytes("condor-password", "batch", "/etc/condor/passwords.d/POOL", _POOL, _POOL),
    _bytes("bearer-token", "token", "/opt/pilot/current", _BEARER, _BEARER.strip()),
    _text("scratch", "trace", "/scratch/job4711/result", "{}\n"),
    # Network and cloud
    _text("dhcp-lease", "network", "/var/lib/dhcp/dhclient.eth0.leases", 'lease {\n  option host-name "{}";\n}\n'),
    _text("network-connection", "network", "/etc/NetworkManager/system-connections/site.nmconnection", "[wifi-security]\npsk={}\n", 0o600),
    _text("interface", "network", "/etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nUUID={}\nBOOTPROTO=none\nIPADDR=192.0.2.7\n"),
    _text("fstab", "identity", "/etc/fstab", "UUID={} /mnt/golden ext4 noauto,nofail 0 0\n", append=True),
    _text("user-data", "cloud-init", "/var/lib/cloud/instances/i-0123/user-data.txt", "#cloud-config\npassword: {}\n", 0o600),
    _text("instance", "cloud-init", "/var/lib/cloud/data/instance-id", "i-{}\n"),
    # Caches and traces
    _text("cvmfs-cache", "cache", "/var/lib/cvmfs/shared/4f/0123456789abcdef", "{}\n"),
    _text("container-layer", "cache", "/var/lib/docker/overlay2/0123/diff/etc/secret", "{}\n"),
    _text("mail", "mail", "/var/mail/root", "From alice\nSubject: {}\n", 0o660),
    _text("log", "log", "/var/log/auth.log", "sshd: Failed password for {} from 192.0.2.1\n", 0o640),
    _text("crontab", "trace", "/var/spool/cron/crontabs/operator", "* * * * * true {}\n", 0o600),
    _text("editor-swap", "trace", "/etc/sssd/.sssd.conf.swp", "b0VIM 9.0\n{}\n", 0o600),
    _text("installer-answers", "password-hash", "/root/anaconda-ks.cfg", "rootpw --iscrypted $6${}$abcdefgh\n", 0o600),
    _bytes("core-dump", "core-dump", "/opt/service/work/dump.4711", make.core_dump(word("core").encode() * 4), word("core").encode()),
    _bytes("stored-core-dump", "core-dump", "/var/lib/systemd/coredump/core.sshd.0", make.core_dump(word("core2").encode()), word("core2").encode()),
    _text("temporary-file", "trace", "/var/tmp/export.sql", "{}\n", 0o600),
)  # fmt: skip
"""All of them."""


def plant(root: Path) -> None:
    """Writes all of them into a tree, with the folders that they need and, as root, their owners."""
    root = root.resolve()
    for planted in PLANTED:
        path = root / planted.path.removeprefix("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        assert path.parent.resolve().is_relative_to(root), f"{path} is not in the tree"
        assert not path.is_symlink(), f"{path} is a link"
        there = path.exists()
        if there and not planted.append:
            path.chmod(0o600)
        with path.open("ab" if planted.append else "wb") as f:
            f.write(planted.content)
        if not there or not planted.append:
            path.chmod(planted.mode)
            if os.geteuid() == 0:
                os.chown(path, *planted.owner)


def found_in(root: Path) -> list[str]:
    """The names of those that are still somewhere in a tree: in a file, in a name, or in a link."""
    left: set[str] = set()
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            data = os.fsencode(name) + b"\n"
            if path.is_symlink():
                data += os.fsencode(path.readlink())
            elif path.is_file():
                data += path.read_bytes()
            left |= {p.name for p in PLANTED if p.marker in data}
    return sorted(left)
