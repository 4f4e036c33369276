"""The store's face: what other parts of kiosk use. Everything here is defined in the modules beside it."""

from __future__ import annotations

from kiosk.store.cache import Cache
from kiosk.store.directory import DirectoryStore
from kiosk.store.failover import Failover
from kiosk.store.http import HttpStore
from kiosk.store.objects import MissingObject, ObjectSource, ObjectStore, Progress

__all__ = [
    "Cache",
    "DirectoryStore",
    "Failover",
    "HttpStore",
    "MissingObject",
    "ObjectSource",
    "ObjectStore",
    "Progress",
]
