"""The format reads back as it was written; whatever else the bytes are, they are refused and named."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from kiosk.errors import CorruptError, UsageError
from kiosk.model.manifest import Object
from kiosk.store import sums, wire
from kiosk.store.index import (
    BLOCK,
    MAX_STORED,
    REGION,
    REGION_DIGEST,
    Index,
    Moved,
    Pack,
    Runs,
    decode,
    digest_of,
    encode,
    load,
)
from kiosk.store.known import block_digests

VECTORS = Path(__file__).parent / "vectors"


def pack(number: int, blocks: int = 1024) -> Pack:
    return Pack(Object(digest=f"sha256:{number:064x}", size=5000), blocks)


@st.composite
def sound(draw: st.DrawFn) -> Index:
    """An index with any runs that fit its packs and its file."""
    packs = tuple(pack(i + 1, draw(st.integers(1, 2048))) for i in range(draw(st.integers(1, 4))))
    runs, end = Runs(), 0
    for _ in range(draw(st.integers(0, 30))):
        number = draw(st.integers(0, len(packs) - 1))
        slot = draw(st.integers(0, packs[number].blocks - 1))
        count = draw(st.integers(1, packs[number].blocks - slot))
        to = end + draw(st.integers(0, 5000))
        runs.append(to, number, slot, count)
        end = to + count
    moved = []
    for number in sorted(draw(st.sets(st.integers(0, len(packs) - 1)))):
        slot = draw(st.integers(0, packs[number].blocks - 1))
        length = draw(st.integers(1, packs[number].blocks - slot))
        old = f"sha256:{draw(st.integers(0, 3)):064x}"
        moved.append(Moved(number, slot, length, old, draw(st.integers(0, 2048 - length))))
    size = max(0, end * BLOCK + draw(st.integers(-BLOCK + 1 if end else 0, 3 * REGION)))
    regions = random.Random(size).randbytes(REGION_DIGEST * -(-size // REGION))
    return Index(size, packs, regions, runs, moved=tuple(moved))


@settings(max_examples=60, deadline=None)
@given(sound())
def test_an_index_reads_back_as_written(index: Index) -> None:
    stored = encode(index)
    read = decode(stored, "here")
    assert (read.size, read.packs, read.regions) == (index.size, index.packs, index.regions)
    assert list(read.runs) == list(index.runs)
    assert read.moved == index.moved
    assert encode(read) == stored


def sections(size: int = 3 * BLOCK, runs: bytes | None = None, **other: bytes) -> dict[str, bytes]:
    one_run = struct.pack("<IIII", 0, 0, 0, 3)
    return {
        "HEAD": struct.pack("<QII", size, BLOCK, REGION),
        "PACK": struct.pack("<32sII", b"p" * 32, 5000, 3),
        "RGNS": b"r" * (REGION_DIGEST * -(-size // REGION)),
        "RUNS": one_run if runs is None else runs,
        **other,
    }


def stored(parts: dict[str, bytes]) -> bytes:
    content = b"".join(struct.pack("<4sI", t.encode(), len(d)) + d for t, d in parts.items())
    return wire.seal(wire.INDEX, content, level=3)


def runs(*rows: tuple[int, int, int, int]) -> bytes:
    """(gap, pack, slot, count) as columns."""
    return b"".join(struct.pack(f"<{len(rows)}I", *column) for column in zip(*rows, strict=True))


def olds(*rows: tuple[int, int, int, int, int]) -> bytes:
    """(pack, slot, count, old pack, old slot) as columns, after the only old pack."""
    columns = (struct.pack(f"<{len(rows)}I", *column) for column in zip(*rows, strict=True))
    return struct.pack("<I32s", 1, b"o" * 32) + b"".join(columns)


def test_what_the_tables_below_change_is_sound() -> None:
    assert len(decode(stored(sections()), "here").runs) == 1


LIES = {
    "a run beyond its pack": (sections(runs=runs((0, 0, 1, 3))), "takes 3 blocks from 1 of pack 0"),
    "a slot that overflows": (sections(runs=runs((0, 0, 0xFFFFFFFF, 2))), "of pack 0"),
    "a run of a pack that is not there": (sections(runs=runs((0, 1, 0, 1))), "of pack 1"),
    "a run of nothing": (sections(runs=runs((0, 0, 0, 0))), "takes 0 blocks"),
    "a huge count": (sections(runs=runs((0, 0, 0, 0xFFFFFFFF))), "takes 4294967295 blocks"),
    "a run past the end of the file": (sections(runs=runs((1, 0, 0, 3))), "ends at block 4 of a file of 3"),
    "a gap that overflows back into the file": (
        sections(runs=runs((0, 0, 0, 2), (0xFFFFFFFF, 0, 0, 1))),
        "ends at block",
    ),
    "half a run": (sections(runs=b"\0" * 15), "wrong size"),
    "an empty pack": (sections(PACK=struct.pack("<32sII", b"p" * 32, 5000, 0)), "0 blocks in 5000 bytes"),
    "a pack too large to load": (sections(PACK=struct.pack("<32sII", b"p" * 32, 5000, 2049)), "2049 blocks"),
    "a pack larger than its blocks could be": (
        sections(PACK=struct.pack("<32sII", b"p" * 32, 1 << 30, 3)),
        "in 1073741824 bytes",
    ),
    "a pack twice": (sections(PACK=struct.pack("<32sII", b"p" * 32, 5000, 3) * 2), "names a pack twice"),
    "too few regions": (sections(RGNS=b""), "not one digest for each region"),
    "too many regions": (sections(RGNS=b"r" * 2 * REGION_DIGEST), "not one digest for each region"),
    "another block size": (sections(HEAD=struct.pack("<QII", 3, 512, REGION)), "blocks of 512"),
    "a file too large": (sections(HEAD=struct.pack("<QII", 1 << 62, BLOCK, REGION)), "bytes"),
    "a short head": (sections(HEAD=b"\0" * 8), "HEAD section has a wrong size"),
    "old blocks without a pack": (sections(olds=b""), "olds section has a wrong size"),
    "more old packs than there is room for": (sections(olds=b"\xff" * 40), "olds section has a wrong size"),
    "half a row of old blocks": (sections(olds=olds() + b"\0" * 4), "wrong size"),
    "old blocks of a pack that is not there": (sections(olds=olds((1, 0, 1, 0, 0))), "of pack 1"),
    "old blocks twice": (sections(olds=olds((0, 0, 2, 0, 0), (0, 1, 1, 0, 5))), "not in order, or overlaps"),
    "old blocks beyond the pack": (sections(olds=olds((0, 2, 2, 0, 0))), "takes 2 blocks from 2 of pack 0"),
    "old blocks of an old pack that is not there": (sections(olds=olds((0, 0, 1, 1, 0))), "for older ones"),
    "old blocks beyond any old pack": (sections(olds=olds((0, 0, 2, 0, 2047))), "for older ones"),
    "no old blocks": (sections(olds=olds((0, 0, 0, 0, 0))), "takes 0 blocks"),
    "a section from the future that must be understood": (sections(NEWS=b"x"), "does not know"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_lies_is_refused(lie: str) -> None:
    parts, words = LIES[lie]
    with pytest.raises(CorruptError, match=words) as caught:
        decode(stored(parts), "here")
    assert caught.value.where == "here"


def test_a_section_from_the_future_that_may_be_skipped_is_skipped() -> None:
    assert decode(stored(sections(news=b"x" * 100)), "here").size == 3 * BLOCK


@pytest.mark.parametrize("missing", ["HEAD", "PACK", "RGNS", "RUNS"])
def test_an_index_without_a_section_is_refused(missing: str) -> None:
    with pytest.raises(CorruptError, match=f"no section {missing}"):
        decode(stored({t: d for t, d in sections().items() if t != missing}), "here")


def test_sections_that_do_not_add_up_are_refused() -> None:
    for content, words in [
        (struct.pack("<4sI", b"HEAD", 1 << 31) + b"x", "longer than the index"),
        (b"HEAD", "middle of a section"),
        (struct.pack("<4sI", b"HEAD", 0) * 2, "two sections"),
    ]:
        with pytest.raises(CorruptError, match=words):
            decode(wire.seal(wire.INDEX, content, level=1), "here")


def frame(content: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(content)  # type: ignore[arg-type]


HEADER = struct.pack("<II8s", 0x184D2A50, 8, wire.PACK)
GOOD = wire.seal(wire.PACK, b"x" * 8192, level=3)
BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not a kioskpk1 object"),
    "a page of HTML": (b"<html><body>Log in</body></html>", "is not a kioskpk1 object"),
    "an index in place of a pack": (wire.seal(wire.INDEX, b"x", level=3), "is not a kioskpk1 object"),
    "a header alone": (HEADER, "does not decompress"),
    "cut": (GOOD[:-1], "does not decompress"),
    "something behind": (GOOD + b"x", "does not decompress"),
    "two frames": (GOOD + frame(b"y"), "does not decompress"),
    "a bomb that says so": (HEADER + frame(bytes(1 << 26)), "67108864 bytes of content, more than the 8192"),
    "a bomb that does not": (
        HEADER + frame(bytes(1 << 26), write_content_size=False),
        r"does not declare|does not decompress",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_object_that_is_no_pack_is_refused(what: str) -> None:
    data, words = BROKEN[what]
    with pytest.raises(CorruptError, match=words):
        wire.unseal(wire.PACK, data, limit=8192, where="here")


def test_a_frame_whose_size_is_a_lie_is_refused() -> None:
    """The content size in the frame's header is made smaller: no more than that may come out."""
    honest = frame(random.Random(1).randbytes(70_000))
    at = honest.index(struct.pack("<I", 70_000))
    for lie in (69_999, 70_001, 300):
        data = HEADER + honest[:at] + struct.pack("<I", lie) + honest[at + 4 :]
        with pytest.raises(CorruptError, match=r"does not decompress|declares"):
            wire.unseal(wire.PACK, data, limit=80_000, where="here")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_never_escapes(at: int, value: int) -> None:
    """Any byte of a stored index changed: it is read as some sound index or refused, and nothing else."""
    data = bytearray(stored(sections()))
    data[at % len(data)] = value
    refuse_or_read(lambda: decode(bytes(data), "here"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_content_is_read_or_refused(content: bytes) -> None:
    refuse_or_read(lambda: decode(wire.seal(wire.INDEX, content, level=1), "here"))


def refuse_or_read(read: Callable[[], Index]) -> None:
    try:
        index = read()
    except CorruptError:
        return
    assert all(r.to + r.length <= index.blocks for r in index.runs)


def test_an_index_larger_than_any_is_not_even_read() -> None:
    class Source:
        def read(self, wanted: Object, stop: object = None) -> bytes:
            raise AssertionError

        def has(self, wanted: Object) -> bool:
            raise AssertionError

    with pytest.raises(CorruptError, match="more than any kiosk writes"):
        load(Source(), Object(digest="sha256:" + "0" * 64, size=MAX_STORED + 1))


def test_a_file_too_large_for_an_index_is_the_users_error() -> None:
    with pytest.raises(UsageError, match="too large"):
        encode(Index((1 << 40) + 1, (), b"", Runs()))


def test_the_index_of_a_scattered_image_stays_below_a_thousandth() -> None:
    """83,155 runs over 600 packs, as measured on a 2 GB image rebuilt from packages."""
    r = random.Random(1)
    packs = tuple(
        Pack(Object(digest=f"sha256:{r.getrandbits(256):064x}", size=1_000_000), 1024) for _ in range(600)
    )
    scattered = Runs()
    to = 0
    for _ in range(83_155):
        count = min(r.choice([1, 1, 2, 3, 5, 17]), 1024)
        scattered.append(to, r.randrange(600), r.randrange(1024 - count), count)
        to += count
    size = 2_000_000_000
    assert to * BLOCK < size
    index = Index(size, packs, r.randbytes(REGION_DIGEST * -(-size // REGION)), scattered)
    assert len(encode(index)) < size / 1000


def test_the_published_vectors_read_as_the_format_says() -> None:
    """docs/format.md, Test vectors."""
    file = (VECTORS / "file").read_bytes()
    index = decode((VECTORS / "index").read_bytes(), "vectors/index")
    content = wire.unseal(wire.PACK, (VECTORS / "pack").read_bytes(), limit=3 * BLOCK, where="vectors/pack")
    assert index.size == len(file) == 5 * BLOCK + 100
    assert [tuple(run) for run in index.runs] == [(0, 0, 0, 1), (2, 0, 0, 2), (5, 0, 2, 1)]
    found = dict(
        sums.decode((VECTORS / "sums").read_bytes(), {index.packs[0].object.digest: index.packs[0]}, "sums")
    )
    assert bytes(found[index.packs[0].object.digest]) == b"".join(d[:8] for d in block_digests(content))
    made = bytearray(6 * BLOCK)
    for to, _, slot, length in index.runs:
        made[to * BLOCK : (to + length) * BLOCK] = content[slot * BLOCK : (slot + length) * BLOCK]
    assert bytes(made[: index.size]) == file
    assert index.regions == digest_of(file)
