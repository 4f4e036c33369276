"""What makes a machine this one machine, in files that every machine has: its name, its network, its disks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from kiosk.audit.model import Hit
from kiosk.audit.sample import Sample

_LOCAL_NAMES = re.compile(rb"localhost(?:\.localdomain)?|localhost[46](?:\.localdomain[46])?|debian|\(none\)")
_MAC = rb"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}"
_NO_MAC = re.compile(rb"(?:00[:-]){5}00|(?:[Ff]{2}[:-]){5}[Ff]{2}")
_ADDRESS = rb"(?:\d{1,3}\.){3}\d{1,3}|[0-9a-fA-F]{1,4}:[0-9a-fA-F:]{2,40}"
_NETWORK_FILES = re.compile(
    rb"/etc/(?:udev/rules\.d/.+|systemd/network/.+|sysconfig/network(?:-scripts/(?:ifcfg|route|keys)-.+)?"
    rb"|sysconfig/network/ifcfg-.+|network/interfaces(?:\.d/.+)?|NetworkManager/system-connections/.+"
    rb"|NetworkManager/conf\.d/.+|NetworkManager/NetworkManager\.conf|netplan/.+|dhcpcd\.conf|dhcp/dhclient.*\.conf"
    rb"|wpa_supplicant/.+|conf\.d/net)|/usr/lib/systemd/network/.+|/lib/netplan/.+|/run/NetworkManager/.+"
    rb"|/var/lib/NetworkManager/.+"
)
_HARDWARE = re.compile(
    rb"(?i)(?:hwaddr|macaddr(?:ess)?|mac-address|hwaddress(?: ether)?|ATTRS?\{address\}|macaddress|lladdr"
    rb"|PermanentMACAddress|mac_addr)\s{0,5}[=:]{0,2}\s{0,5}[\"']?(" + _MAC + rb")"
)  # fmt: skip
_STATIC = re.compile(
    rb"^[ \t]{0,20}(?:IPADDR\d{0,2}|IPV6ADDR|Address\d{0,2}|address\d{0,2}|addresses|GATEWAY\d?|Gateway|gateway|DNS\d?"
    rb"|dns|dns-nameservers|static ip_address|fixed-address|NETADDR)[ \t]{0,5}(?:=|:|[ \t])[ \t\"'\[-]{0,10}("
    + _ADDRESS + rb")",
    re.M,
)  # fmt: skip
_NETPLAN = re.compile(rb"^[ \t]{0,20}- [\"']?(" + _ADDRESS + rb")/\d{1,3}[\"']?[ \t]*$", re.M)
_UUID = re.compile(rb"^(?:uuid|UUID)[ \t]{0,5}=[ \t]{0,5}[\"']?[0-9a-f]{8}-[0-9a-f-]{27}", re.M)
_LEASE = re.compile(
    rb"^(?:lease6? \{|  fixed-address |ADDRESS=[0-9.]+\nNETMASK=|# This is private data)", re.M
)
_HOSTS = re.compile(rb"^[ \t]{0,10}(" + _ADDRESS + rb")[ \t]+([^#\n]{1,400})", re.M)
_OWN_FSTYPES = (b"proc", b"sysfs", b"tmpfs", b"devpts", b"cgroup", b"cgroup2", b"securityfs", b"debugfs", b"none",
                b"cvmfs", b"hugetlbfs", b"efivarfs", b"mqueue", b"overlay", b"tracefs", b"configfs", b"fusectl",
                b"ramfs")  # fmt: skip
_OWN_SOURCES = re.compile(rb"(?i)/dev/mapper/root|/dev/root|LABEL=(?:root|esp|efi|verity|cloudimg-rootfs)"
                          rb"|PARTLABEL=(?:root|esp|verity)|none|tmpfs")  # fmt: skip
_UNIT = re.compile(rb"^What[ \t]{0,5}=[ \t]{0,5}(\S{1,400})", re.M)
_UNIT_TYPE = re.compile(rb"^Type[ \t]{0,5}=[ \t]{0,5}(\S{1,40})", re.M)
_NODE_ADDRESS = re.compile(rb"(?:127\.|0\.0\.0\.0|255\.|169\.254\.|224\.|::|fe80|ff0|fe00).*")


def identity(sample: Sample, own: Collection[str]) -> Iterator[Hit]:
    """What one file says of the machine it comes from. `own` are the UUIDs of the image's own file systems."""
    if not sample.head or not sample.text or sample.pristine:
        return
    path = sample.path
    if path in (b"/etc/hostname", b"/etc/HOSTNAME", b"/etc/nodename", b"/etc/mailname", b"/etc/myhostname"):
        yield from _name(sample, sample.data.strip())
    elif path == b"/etc/hosts":
        yield from _hosts(sample)
    elif path == b"/etc/fstab" or path == b"/etc/crypttab":
        yield from _table(sample, own)
    elif path.startswith((b"/etc/systemd/system/", b"/usr/local/lib/systemd/")) and path.endswith(
        (b".mount", b".swap")
    ):
        kind = _UNIT_TYPE.search(sample.data)
        m = _UNIT.search(sample.data)
        if m and _foreign(m[1], kind[1] if kind else b"", own):
            yield sample.hit("foreign-mount", f"mounts {_text(m[1])}", m.start())
    elif path in (b"/etc/mdadm/mdadm.conf", b"/etc/mdadm.conf") and (
        m := re.search(rb"^ARRAY [^\n]*UUID=", sample.data, re.M)
    ):
        yield sample.hit("storage-identity", "the disks of an array", m.start())
    elif _NETWORK_FILES.fullmatch(path):
        yield from _network(sample)
    if sample.name.endswith((b".lease", b".leases", b".lease6")) and (m := _LEASE.search(sample.data)):
        yield sample.hit("dhcp-lease", "a DHCP lease", m.start())


def _name(sample: Sample, name: bytes) -> Iterator[Hit]:
    if name and not name.startswith(b"#") and not _LOCAL_NAMES.fullmatch(name):
        yield sample.hit("hostname", f"the name {_text(name)}")


def _hosts(sample: Sample) -> Iterator[Hit]:
    """Names of 127.x but localhost, and of addresses that are not the machine's own."""
    for m in _HOSTS.finditer(sample.data):
        names = [n for n in m[2].split() if not _LOCAL_NAMES.fullmatch(n) and not n.startswith(b"ip6-")]
        if m[1].startswith(b"127.") and names:
            yield sample.hit("hostname", f"the name {_text(names[0])}", m.start())
        elif not _NODE_ADDRESS.fullmatch(m[1]) and names:
            yield sample.hit("network-identity", f"the address of {_text(names[0])}", m.start())


def _table(sample: Sample, own: Collection[str]) -> Iterator[Hit]:
    """fstab and crypttab: disks that are not the image's, swap, network shares."""
    at = 0
    for line in sample.data.splitlines(keepends=True):
        words = line.partition(b"#")[0].split()
        if len(words) >= 2:
            source, kind = (
                (words[0], words[2]) if len(words) > 2 and sample.name == b"fstab" else (words[1], b"")
            )
            if _foreign(source, kind, own):
                yield sample.hit("foreign-mount", f"mounts {_text(source)}", at)
        at += len(line)


def _foreign(source: bytes, kind: bytes, own: Collection[str]) -> bool:
    if kind in _OWN_FSTYPES or _OWN_SOURCES.fullmatch(source):
        return False
    uuid = (
        source.rpartition(b"=" if b"=" in source else b"/")[2].strip(b'"').decode("ascii", "replace").lower()
    )
    return kind == b"swap" or uuid not in own


def _network(sample: Sample) -> Iterator[Hit]:
    data = sample.data
    for m in _HARDWARE.finditer(data):
        if not _NO_MAC.fullmatch(m[1]) and not _commented(data, m.start()):
            yield sample.hit("network-identity", "a MAC address", m.start())
            break
    for pattern in (_STATIC, _NETPLAN):
        for m in pattern.finditer(data):
            if not _NODE_ADDRESS.fullmatch(m[1]):
                yield sample.hit("network-identity", "a static address", m.start())
                return
    if b"NetworkManager/system-connections" in sample.path or b"ifcfg-" in sample.name:
        if uuid := _UUID.search(data):
            yield sample.hit("network-identity", "the identifier of a connection", uuid.start())
    elif sample.path == b"/etc/sysconfig/network":
        for name in re.finditer(rb"^HOSTNAME=[\"']?([^\s\"']+)", data, re.M):
            yield from _name(sample, name[1])


def _commented(data: bytes, at: int) -> bool:
    start = data.rfind(b"\n", 0, at) + 1
    return data[start:at].lstrip().startswith(b"#")


def _text(value: bytes) -> str:
    return value[:120].decode("utf-8", "backslashreplace")
