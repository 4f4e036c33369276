"""A small tree that looks like a clean Debian worker node: what a sanitiser must leave as it is."""

from __future__ import annotations

from pathlib import Path

from tests.simulators.secrets import SAMPLES, certificate, rsa_key, ssh_public, truststore

PASSWD = """root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
systemd-network:x:998:998:systemd Network Management:/:/usr/sbin/nologin
slurm:x:64030:64030:kept by name:/nonexistent:/usr/sbin/nologin
"""
GROUP = """root:x:0:
daemon:x:1:
mail:x:8:
shadow:x:42:
www-data:x:33:
nogroup:x:65534:
systemd-network:x:998:
slurm:x:64030:
software:x:1470:
"""
CERTIFICATE = certificate("Example Root", rsa_key("robot")).decode()
FILES = {
    "usr/bin/bash": "\x7fELF program",
    "usr/lib/os-release": "ID=debian\nVERSION_ID=12\n",
    "usr/lib/python3/test/keycert.pem": SAMPLES["pem-key"]().decode(),
    "usr/share/doc/openssl/HOWTO/keys.txt": "-----BEGIN RSA PRIVATE KEY-----\n...\n",
    "etc/passwd": PASSWD,
    "etc/group": GROUP,
    "etc/shadow": "".join(f"{line.split(':')[0]}:*:20000:0:99999:7:::\n" for line in PASSWD.splitlines()),
    "etc/gshadow": "".join(f"{line.split(':')[0]}:*::\n" for line in GROUP.splitlines()),
    "etc/subuid": "",
    "etc/subgid": "",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n192.0.2.1\tmaster.example.org\n",
    "etc/fstab": "# nothing of this machine\nserver:/software /software nfs4 ro 0 0\n",
    "etc/machine-id": "",
    "etc/environment": "PATH=/usr/bin\nhttp_proxy=http://squid.example.org:3128\n",
    "etc/krb5.conf": "[libdefaults]\ndefault_realm = EXAMPLE.ORG\n",
    "etc/ssh/sshd_config": "PasswordAuthentication no\n",
    "etc/ssh/user_ca.pub": ssh_public(rsa_key()).decode(),
    "etc/ssl/certs/ca-certificates.crt": CERTIFICATE * 3,
    "etc/grid-security/certificates/Example.pem": CERTIFICATE,
    "etc/grid-security/vomsdir/vo/server.lsc": "/DC=org/CN=server\n",
    "etc/cvmfs/default.local": 'CVMFS_HTTP_PROXY="http://squid.example.org:3128"\n',
    "etc/cvmfs/keys/example.pub": "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n",
    "etc/systemd/network/80-dhcp.network": "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n",
    "etc/network/interfaces": "auto lo\niface lo inet loopback\niface ens3 inet dhcp\n",
    "etc/pam.d/common-password": "password [success=1] pam_unix.so yescrypt\n",
    "etc/default/useradd": "SHELL=/bin/sh\n",
    "etc/cron.d/site": "0 1 * * * root true\n",
    "etc/skel/.bashrc": "# nothing\n",
    "root/.bashrc": "# nothing\n",
    "root/.profile": "# nothing\n",
    "var/lib/dpkg/status": "Package: bash\nStatus: install ok installed\n",
    "var/lib/dpkg/info/bash.list": "/usr/bin/bash\n",
    "var/lib/apt/extended_states": "",
    "var/www/index.html": "<html></html>\n",
    "opt/software/readme.txt": "A key begins with -----BEGIN PRIVATE KEY-----.\n",
}
FOLDERS = (
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "home",
    "var/log/apt",
    "var/tmp",
    "var/mail",
    "var/spool/cron/crontabs",
)
LINKS = {
    "bin": "usr/bin",
    "lib": "usr/lib",
    "var/run": "/run",
    "var/spool/mail": "../mail",
    "etc/resolv.conf": "../run/systemd/resolve/resolv.conf",
    "etc/grid-security/certificates/0a1b2c3d.0": "Example.pem",
}


def make(root: Path) -> Path:
    """Makes the tree in a new folder."""
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
        path.chmod(0o644)
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    trust = root / "etc/ssl/certs/java/cacerts"
    trust.parent.mkdir()
    trust.write_bytes(truststore("example-root"))
    for name in ("etc/shadow", "etc/gshadow"):
        (root / name).chmod(0o640)
    (root / "etc/machine-id").chmod(0o444)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    (root / "var/spool/cron/crontabs").chmod(0o1730)
    return root
