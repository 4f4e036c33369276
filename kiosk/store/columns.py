"""Rows of 32-bit numbers, stored column by column: alike numbers lie together and compress well."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

from kiosk.errors import CorruptError


def little(column: array[int]) -> array[int]:
    """The column as the format has it, little-endian, or back."""
    if sys.byteorder == "big":
        column = array("I", column)
        column.byteswap()
    return column


def encode(width: int, rows: Sequence[Sequence[int]]) -> bytes:
    """The bytes of rows of `width` numbers."""
    return b"".join(little(array("I", [row[i] for row in rows])).tobytes() for i in range(width))


def split(width: int, data: memoryview, where: str) -> list[array[int]]:
    """The columns; CorruptError when they are not equally long."""
    if len(data) % (4 * width):
        raise CorruptError("a section has a wrong size", where=where)
    step = len(data) // width
    columns: list[array[int]] = []
    for i in range(width):
        column = array("I")
        column.frombytes(data[i * step : (i + 1) * step])
        columns.append(little(column))
    return columns


def decode(width: int, data: memoryview, where: str) -> list[tuple[int, ...]]:
    """The rows."""
    return list(zip(*split(width, data, where), strict=True))
