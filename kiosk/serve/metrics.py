"""The fleet in numbers for Prometheus. Bounded: at most `MOST_VERSIONS` versions are named, the most held first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from kiosk.fleet.status import HostStatus, summary

MOST_VERSIONS = 500


@dataclass(frozen=True)
class Numbers:
    """What the server itself counts."""

    listeners: int
    sent: int
    refused: int
    leases: int
    waiting: int
    budget: int | None
    used: int
    over: bool
    seeds: int
    leechers: int
    timestamp: int


@dataclass(frozen=True, eq=False)
class _Once:
    metrics: tuple[Metric, ...]

    def collect(self) -> Iterable[Metric]:
        return self.metrics


def text(found: list[HostStatus], numbers: Numbers) -> bytes:
    """The page, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Once((*_fleet(found), *_server(numbers))))
    return generate_latest(registry)


def _fleet(found: list[HostStatus]) -> Iterable[Metric]:
    s = summary(found)
    hosts = GaugeMetricFamily("kiosk_hosts", "Hosts by state", labels=["state"])
    for state, count in s.states.items():
        hosts.add_metric([state], count)
    held = GaugeMetricFamily("kiosk_held_versions", "Hosts that hold a version", labels=["name", "version"])
    for version, count in list(s.holding.items())[:MOST_VERSIONS]:
        held.add_metric(version.split("@", 1), count)
    ages = [x.age for x in found if x.age is not None]
    yield hosts
    yield held
    yield _gauge("kiosk_hosts_behind", "Online hosts without the newest version they are offered", s.behind)
    yield _gauge("kiosk_hosts_failing", "Hosts that report an error", s.failing)
    yield _gauge("kiosk_hosts_fetching", "Hosts that fetch something now", s.fetching)
    yield _gauge("kiosk_last_report_age_seconds", "Age of the newest report", min(ages, default=-1))
    for name, text, value in (
        ("origin", "Bytes read from the kiosk", s.origin_bytes),
        ("swarm", "Bytes read from other hosts", s.swarm_bytes),
        ("uploaded", "Bytes given to other hosts", s.uploaded_bytes),
    ):
        yield _gauge(f"kiosk_agents_{name}_bytes", f"{text} since the agents' starts, as they say", value)


def _server(n: Numbers) -> Iterable[Metric]:
    yield _gauge("kiosk_listeners", "Open event streams", n.listeners)
    yield CounterMetricFamily("kiosk_objects_sent_bytes", "Bytes of objects that this server sent", n.sent)
    yield CounterMetricFamily("kiosk_calls_refused", "Reports and lease calls that were refused", n.refused)
    yield _gauge("kiosk_leases_held", "Leases that are held", n.leases)
    yield _gauge("kiosk_leases_waiting", "Hosts that wait for a lease", n.waiting)
    yield _gauge("kiosk_origin_budget_bytes", "Bytes that may leave in an hour (0: no limit)", n.budget or 0)
    yield _gauge("kiosk_origin_hour_bytes", "Bytes that left in the last hour, granted or reported", n.used)
    yield _gauge("kiosk_origin_over_budget", "1 while the budget is used up", int(n.over))
    yield _gauge("kiosk_swarm_seeds", "Peers that want no more of a version, and share it", n.seeds)
    yield _gauge("kiosk_swarm_leechers", "Peers that want more of a version", n.leechers)
    yield _gauge("kiosk_timestamp_version", "Version of the repository's timestamp", n.timestamp)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)
