"""The outer form of every stored object: what kind it is, then one zstd frame. See docs/format.md.

    bytes 0-15   a zstd skippable frame that names kind and version: 50 2A 4D 18  08 00 00 00  "kioskpk1"
    bytes 16-    one zstd frame that declares its content size; nothing after it

so that `zstd -d` still reads any object. Reading treats the bytes as hostile: no more memory is taken than
the caller allows, whatever the frame says.
"""

from __future__ import annotations

import struct
import threading

import zstandard

from kiosk.errors import CorruptError

PACK = b"kioskpk1"
INDEX = b"kioskix1"
DIFFERENCE = b"kioskdx1"
GROUP = b"kioskdg1"
SUMS = b"kiosksm1"
_HEADER = struct.Struct("<II8s")
_SKIPPABLE = 0x184D2A50
HEADER_SIZE = _HEADER.size


class _Local(threading.local):
    def __init__(self) -> None:
        self.compressors: dict[tuple[int, int], zstandard.ZstdCompressor] = {}


_local = _Local()


def seal(kind: bytes, content: bytes, *, level: int, prefix: bytes = b"") -> bytes:
    """The stored bytes of an object. The same content, level and prefix give the same bytes.

    With `prefix`, only a reader that has those very bytes can read the content again.
    """
    head = _HEADER.pack(_SKIPPABLE, 8, kind)
    if prefix:
        return head + _prefixed(level, len(content), prefix).compress(content)
    window = min(max(10, (len(content) - 1).bit_length()), 23)
    return head + _compressor(level, window).compress(content)


def _prefixed(level: int, content: int, prefix: bytes) -> zstandard.ZstdCompressor:
    size = content + len(prefix)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=size,
        window_log=max(10, (size - 1).bit_length()),
        write_content_size=1,
        write_checksum=0,
    )
    raw = zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(dict_data=raw, compression_params=parameters)


def _compressor(level: int, window: int) -> zstandard.ZstdCompressor:
    """This thread's compressor: making one takes a tenth of the time that packing four megabytes does."""
    made = _local.compressors
    if (level, window) not in made:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, source_size=1 << window, window_log=window, write_content_size=1, write_checksum=0
        )
        made[level, window] = zstandard.ZstdCompressor(compression_params=parameters)
    return made[level, window]


def largest(content: int) -> int:
    """The most stored bytes that `content` bytes can become."""
    return HEADER_SIZE + content + (content >> 8) + 1024


def unseal(kind: bytes, stored: bytes, *, limit: int, where: str, prefix: bytes = b"") -> bytes:
    """The content of a stored object of this kind, at most `limit` bytes; CorruptError if it is anything else.

    With another `prefix` than the writer's it is a CorruptError or other bytes.
    """
    if len(stored) < HEADER_SIZE or _HEADER.unpack_from(stored) != (_SKIPPABLE, 8, kind):
        raise CorruptError(f"is not a {kind.decode()} object", where=where)
    frame = memoryview(stored)[HEADER_SIZE:]
    try:
        parameters = zstandard.get_frame_parameters(frame)
        size = parameters.content_size
        if size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
            raise CorruptError("does not declare its content's size", where=where)
        if size > limit:
            raise CorruptError(
                f"declares {size} bytes of content, more than the {limit} allowed", where=where
            )
        if parameters.dict_id or parameters.window_size > 2 * max(limit + len(prefix), 1 << 20):
            raise CorruptError("needs a dictionary or a window that no kiosk writes", where=where)
        raw = (
            zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
            if prefix
            else None
        )
        content = zstandard.ZstdDecompressor(dict_data=raw).decompress(
            frame, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as e:
        raise CorruptError(f"does not decompress: {e}", where=where) from None
    if len(content) != size:
        raise CorruptError(f"declares {size} bytes of content and has {len(content)}", where=where)
    return content
