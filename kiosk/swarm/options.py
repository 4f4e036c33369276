"""How a host takes part in swarms, and what that means for libtorrent.

Everything that would find or be found by strangers is off: no DHT, no local discovery, no exchange of peers (the
torrents are private), no port mapping, no UDP. Connections go only between addresses that are allowed, and only
encrypted.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

import libtorrent as lt

from kiosk.errors import UsageError

PRIVATE = (
    "10.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
)
PORT = 6881
NEAR = 4
"""The priority of a peer of the own rack; others have 1."""
ALL = ("0.0.0.0", "255.255.255.255"), ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")  # noqa: S104 (networks)


@dataclass(frozen=True)
class Options:
    """`listen` are addresses with ports (`0.0.0.0:6881`; port 0 takes a free one). `peers` are the networks whose
    hosts are peers, `near` those that are preferred (the own rack): where there are any, the other peers share
    `far_upload_limit`. Limits are in bytes a second, 0 is none.
    `patience` is for how many seconds a peer may send nothing before others are asked for its blocks.
    `stall` is after how many seconds without a byte a torrent that waits for objects is said to be stalled."""

    listen: tuple[str, ...] = (f"0.0.0.0:{PORT}", f"[::]:{PORT}")
    peers: tuple[str, ...] = PRIVATE
    near: tuple[str, ...] = ()
    upload_limit: int = 0
    far_upload_limit: int = 0
    download_limit: int = 0
    connections: int = 80
    uploads: int = 12
    patience: int = 8
    stall: float = 30.0


def settings(options: Options) -> dict[str, Any]:
    """libtorrent's settings."""
    e = lt.alert_category
    return {
        "alert_mask": e.error | e.status | e.piece_progress | e.tracker | e.storage | e.peer | e.connect,
        "alert_queue_size": 20_000,
        "listen_interfaces": ",".join(options.listen),
        "outgoing_interfaces": _outgoing(options.listen),
        "listen_system_port_fallback": False,
        "max_retry_port_bind": 0,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_ip_notifier": False,
        "dht_bootstrap_nodes": "",
        "webtorrent_stun_server": "",
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "proxy_type": 0,
        "user_agent": "kiosk",
        "peer_fingerprint": "-KI0000-",
        "in_enc_policy": int(lt.enc_policy.forced),
        "out_enc_policy": int(lt.enc_policy.forced),
        "allowed_enc_level": int(lt.enc_level.rc4),
        "apply_ip_filter_to_trackers": False,  # who set the tracker meant it
        "announce_to_all_tiers": True,
        "prefer_udp_trackers": False,
        "tracker_completion_timeout": 15,
        "tracker_backoff": 100,
        "min_announce_interval": 15,
        "stop_tracker_timeout": 1,
        "max_concurrent_http_announces": 8,
        "upload_rate_limit": options.upload_limit,
        "download_rate_limit": options.download_limit,
        "connections_limit": options.connections,
        "unchoke_slots_limit": options.uploads,
        "connection_speed": 50,
        "torrent_connect_boost": 50,
        "min_reconnect_time": 2,
        "max_failcount": 10,
        "peer_connect_timeout": 5,
        "handshake_timeout": 10,
        "request_timeout": options.patience + 2,
        "piece_timeout": options.patience,
        # what is asked of the first holder early can't come from others meanwhile: he would send it to each of them
        "request_queue_time": 1,
        "max_out_request_queue": 64,
        "max_allowed_in_request_queue": 256,
        "peer_timeout": 4 * options.patience,
        "inactivity_timeout": 120,
        "max_peerlist_size": 1000,
        "max_peer_recv_buffer_size": 1 << 20,
        "max_queued_disk_bytes": 16 << 20,
        "cache_size": 256,
        "aio_threads": 2,
        "hashing_threads": 1,
        "file_pool_size": 100,
        "checking_mem_usage": 16,
        "no_recheck_incomplete_resume": True,
        "auto_manage_interval": 3600,
        "tick_interval": 500,
    }


def _outgoing(listen: tuple[str, ...]) -> str:
    """Connections come from where peers can connect to, unless that is every address."""
    addresses = [one.rpartition(":")[0].strip("[]") for one in listen]
    return "" if {"0.0.0.0", "::"} & set(addresses) else ",".join(addresses)  # noqa: S104


def ip_filter(options: Options) -> lt.ip_filter:
    """Lets through the allowed networks alone."""
    made = lt.ip_filter()
    for first, last in ALL:
        made.add_rule(first, last, 1)
    for network in options.peers:
        made.add_rule(*_ends(network), 0)
    return made


def peer_classes(session: lt.session, options: Options) -> None:
    """Puts all peers under the limits (libtorrent would leave those of private networks out). Where there are near
    networks, their peers are served whoever else is, and the others share `far_upload_limit`."""
    everybody = 1 << session.global_peer_class_id
    classes = lt.ip_filter()
    far = everybody
    if options.near:
        number = session.create_peer_class("far")
        info = session.get_peer_class(number)
        session.set_peer_class(number, {**info, "upload_limit": options.far_upload_limit})
        far |= 1 << number
    for first, last in ALL:
        classes.add_rule(first, last, far)
    if options.near:
        number = session.create_peer_class("near")
        info = session.get_peer_class(number)
        info = {**info, "ignore_unchoke_slots": True, "upload_priority": NEAR, "download_priority": NEAR}
        session.set_peer_class(number, info)
        for network in options.near:
            classes.add_rule(*_ends(network), everybody | 1 << number)
    session.set_peer_class_filter(classes)


def _ends(network: str) -> tuple[str, str]:
    try:
        found = ipaddress.ip_network(network)
    except ValueError as e:
        raise UsageError(
            f"is not a network: {e}", where=network[:80], hint="For example: 10.0.0.0/8"
        ) from None
    return str(found[0]), str(found[-1])
