"""Every new block is yielded once, whatever the files; references stay inside the older disk and its limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kiosk.publish.pairing import CONTENT, Placed, pair
from kiosk.store.difference import GROUP_BLOCKS, REFERENCE_BLOCKS
from kiosk.store.index import Runs

DISK = 4000


@st.composite
def runs(draw: st.DrawFn) -> Runs:
    found = Runs()
    to = 0
    for n, (gap, count, pack) in enumerate(
        draw(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 300), st.integers(0, 3)), max_size=12))
    ):
        to += gap
        found.append(to, pack + 4 * n, 0, count)
        to += count
    return found


@st.composite
def files(draw: st.DrawFn) -> list[Placed]:
    """Files that share no block, with holes, in any order on the disk."""
    found = []
    at = 0
    for n in range(draw(st.integers(0, 6))):
        extents, first = [], 0
        for gap, hole, count in draw(
            st.lists(
                st.tuples(st.integers(0, 20), st.integers(0, 5), st.integers(1, 200)), min_size=1, max_size=4
            )
        ):
            if at + gap + count > DISK:
                break
            extents.append((first + hole, at + gap, count))
            first, at = first + hole + count, at + gap + count
        name = draw(st.sampled_from([b"/a", b"/b", b"/lib/c-1.so", b"/lib/c-2.so"]))
        found.append(Placed(name + b"x" * n, extents))
    return draw(st.permutations(found))


@given(new=runs(), here=files(), there=files())
def test_groups_yield_each_new_block_once(new: Runs, here: list[Placed], there: list[Placed]) -> None:
    groups = list(pair(new, here, there, DISK))
    content = {}
    for group in groups:
        places = [at + i for at, n in group.content for i in range(n)]
        blocks = [(pack, slot + i) for pack, slot, n in group.yields for i in range(n)]
        assert len(places) == len(blocks) == group.blocks <= CONTENT <= GROUP_BLOCKS
        content.update(zip(places, blocks, strict=True))
        assert sum(n for _, n in group.reference) == group.reference_blocks <= REFERENCE_BLOCKS
        assert all(at >= 0 and n > 0 and at + n <= DISK for at, n in group.reference)
    assert sum(g.blocks for g in groups) == sum(new.count)
    assert content == {to + i: (pack, slot + i) for to, pack, slot, n in new for i in range(n)}


def run(to: int, count: int) -> Runs:
    found = Runs()
    found.append(to, 0, 0, count)
    return found


def test_a_file_refers_to_the_file_of_its_path() -> None:
    new, old = Placed(b"/usr/bin/x", [(0, 100, 10)]), Placed(b"/usr/bin/x", [(0, 700, 12)])
    (group,) = pair(run(100, 10), [new], [Placed(b"/other", [(0, 0, 50)]), old], DISK)
    assert group.reference == [(700, 12)]


def test_numbers_in_a_path_do_not_matter_when_there_is_no_better() -> None:
    new = Placed(b"/lib/modules/6.1.0-41/ext4.ko", [(0, 100, 10)])
    old = Placed(b"/lib/modules/6.1.0-40/ext4.ko", [(0, 700, 10)])
    (group,) = pair(run(100, 10), [new], [old, Placed(b"/lib/modules/6.1.0-40/xfs.ko", [(0, 0, 9)])], DISK)
    assert group.reference == [(700, 10)]


def test_a_file_that_moved_is_found_by_its_name() -> None:
    new, old = Placed(b"/usr/lib/only.so", [(0, 100, 10)]), Placed(b"/lib/only.so", [(0, 700, 10)])
    (group,) = pair(run(100, 10), [new], [old], DISK)
    assert group.reference == [(700, 10)]


def test_what_is_no_file_refers_to_its_own_place() -> None:
    (group,) = pair(run(100, 10), [], [], 105)
    assert group.reference == [(100, 5)]


def test_a_change_in_a_large_file_refers_to_what_is_near() -> None:
    new, old = Placed(b"/db", [(0, 0, 3000)]), Placed(b"/db", [(0, 500, 3000)])
    (group,) = pair(run(1500, 1), [new], [old], DISK)
    ((start, count),) = group.reference
    assert start <= 2000 < start + count
    assert count < 200
