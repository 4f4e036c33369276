"""Syncing: a hypervisor's cache of verified images and layers, brought up to date."""

from kiosk.sync.host import HostCache, Installed
from kiosk.sync.sync import Result, Synced, sync

__all__ = ["HostCache", "Installed", "Result", "Synced", "sync"]
