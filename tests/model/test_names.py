"""Names are parsed strictly, sort as numbers, and map to one place and one signer in the repository."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.errors import UsageError
from kiosk.model.names import (
    ImageRef,
    LayerRef,
    Version,
    manifest_path,
    parse_manifest_path,
    parse_ref,
    with_version,
)

numbers = st.lists(st.integers(0, 999_999_999), min_size=1, max_size=4)
names = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@given(numbers, numbers)
def test_versions_compare_as_numbers_not_as_text(a: list[int], b: list[int]) -> None:
    left, right = (Version.parse(".".join(map(str, v))) for v in (a, b))
    assert (left < right) == (a < b)
    assert Version.parse(str(left)) == left


@pytest.mark.parametrize("text", ["", "1.", ".1", "01", "1.2.3.4.5", "v1", "1-2", "1\n", "²", "-1"])
def test_what_is_not_a_version_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Version.parse(text)


@given(names, numbers)
def test_an_image_comes_back_from_its_manifest_path(name: str, version: list[int]) -> None:
    ref = with_version(ImageRef(name), Version(tuple(version)))
    assert parse_manifest_path(manifest_path(ref)) == ref
    assert parse_ref(str(ref)) == ref


@given(st.sampled_from(["site", "experiment"]), names, names, numbers)
def test_a_layer_comes_back_from_its_manifest_path(
    kind: str, owner: str, name: str, version: list[int]
) -> None:
    ref = parse_ref(f"{kind}/{owner}/{name}@{'.'.join(map(str, version))}")
    assert isinstance(ref, LayerRef)
    assert parse_manifest_path(manifest_path(ref)) == ref
    assert ref.role == f"{kind}-{owner}"


@pytest.mark.parametrize(
    "text",
    ["", "A", "-a", "a-", "a_b", "a@", "a@x", "../a", "site/a", "site/a/b/c", "site/../b", "team/a/b", "a\n"],
)
def test_what_is_not_a_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ref(text)


@pytest.mark.parametrize(
    "path",
    [
        "images/a/1.txt", "images/a/b/1.json", "images/../1.json", "other/a/1.json", "layers/site/a/1.json",
        "images/a/latest.json", "1.json", "", "layers/team/a/b/1.json",
    ],
)  # fmt: skip
def test_other_targets_are_not_manifests(path: str) -> None:
    assert parse_manifest_path(path) is None
