"""Handing a version over: what a hypervisor does with an image once it is verified and current in the cache."""

from kiosk.handover.handover import Handover, Outcome
from kiosk.handover.settings import AnyTable

__all__ = ["AnyTable", "Handover", "Outcome"]
