"""For every check: real things that it must find, where they are planted, and clean twins beside them."""

from __future__ import annotations

import base64
import gzip
import json
import os
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from tests.audit import material as m
from tests.audit.images import PASSWD, SHADOW, Root

Data = bytes | str
MAC = "52:54:00:a1:b2:c3"


@dataclass(frozen=True)
class Case:
    """Content at a path that a check finds, and content at a path that no check does."""

    check: str
    path: str
    data: Callable[[], Data]
    twin: Callable[[], Data]
    twin_path: str | None = None

    def __str__(self) -> str:
        return f"{self.check} {self.path}"


def text(value: Data) -> Callable[[], Data]:
    return lambda: value


def case(
    check: str,
    path: str,
    data: Data | Callable[[], Data],
    twin: Data | Callable[[], Data],
    twin_path: str | None = None,
) -> Case:
    return Case(
        check, path, data if callable(data) else text(data), twin if callable(twin) else text(twin), twin_path
    )


def assigned(key: str, value: str) -> str:
    return f"# settings\n{key} = {value}\n"


CASES = [
    # keys, in files of any name
    case(
        "private-key", "/etc/ssl/private/node.key", m.pem, "-----BEGIN PRIVATE KEY-----\nhere goes the key\n"
    ),
    case(
        "private-key",
        "/opt/app/backup.txt",
        lambda: m.pem(PrivateFormat.TraditionalOpenSSL),
        "RSA PRIVATE KEY\n",
    ),
    case("private-key", "/srv/a", lambda: m.pem(password=b"x"), "ENCRYPTED PRIVATE KEY\n"),
    case(
        "private-key",
        "/usr/share/x/sa.json",
        lambda: json.dumps({"private_key": m.pem().decode()}),
        json.dumps({"private_key": "-----BEGIN PRIVATE KEY-----\n..."}),
    ),
    case(
        "private-key",
        "/root/.ssh/id_ed25519",
        lambda: m.written(ed25519.Ed25519PrivateKey.generate(), Encoding.PEM, PrivateFormat.OpenSSH),
        '_START = b"-----BEGIN OPENSSH PRIVATE KEY-----"\n',
        "/usr/lib/kiosk/ssh.py",
    ),
    case(
        "private-key",
        "/var/lib/x/pkcs8.bin",
        lambda: m.written(m.ec_key(), Encoding.DER, PrivateFormat.PKCS8),
        b"\x30\x82\x00\x10" + b"not a key, truly",
    ),
    case(
        "private-key",
        "/var/lib/x/pkcs1.bin",
        lambda: m.written(m.rsa_key(), Encoding.DER, PrivateFormat.TraditionalOpenSSL),
        b"\x30\x03\x02\x01\x00" * 4,
    ),
    case(
        "private-key",
        "/var/lib/x/locked.bin",
        lambda: m.written(m.ec_key(), Encoding.DER, PrivateFormat.PKCS8, b"pw"),
        b"\x30\x02\x05\x00" * 5,
    ),
    case(
        "private-key",
        "/opt/k.ppk",
        "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n",
        "PuTTY-User-Key-File\n",
    ),
    case(
        "private-key",
        "/etc/wireguard/wg0.conf",
        lambda: f"[Interface]\nPrivateKey = {base64.b64encode(m.noise('wg', 32)).decode()}\n",
        "[Interface]\nPrivateKey = \n",
    ),
    case(
        "private-key",
        "/etc/age.txt",
        "AGE-SECRET-KEY-1" + "QPZRY9X8GF" * 5 + "QPZRY9X8\n",
        "age1qpzry9x8gf2tvdw0\n",
    ),
    case(
        "private-key",
        "/srv/jwk.json",
        lambda: json.dumps({"kty": "EC", "crv": "P-256", "d": "a" * 20 + "Zz19-_" * 4}),
        json.dumps({"kty": "EC", "crv": "P-256", "x": "a" * 43}),
    ),
    case(
        "private-key",
        "/etc/dropbear/rsa",
        lambda: b"\0\0\0\x07ssh-rsa\0\0\0\x03\1\0\1" + m.noise("db", 300),
        b"\0\0\0\x07ssh-xxx" + bytes(40),
    ),
    case(
        "private-key",
        "/etc/bind/K.private",
        "Private-key-format: v1.3\nAlgorithm: 13 (ECDSAP256SHA256)\n",
        "; zone\n",
    ),
    case(
        "private-key",
        "/var/backups/etc.gz",
        lambda: gzip.compress(b"x" * 300 + m.pem()),
        lambda: gzip.compress(b"x" * 300),
    ),
    case(
        "private-key",
        "/srv/keys.der",
        lambda: m.certificate("n", ca=True).public_bytes(Encoding.DER) + m.ec_der() + m.ec_der(),
        lambda: m.certificate("n", ca=True).public_bytes(Encoding.DER) * 3,
    ),
    case("private-key", "/srv/le.pem", lambda: m.pem().decode().encode("utf-16"), "BEGIN".encode("utf-16")),
    case(
        "private-key",
        "/root/be.pem",
        lambda: m.pem().decode().encode("utf-16-be"),
        "-----BEGIN PRIVATE KEY-----\n…".encode("utf-16-be"),
    ),
    case("key-store", "/etc/node.p12", lambda: m.store(key=True), lambda: m.store(key=False)),
    case(
        "key-store",
        "/etc/locked.pfx",
        lambda: m.store(key=False, password=b"who knows"),
        lambda: m.store(key=False, password=b"changeme"),
    ),
    case("key-store", "/opt/keystore", lambda: m.java_store(1), lambda: m.java_store(2)),
    case("key-store", "/srv/data.img", b"LUKS\xba\xbe\x00\x02" + bytes(500), b"LUKS is a format\n"),
    case(
        "key-store", "/root/p.kdbx", b"\x03\xd9\xa2\x9a\x67\xfb\x4b\xb5" + bytes(64), b"\x03\xd9" + bytes(64)
    ),
    case("pgp-secret-key", "/root/.gnupg/secring", m.pgp_secret, b"\xc6" + bytes([51]) + b"\x04" + bytes(50)),
    case(
        "pgp-secret-key",
        "/srv/armoured",
        lambda: (
            b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n"
            + base64.b64encode(m.pgp_secret())
            + b"\n-----END PGP PRIVATE KEY BLOCK-----\n"
        ),
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEaVdzgBYJKwYBBAHaRw8BAQdA\n",
    ),
    case(
        "pgp-secret-key",
        "/root/.gnupg/private-keys-v1.d/A.key",
        "Created: 20260101T000000\nKey: (private-key (ecc\n",
        "Created: now\n",
    ),
    case("ssh-host-key", "/etc/ssh/ssh_host_rsa_key.pub", m.ssh_public, ""),
    case("authorized-key", "/root/.ssh/authorized_keys", lambda: "# me\n" + m.ssh_public(), "# nobody\n"),
    case(
        "authorized-key",
        "/var/lib/x/allowed",
        lambda: 'from="10.0.0.0/8" ' + m.ssh_public(),
        "ssh-ed25519 AAAA...\n",
    ),
    case(
        "host-certificate",
        "/etc/grid-security/hostcert.pem",
        lambda: m.certificate_pem("host/node.example.org"),
        lambda: m.certificate_pem("Grid CA", ca=True),
        "/etc/grid-security/certificates/ca.pem",
    ),
    case(
        "host-certificate",
        "/etc/ssl/certs/snakeoil.pem",
        lambda: m.certificate_pem("vm"),
        lambda: m.certificate_pem("R", ca=True),
    ),
    case(
        "host-certificate",
        "/srv/node.crt",
        lambda: m.certificate("n").public_bytes(Encoding.DER),
        lambda: m.certificate("CA2", ca=True).public_bytes(Encoding.DER),
    ),
    case(
        "x509-proxy",
        "/opt/x509up_u1000",
        lambda: m.certificate_pem("p", proxy=True),
        lambda: m.certificate_pem("C", ca=True),
    ),
    case("kerberos-keytab", "/opt/x/krb5.keytab", m.keytab, b"\x05\x02" + bytes(40)),
    case("kerberos-cache", "/opt/x/krb5cc_1000", m.ccache, b"\x05\x04" + b"\xff" * 12 + bytes(40)),
    # files that are nothing but a secret
    case("key-file", "/etc/munge.key", lambda: m.noise("munge", 128), lambda: b"0123456789" * 12),
    case(
        "key-file",
        "/var/lib/x/secret",
        lambda: m.noise("n", 1024),
        lambda: bytes(range(64)) * 2 + b"\0" * 900,
    ),
    case(
        "key-file",
        "/data/pool.key",
        lambda: m.noise("pool", 10_000),
        lambda: zlib.compress(m.noise("z", 10_000)),
    ),
    case(
        "key-file", "/etc/app/k", lambda: m.noise("k", 64 << 10), lambda: gzip.compress(m.noise("g", 50_000))
    ),
    case(
        "key-file",
        "/etc/app/k2",
        lambda: m.noise("k2", 9000),
        lambda: b"\x85\x02\x0c\x03" + m.noise("gpg", 20_000),
    ),
    case(
        "key-file",
        "/srv/k3",
        lambda: m.noise("k3", 9000),
        lambda: b"KVDB" + bytes(60) + m.noise("db", 20_000),
    ),
    case(
        "key-file",
        "/root/token",
        lambda: m.noise("hex", 32).hex() + "\n",
        "the quick brown fox jumps over it\n",
    ),
    case(
        "key-file",
        "/etc/app/secret",
        lambda: base64.b64encode(m.noise("b64", 33)),
        "AVeryLongWordOfLettersAlone\n",
    ),
    # tokens, passwords, hashes
    case("token", "/etc/condor.d/t", lambda: m.jwt("farm.example.org"), "eyJhbGciOiJ.notatoken.really\n"),
    case("token", "/opt/env", "export K=AKIAQ3EGVJ4WTXMPLZ7B\n", "export K=AKIAIOSFODNN7EXAMPLE\n"),
    case(
        "token",
        "/srv/aws",
        "aws_secret_access_key = wJ4lrXUtnFEMI/K7MDENG/bPxRfiCYzQ8sVn2T0d\n",
        "aws_secret_access_key =\n",
    ),
    case(
        "token",
        "/usr/lib/x/a.py",
        lambda: "T='ghp_" + "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY2zA4'\n",
        "T='ghp_" + "x" * 36 + "'\n",
    ),
    case("token", "/opt/gl", "glpat-x7Kq9Zt3Vb5Nm1Lp8Rw2\n", "glpat-token\n"),
    case("token", "/opt/slack", "xoxb-123456789012-abcDEFghiJKL456mno\n", "xoxb-\n"),
    case("token", "/opt/google", "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY\n", "AIza\n"),
    case("token", "/opt/vault", "hvs.CAESIJ7Zk3Q9fXw1LmN0pRsT\n", "hvs.token\n"),
    case(
        "token",
        "/root/.docker/config.json",
        lambda: json.dumps({"auths": {"r": {"auth": base64.b64encode(b"al:s3cr3t").decode()}}}),
        json.dumps({"auths": {}}),
    ),
    case("token", "/opt/azure", "AccountKey=" + "abcDEF12+/" * 8 + "abcDEF==\n", "AccountKey=\n"),
    case(
        "password",
        "/etc/app.conf",
        assigned("db_password", "Tr0ub4dor"),
        assigned("db_password", "${DB_PASSWORD}"),
    ),
    case("password", "/etc/app.yaml", "db:\n  passwd: hunter22\n", "db:\n  passwd: null\n"),
    case(
        "password", "/etc/app.json", '{\n "client_secret": "9f8e7d6c5b"\n}\n', '{\n "client_secret": ""\n}\n'
    ),
    case("password", "/etc/ldap.conf", "bindpw hunter22\n", "#bindpw secret\nbindpw_file /run/x\n"),
    case(
        "password",
        "/etc/apt/sources.list.d/x.list",
        "deb https://me42:s3cr3tword@mirror.example/debian x main\n",
        "deb https://mirror.example/debian x main\n",
    ),
    case(
        "password",
        "/root/.netrc",
        "machine ftp.example login alice password s3cr3tword\n",
        "machine ftp.example login alice\n",
    ),
    case(
        "password",
        "/root/.pgpass",
        "db.example:5432:jobs:alice:s3cr3tword\n",
        "# host:port:db:user:password\n",
    ),
    case(
        "password", "/etc/ppp/chap-secrets", 'node * "s3cr3tword" *\n', "# client server secret addresses\n"
    ),
    case(
        "password-hash", "/etc/shadow", lambda: SHADOW + f"alice:{m.crypt('y')}:20000:0:99999:7:::\n", SHADOW
    ),
    case(
        "password-hash", "/etc/shadow-", lambda: SHADOW + f"alice:{m.crypt('6')}:20000:0:99999:7:::\n", SHADOW
    ),
    case(
        "password-hash",
        "/root/anaconda-ks.cfg",
        lambda: f"rootpw --iscrypted {m.crypt('5')}\n",
        "rootpw --lock\n",
    ),
    case("password-hash", "/srv/x/users", lambda: f"alice:{m.crypt('2b')}\n", "alice:$2b$12$short\n"),
    case("password", "/root/ks.cfg", "rootpw --plaintext s3cr3tword\n", "rootpw --lock\n"),
    case("password-hash", "/etc/nginx/htpasswd", "alice:rqXexS6ZhobKA\n", "# alice:nothing\n"),
    case("password-hash", "/etc/security/opasswd", "alice:rqXexS6ZhobKA:20000:0:99999:7:::\n", ""),
    case("empty-password", "/etc/shadow", SHADOW + "guest::20000:0:99999:7:::\n", SHADOW),
    case("empty-password", "/etc/passwd", PASSWD + "guest::500:500::/:/bin/sh\n", PASSWD),
    case("account", "/etc/passwd", PASSWD + "alice:x:1000:1000:Alice,,,:/home/alice:/bin/bash\n", PASSWD),
    case("account", "/etc/subuid", "alice:100000:65536\n", ""),
    case("second-root", "/etc/passwd", PASSWD + "toor:x:0:0::/root:/bin/sh\n", PASSWD),
    case(
        "account", "/etc/group", "root:x:0:\nalice:x:1000:\n", "root:x:0:\nslurm:x:64030:\nnogroup:x:65534:\n"
    ),
    case("account", "/home/alice/thesis.tex", "x", ""),
    # what people left
    case("history", "/root/.bash_history", "ssh node42\n", ""),
    case("history", "/opt/x/.lesshst", ".less-history-file:\n", ""),
    case("history", "/root/.ssh/known_hosts", "node42 ssh-rsa AAAAB3\n", "", "/etc/ssh/ssh_known_hosts"),
    case("core-dump", "/srv/x/core.bin", lambda: m.elf(4), lambda: m.elf(2)),
    case("core-dump", "/var/crash/vmcore", b"KDUMP   " + bytes(64), ""),
    case("history", "/etc/app/.app.conf.swp", b"b0VIM 9.0\0" + bytes(50), ""),
    case("container-content", "/var/lib/docker/overlay2/a/diff/etc/x", "x", ""),
    case("mail", "/var/mail/root", "From cron Mon Jan  5 2026\n\nhello\n", ""),
    case("user-job", "/var/spool/cron/crontabs/alice", "0 * * * * true\n", "", "/var/spool/cron/atjobs/.SEQ"),
    case("log", "/var/log/syslog", "Jan 1 node42 kernel: x\n", ""),
    case("log", "/srv/x/old.journal", b"LPKSHHRH" + bytes(200), b"LPK" + bytes(200)),
    case("temporary-file", "/tmp/build.sh", "x\n", ""),
    # who the machine is
    case("machine-id", "/etc/machine-id", "0a1b2c3d4e5f60718293a4b5c6d7e8f9\n", "uninitialized\n", "/etc/x"),
    case(
        "machine-id",
        "/opt/x/id",
        "b08dfa60-83e7-4567-a190-1bb2000001fb\n",
        "00000000-0000-0000-0000-000000000000\n",
    ),
    case("hostname", "/etc/hostname", "node42.example.org\n", "localhost\n"),
    case(
        "hostname",
        "/etc/hosts",
        "127.0.0.1 localhost\n127.0.1.1 node42\n",
        "127.0.0.1 localhost\n::1 ip6-localhost\n",
    ),
    case("random-seed", "/var/lib/systemd/random-seed", lambda: b"x" * 512, ""),
    case("dhcp-lease", "/var/lib/dhcp/dhclient.eth0.leases", "lease {\n  fixed-address 10.1.2.3;\n}\n", ""),
    case(
        "dhcp-lease",
        "/srv/x/eth0.lease",
        "# This is private data. Do not parse.\nADDRESS=10.1.2.3\n",
        "lease of life\n",
    ),
    case(
        "network-identity",
        "/etc/udev/rules.d/10-net.rules",
        f'SUBSYSTEM=="net", ATTR{{address}}=="{MAC}", NAME="eth0"\n',
        'SUBSYSTEM=="net", ATTR{address}=="00:00:00:00:00:00"\n',
    ),
    case(
        "network-identity",
        "/etc/sysconfig/network-scripts/ifcfg-eth0",
        f"DEVICE=eth0\nHWADDR={MAC}\n",
        "DEVICE=eth0\nBOOTPROTO=dhcp\n",
    ),
    case(
        "network-identity",
        "/etc/network/interfaces",
        "iface eth0 inet static\n  address 10.1.2.3/24\n",
        "iface eth0 inet dhcp\n",
    ),
    case(
        "network-identity",
        "/etc/NetworkManager/system-connections/a.nmconnection",
        "[connection]\nuuid=b08dfa60-83e7-4567-a190-1bb2000001fb\n",
        "[connection]\ntype=ethernet\n",
    ),
    case(
        "network-identity",
        "/etc/netplan/01.yaml",
        "network:\n  ethernets:\n    eth0:\n      addresses:\n        - 10.1.2.3/24\n",
        "network:\n  ethernets:\n    eth0:\n      dhcp4: true\n",
    ),
    case("network-identity", "/etc/.resolv.conf.systemd-resolved.bak", "nameserver 10.1.2.3\n", ""),
    case("cloud-init-state", "/var/lib/cloud/instances/i-1/user-data.txt", "#cloud-config\n", ""),
    case("cvmfs-cache", "/var/lib/cvmfs/shared/1a/2b3c", b"\x78\x9c" + bytes(60), ""),
    case("config-management", "/var/lib/ccm/data/profile.1/profile.json", "{}", ""),
    case(
        "config-management", "/etc/puppet/puppet.conf", "[main]\ncertname = node42\n", "[main]\nssldir = /x\n"
    ),
    case("config-management", "/etc/salt/minion_id", "node42\n", ""),
    case(
        "monitoring-identity",
        "/etc/zabbix/zabbix_agentd.conf",
        "Hostname=node42\n",
        "Hostname=Zabbix server\nServer=127.0.0.1\n",
    ),
    case("monitoring-identity", "/etc/lemon/agent.conf", "x\n", ""),
    case("batch-state", "/usr/share/lsf/conf/lsf.conf", "LSF_SERVERDIR=/x\n", ""),
    case("batch-state", "/etc/slurm/slurm.conf", "ClusterName=farm\n", ""),
    case("batch-state", "/etc/condor/config.d/10-host.conf", "CONDOR_HOST = x\n", ""),
    case("directory-state", "/var/lib/sss/db/cache_x.ldb", b"TDB file\n" + bytes(50), ""),
    case(
        "storage-identity",
        "/etc/iscsi/initiatorname.iscsi",
        "InitiatorName=iqn.2026-01.org.example:node42\n",
        "",
    ),
    case("subscription", "/etc/popularity-contest.conf", "MY_HOSTID=x\n", ""),
    case(
        "foreign-mount",
        "/etc/fstab",
        "UUID=b08dfa60-83e7-4567-a190-1bb2000001fb none swap sw 0 0\n",
        "tmpfs /tmp tmpfs nosuid 0 0\n",
    ),
    case("foreign-mount", "/etc/fstab", "nas.example:/home /home nfs rw 0 0\n", "/dev/root / ext4 ro 0 1\n"),
    case(
        "foreign-mount",
        "/etc/systemd/system/data.mount",
        "[Mount]\nWhat=/dev/sdb1\nWhere=/data\n",
        "[Mount]\nWhat=tmpfs\nType=tmpfs\n",
    ),
]


def change(root: Root) -> None:
    root.write("usr/bin/login", b"another login", 0o755)


def damage(root: Root) -> None:
    (root.path / "var/lib/dpkg/status").unlink()


def capability(root: Root, path: str) -> None:
    file = root.write(path, b"\x7fELF tool", 0o755)
    os.setxattr(file, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0))


def packaged_setuid(root: Root) -> None:
    root.install("passwd", {"/usr/bin/passwd": b"\x7fELF passwd"}, mode=0o4755)
    root.database()


def packaged_capability(root: Root) -> None:
    root.install("ping", {"/usr/bin/ping": b"\x7fELF tool"})
    root.database()
    capability(root, "/usr/bin/ping")


def disown(root: Root) -> None:
    root.write("usr/bin/login", b"\x7fELF login", 0o2755)
    del root.packages["systemd"]["/bin/login"]
    root.database()


def device(root: Root) -> None:
    (root.path / "srv").mkdir()
    os.mknod(root.path / "srv/sda", stat.S_IFBLK | 0o600, os.makedev(8, 0))


def null(root: Root) -> None:
    os.mknod(root.path / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))


def shared(mode: int) -> Callable[[Root], None]:
    def make(root: Root) -> None:
        (root.path / "srv/shared").mkdir(parents=True)
        (root.path / "srv/shared").chmod(mode)

    return make


Plant = Callable[[Root], object]
DEEDS: list[tuple[str, str, Plant, Plant]] = [
    (
        "setuid-file",
        "/usr/local/bin/become",
        lambda r: r.write("usr/local/bin/become", b"x", 0o4755),
        packaged_setuid,
    ),
    ("setuid-file", "/usr/bin/login", disown, lambda r: r.write("usr/local/lib/notes", b"x", 0o4644)),
    (
        "capability-file",
        "/usr/local/bin/ping",
        lambda r: capability(r, "usr/local/bin/ping"),
        packaged_capability,
    ),
    ("device-node", "/srv/sda", device, null),
    (
        "world-writable",
        "/etc/open",
        lambda r: r.write("etc/open", "x", 0o666),
        lambda r: r.write("etc/open", "x"),
    ),
    ("world-writable", "/srv/shared", shared(0o777), shared(0o1777)),
    ("package-file-changed", "/usr/bin/login", change, lambda r: (r.path / "usr/bin/login").unlink()),
    ("package-database", "/", damage, lambda r: r.database()),
    ("site-logging", "/", lambda r: (r.path / "usr/lib/systemd/systemd-journald").unlink(), lambda r: None),
]
"""What is no content of one file: the check, the place of its finding, the deed, and a harmless one."""
ELSEWHERE = {"package-list", "security-update", "updates-unknown", "unexamined"}
"""Checks that need more than a folder; their tests are in files of their own."""
