"""A kiosk with a roll-out, and readers that look at it as hosts do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kiosk.model.names import parse_ref
from kiosk.model.rollout import Rollout
from kiosk.publish import Published, publish
from kiosk.rollout import sign
from kiosk.rollout.driver import Driver
from kiosk.rollout.plan import Plan, Plans
from kiosk.rollout.sign import Order
from kiosk.trust.client import TrustedRepository
from tests.simulators.fleet import Fleet, Time
from tests.simulators.published import Kiosk, ask, build_image

WORKER = parse_ref("worker")


def plan_of(**values: Any) -> Plan:
    """The default plan with other values."""
    return Plans().of("worker", values)


def publish_with_rollout(kiosk: Kiosk, version: str, plan: Plan | None = None) -> Published:
    """`kiosk publish worker --rollout`."""
    folder = build_image(kiosk.settings, version=version)
    begin = sign.together(kiosk.settings, lambda _: plan or Plan())
    return publish(kiosk.settings, folder, ask, together=begin)


def ordered(kiosk: Kiosk, give: Order) -> Rollout:
    """`kiosk rollout pause` and the like."""
    writer = kiosk.repository()
    with writer.locked():
        return sign.order(kiosk.settings, writer, WORKER, give)[0]


def started(kiosk: Kiosk, version: str, plan: Plan | None = None, *, recall: bool = False) -> Rollout:
    """`kiosk rollout start`."""
    writer = kiosk.repository()
    with writer.locked():
        ref = parse_ref(f"worker@{version}")
        return sign.start(kiosk.settings, writer, ref, plan or Plan(), recall=recall)[0]


def reader(kiosk: Kiosk, folder: Path) -> TrustedRepository:
    """A host that looks; the same folder is the same host."""
    return TrustedRepository(folder, kiosk.settings.repository, kiosk.root.read_bytes())


def seen(kiosk: Kiosk, folder: Path) -> Rollout | None:
    """The roll-out of worker as a host sees it."""
    return reader(kiosk, folder).rollout(WORKER)


def driver(kiosk: Kiosk, fleet: Fleet, time: Time) -> Driver:
    """The driver, freshly started, by these clocks."""
    writer = kiosk.repository()
    writer.now = time.now
    return Driver(kiosk.settings, writer, fleet, Plans(), time.moment)
