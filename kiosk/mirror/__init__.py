"""Mirrors: copies of a signed repository, made and served by those who hold no key."""

from kiosk.mirror.copy import Mirrored, mirror

__all__ = ["Mirrored", "mirror"]
