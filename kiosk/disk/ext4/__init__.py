"""ext2, ext3, and ext4 read as data: nothing is mounted, nothing is written, no kernel driver reads hostile bytes.

`FileSystem` answers one question fast: which blocks hold which file. `Ext4Volume` reads the whole tree.
Layout after the kernel's Documentation/filesystems/ext4. Both read only inside the file system, in bounded
memory, and raise CorruptError (or StorageError, where the disk can't be read) on whatever the bytes say.
"""

from kiosk.disk.ext4.files import BLOCK, MAX_DIRECTORIES, MAX_EXTENTS, Extents, File, FileSystem
from kiosk.disk.ext4.layout import MAX_INODES, Layout
from kiosk.disk.ext4.repair import check, recover
from kiosk.disk.ext4.volume import Ext4Volume, UnrecoveredError

__all__ = [
    "BLOCK",
    "MAX_DIRECTORIES",
    "MAX_EXTENTS",
    "MAX_INODES",
    "Ext4Volume",
    "Extents",
    "File",
    "FileSystem",
    "Layout",
    "UnrecoveredError",
    "check",
    "recover",
]
