"""The store's face: what other parts of kiosk use. Everything here is defined in the modules beside it."""

from __future__ import annotations

from kiosk.store.directory import DirectoryStore
from kiosk.store.http import HttpStore
from kiosk.store.objects import MissingObject, ObjectSource, ObjectStore, Progress

__all__ = ["DirectoryStore", "HttpStore", "MissingObject", "ObjectSource", "ObjectStore", "Progress"]
