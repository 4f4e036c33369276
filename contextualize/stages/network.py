"""Stage `network`: the static address, the time servers, and a metadata service that only root can ask.

DHCP is the image's own default and needs nothing here. That the network is up is not waited for: a later stage that
needs it tries until it is there. A metadata service still has the context and its secrets: from here on no user but
root reaches its addresses. Nobody vouches for the time servers: they are asked only once the metadata was verified,
whose expiry goes by the clock.
"""

from __future__ import annotations

import time
from typing import List

from contextualize.context import Context, Network
from contextualize.errors import Refused
from contextualize.machine import Machine

NETWORK = "/run/systemd/network/10-kiosk.network"
TIME = "/run/systemd/timesyncd.conf.d/kiosk.conf"
NETWORKD = ("/usr/lib/systemd/systemd-networkd", "/lib/systemd/systemd-networkd")
TIMESYNCD = ("/usr/lib/systemd/systemd-timesyncd", "/lib/systemd/systemd-timesyncd")
METADATA = ("169.254.169.254", "fd00:ec2::254", "fe80::a9fe:a9fe")
ETHERNET = b"1"
PATIENCE = 30.0
"""Seconds to wait for an interface to give the static address to."""


def run(machine: Machine, context: Context) -> None:
    """Sets up what the context asks for, or refuses."""
    if context.network:
        _address(machine, context.network)
    if context.time_servers:
        _time(machine, context)
    for address in METADATA:
        machine.only_root(address)


def start_clock(machine: Machine, context: Context) -> None:
    """Has the clock set by the context's time servers from now on."""
    if context.time_servers:
        machine.systemctl("--no-block", "restart", "systemd-timesyncd.service")


def _address(machine: Machine, network: Network) -> None:
    """A file for systemd-networkd, which starts at about this time: it is restarted where it has started already."""
    if not any(machine.exists(path) for path in NETWORKD):
        raise Refused("the context has a static address, and this image has no systemd-networkd")
    machine.replace(
        NETWORK, configuration(network, _only(machine) if network.mac is None else network.mac).encode()
    )
    machine.systemctl("--no-block", "try-restart", "systemd-networkd.service")


def configuration(network: Network, mac: str) -> str:
    """The text of the file. Refused where an address is none, or the gateway is of the other family."""
    import ipaddress

    try:
        own = ipaddress.ip_interface(network.address)
        gateway = ipaddress.ip_address(network.gateway) if network.gateway else None
        dns = [str(ipaddress.ip_address(one)) for one in network.dns]
    except ValueError as e:
        raise Refused(f"network: {e}") from None
    lines = ["[Match]", f"MACAddress={mac}", "Type=ether", "", "[Network]", f"Address={own}"]
    lines += [f"DNS={one}" for one in dns] + [f"Domains={one}" for one in network.search]
    lines += ["DHCP=no", "LinkLocalAddressing=ipv6", f"IPv6AcceptRA={'no' if own.version == 6 else 'yes'}"]
    if gateway is not None:
        if gateway.version != own.version:
            raise Refused(f"network: the gateway {gateway} is not of the family of {own}")
        lines += ["", "[Route]", f"Gateway={gateway}"]
        if gateway not in own.network and not gateway.is_link_local:
            lines.append("GatewayOnLink=yes")
    return "\n".join(lines) + "\n"


def _only(machine: Machine) -> str:
    """The MAC address of the one Ethernet interface that there is, once its driver has found it."""
    end = time.monotonic() + PATIENCE
    found = _interfaces(machine)
    while not found and time.monotonic() < end:
        time.sleep(0.1)
        found = _interfaces(machine)
    if len(found) != 1:
        raise Refused(
            f"network: there are {len(found)} Ethernet interfaces: `mac` must say which one is meant"
        )
    return found[0]


def _interfaces(machine: Machine) -> List[str]:
    """The MAC addresses of the Ethernet interfaces that are devices, and not made by software."""
    found: List[str] = []
    folder = machine.path("/sys/class/net")
    for name in sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []:
        at = f"/sys/class/net/{name}"
        if machine.exists(f"{at}/device") and machine.read(f"{at}/type", 64).strip() == ETHERNET:
            found.append(machine.read(f"{at}/address", 64).decode(errors="replace").strip())
    return found


def _time(machine: Machine, context: Context) -> None:
    if not any(machine.exists(path) for path in TIMESYNCD):
        raise Refused("the context has time_servers, and this image has no systemd-timesyncd")
    machine.replace(TIME, f"[Time]\nNTP={' '.join(context.time_servers)}\nFallbackNTP=\n".encode())
