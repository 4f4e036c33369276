"""Compressed images, decompressed to a bound: a small file that becomes endless is a CorruptError, at the bound."""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from kiosk.errors import CorruptError, PolicyError
from kiosk.exchange.formats import TRUNCATED, Compression
from kiosk.files import storage_errors

PIECE = 1 << 20


def unpack(
    source: Path, how: Compression, target: Path, most: int, shown: str, progress: Callable[[int], object]
) -> None:
    """Decompresses a file; pieces of zeros become holes. PolicyError when it would be larger than `most` bytes,
    CorruptError when it is damaged or ends too early."""
    try:
        with (
            source.open("rb") as f,
            target.open("xb") as out,
            _opened(f, how) as content,
            storage_errors(target),
        ):
            size = 0
            while piece := content.read(PIECE):
                size += len(piece)
                if size > most:
                    raise PolicyError(
                        f"becomes larger than {most} bytes when it is decompressed",
                        where=shown,
                        hint="If that is right, allow more with --max-size.",
                    )
                if piece.count(0) == len(piece):
                    out.seek(len(piece), 1)
                else:
                    out.write(piece)
                progress(len(piece))
            out.truncate(size)
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as e:
        raise CorruptError(f"can't be decompressed ({how}): {e}", where=shown, hint=TRUNCATED) from None
    except OSError as e:  # bz2 has no error of its own
        if e.errno is not None:
            raise
        raise CorruptError(f"can't be decompressed ({how}): {e}", where=shown, hint=TRUNCATED) from None


def _opened(f: IO[bytes], how: Compression) -> gzip.GzipFile | bz2.BZ2File:
    if how == "gzip":
        return gzip.GzipFile(fileobj=f)
    return bz2.BZ2File(f)
