"""No version makes a cold reader fetch much that it does not use, and nothing is moved again without need."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kiosk.model.manifest import Artifact
from kiosk.store import repack
from kiosk.store.fetch import Seed, fetch
from kiosk.store.index import encode, load
from kiosk.store.repack import COLD, DEAD, Share, choose, to_forget
from tests.store.files import Repository, content

SHARES = st.dictionaries(
    st.integers(0, 500),
    st.integers(1, 2048).flatmap(
        lambda blocks: st.builds(Share, st.integers(30, 8 << 20), st.just(blocks), st.integers(0, blocks))
    ),
    max_size=40,
)
NEW = st.integers(0, 200 << 20)


def cold(old: dict[int, Share], new: int, chosen: frozenset[int]) -> Fraction:
    """What a cold reader fetches, to what is used, once the chosen packs' blocks are in new packs."""
    used = new + sum(s.used_bytes for s in old.values())
    fetched = used + sum(s.unused_bytes for n, s in old.items() if n not in chosen)
    return Fraction(fetched, used) if used else Fraction(1)


@given(SHARES, NEW)
def test_a_cold_reader_is_kept_within_the_bound(old: dict[int, Share], new: int) -> None:
    assert cold(old, new, choose(old, new)) <= COLD


@given(SHARES, NEW)
def test_no_more_packs_are_taken_than_it_needs_and_the_emptiest_ones(old: dict[int, Share], new: int) -> None:
    chosen = choose(old, new)
    rest = [Fraction(s.used, s.blocks) for n, s in old.items() if n not in chosen]
    taken = [Fraction(old[n].used, old[n].blocks) for n in chosen]
    assert not rest or not taken or max(taken) <= min(rest)
    if chosen and any(s.used for s in old.values()):
        last = max(chosen, key=lambda n: (Fraction(old[n].used, old[n].blocks), -old[n].size, n))
        assert cold(old, new, chosen - {last}) > COLD
    for full in [n for n in chosen if Fraction(old[n].used, old[n].blocks) * COLD > 1]:
        raise AssertionError(f"pack {full} is used enough by itself, and was taken")


@given(SHARES, NEW, st.randoms())
def test_the_choice_rests_on_the_packs_and_not_on_their_order(
    old: dict[int, Share], new: int, shuffled: random.Random
) -> None:
    items = list(old.items())
    shuffled.shuffle(items)
    assert choose(dict(items), new) == choose(old, new)


@given(SHARES)
def test_what_is_left_when_packs_are_forgotten_has_little_dead_content(packs: dict[int, Share]) -> None:
    forgotten = to_forget(packs)
    size = sum(s.used_bytes if n in forgotten else s.size for n, s in packs.items())
    dead = sum(s.unused_bytes for n, s in packs.items() if n not in forgotten)
    assert dead <= DEAD * size
    assert repack.dead_bytes(s for n, s in packs.items() if n not in forgotten) <= DEAD * size + 1


def packs(repository: Repository, artifact: Artifact) -> dict[str, int]:
    assert artifact.index is not None
    return {p.object.digest: p.blocks for p in load(repository.store, artifact.index).packs}


def test_hardly_used_packs_are_given_up_and_the_file_is_the_same(
    repository: Repository, tmp_path: Path
) -> None:
    first = repository.publish("a", content(range(1, 5000)))
    # 300 blocks of the first pack, some twice, one at the end and not full; all of the second and the third
    numbers = [*range(1, 300), *range(1025, 3073), *range(1, 50)]
    second = repository.publish("b", content(numbers, b"short"))
    assert sorted(packs(repository, second).values()) == [1, 299, 1024, 1024]
    assert set(packs(repository, first)) & set(packs(repository, second)) == set(
        list(packs(repository, first))[1:3]
    )
    fetch(second, tmp_path / "cold", repository.store)
    assert (tmp_path / "cold").read_bytes() == content(numbers, b"short")
    assert first.index is not None
    report = fetch(second, tmp_path / "warm", repository.store, [Seed(tmp_path / "a", first.index)])
    assert report.bytes_reused == len(numbers) * 4096, (
        "the index says which old blocks the re-stored ones are"
    )
    assert report.requests == 3, "two indexes, and a pack of one block"


def test_an_index_that_lies_about_what_was_stored_again_costs_the_regions_it_spoils(
    repository: Repository, tmp_path: Path
) -> None:
    first = repository.publish("a", content(range(1, 5000)))
    numbers = [*range(1, 300), *range(1025, 3073)]
    second = repository.publish("b", content(numbers))
    assert first.index is not None and second.index is not None
    index = load(repository.store, second.index)
    lies = tuple(m._replace(old_slot=m.old_slot + 1) for m in index.moved)
    assert lies
    lying = second.model_copy(update={"index": repository.store.write(encode(replace(index, moved=lies)))})
    report = fetch(lying, tmp_path / "warm", repository.store, [Seed(tmp_path / "a", first.index)])
    assert (tmp_path / "warm").read_bytes() == content(numbers)
    assert report.regions_repaired == 2


def test_what_was_stored_again_is_found_by_the_next_version(repository: Repository) -> None:
    repository.publish("a", content(range(1, 5000)))
    second = repository.publish("b", content([*range(1, 300), *range(1025, 3073)]))
    before = repository.objects()
    third = repository.publish("c", content([*range(1, 300), 9000, *range(1025, 3073)]))
    assert len(repository.objects() - before) == 2, "one pack of one block, and the index"
    assert set(packs(repository, second)) < set(packs(repository, third))


def test_a_published_file_published_again_needs_the_same_objects(repository: Repository) -> None:
    repository.publish("a", content(range(1, 5000)))
    second = repository.publish("b", content([*range(1, 300), *range(1025, 3073)]))
    before = repository.objects()
    again = repository.publish("b2", content([*range(1, 300), *range(1025, 3073)]))
    assert again.size == second.size
    assert len(repository.objects() - before) <= 1, "another index at the most"
