"""What the kiosk knows of its hosts: their reports, their tokens, what they are asked to fetch now."""

from kiosk.fleet.database import Database
from kiosk.fleet.pushes import Push
from kiosk.fleet.tokens import FleetKey

__all__ = ["Database", "FleetKey", "Push"]
