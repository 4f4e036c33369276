"""From what a definition says to the source it means."""

from __future__ import annotations

from kiosk.golden.capture import Answer as Answer
from kiosk.golden.capture import Capture as Capture
from kiosk.golden.capture import Source as Source
from kiosk.golden.disk import DiskSource
from kiosk.golden.libvirt import LibvirtSource
from kiosk.golden.qemu import QemuSource
from kiosk.golden.settings import (
    AnySource as AnySource,
)
from kiosk.golden.settings import (
    DiskSettings,
    LibvirtSettings,
    QemuSettings,
)
from kiosk.golden.settings import (
    Ready as Ready,
)
from kiosk.golden.ssh import SshSource


def open_source(settings: AnySource) -> Source:
    """The source that the settings mean; nothing is connected to yet."""
    if isinstance(settings, QemuSettings):
        return QemuSource(settings)
    if isinstance(settings, LibvirtSettings):
        return LibvirtSource(settings)
    if isinstance(settings, DiskSettings):
        return DiskSource(settings)
    return SshSource(settings)
