"""Whether files hold more blocks than there are: no two files share a block, so all of them together can't."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from kiosk.disk.ext4.layout import Layout


class Ledger:
    """What each inode was seen to hold. Reading all files thus ends, after no more than the disk's size."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._held = array("Q", bytes(8 * (layout.inodes + 1)))
        self._left = layout.blocks

    def reader(self, inode: int) -> Callable[[int], None]:
        """What to call for each stretch of blocks while inode `inode` is read, now or again."""
        now = 0

        def spend(blocks: int) -> None:
            nonlocal now
            now += blocks
            if now > self._held[inode]:
                self._left -= now - self._held[inode]
                self._held[inode] = now
                if self._left < 0:
                    raise self._layout.damage("its files hold more blocks than there are")

        return spend
