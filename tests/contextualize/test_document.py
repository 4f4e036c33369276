"""Documents from outside: whatever bytes they are, they are read as specified or refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextualize import document, manifest
from contextualize.document import Context, LayerName
from contextualize.errors import Refused
from kiosk.model import names

GOOD: dict[str, Any] = {
    "schema": "kiosk.context/1",
    "node": {"id": "0c0ffee0-0000-4000-8000-000000000001", "name": "node-7"},
    "image": {"name": "debian-12-minimal", "version": "20260301.1"},
    "layers": [{"name": "site/example/base", "version": "1", "device": "layer-0"}],
    "scratch": {"device": "scratch", "mount": "/scratch"},
    "lifetime": 86400,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def read(value: object) -> Context:
    return document.context(json.dumps(value).encode())


def test_a_good_context() -> None:
    found = read(GOOD)
    assert found.node_name == "node-7"
    assert found.layers[0].name.prefix == "/opt/site"
    assert found.lifetime == 86400


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        document.context(data)


@given(JSON)
def test_any_json_is_refused(value: object) -> None:
    with pytest.raises(Refused):
        read(value)


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_any_value_in_place_of_a_good_one_is_refused_or_of_its_type(key: str, value: object) -> None:
    try:
        found = read({**GOOD, key: value})
    except Refused:
        return
    assert key in ("layers", "lifetime")
    assert value == [] or (isinstance(value, int) and found.lifetime == value)


@given(st.text(min_size=1, max_size=20).filter(lambda k: k not in GOOD), JSON)
def test_any_unknown_key_is_refused(key: str, value: object) -> None:
    with pytest.raises(Refused):
        read({**GOOD, key: value})


@given(st.sampled_from(["node", "image", "scratch"]), st.text(min_size=1, max_size=20))
def test_any_unknown_key_further_in_is_refused(part: str, key: str) -> None:
    if key in GOOD[part]:
        return
    with pytest.raises(Refused, match="unknown key"):
        read({**GOOD, part: {**GOOD[part], key: 1}})


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"schema":"kiosk.context/1","schema":"kiosk.context/1"}', "a key stands twice"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b"[" * 5000, "nested"),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "nested"),
        (b'{"a":' + b"9" * 60000 + b"}", "not valid JSON|schema"),
        (b" " * (1 << 17), "larger than"),
        (b"\xff{}", "not valid JSON"),
        (b"7", "not a JSON object"),
    ],
)
def test_json_that_tries_something(data: bytes, expected: str) -> None:
    with pytest.raises(Refused, match=expected):
        document.context(data)


@pytest.mark.parametrize(
    "name", ["-x", "x-", "a..b", "a b", "a\n", "a" * 64, ".".join(["a" * 60] * 5), "", "ä", "a;reboot"]
)
def test_host_names_that_are_none(name: str) -> None:
    with pytest.raises(Refused, match="node: name"):
        read({**GOOD, "node": {**GOOD["node"], "name": name}})


def test_one_disk_for_two_purposes() -> None:
    with pytest.raises(Refused, match="named twice"):
        read({**GOOD, "scratch": {"device": "layer-0", "mount": "/scratch"}})


def test_names_are_the_same_on_both_sides() -> None:
    assert (document.NAME, document.VERSION) == (names.NAME, names.VERSION)


@given(st.from_regex(re.compile(LayerName.PATTERN), fullmatch=True))
def test_prefix_and_role_are_the_same_on_both_sides(text: str) -> None:
    ours, theirs = names.LayerRef.parse(f"{text}@7"), LayerName.parse(text)
    assert (ours.prefix, ours.role) == (theirs.prefix, theirs.role)
    assert names.manifest_path(ours) == theirs.target("7")


@given(JSON)
def test_any_declarations_are_refused_or_empty(value: object) -> None:
    try:
        found = manifest.declares(document.Fields(value, "declares"))
    except Refused:
        return
    assert not (found.users or found.files or found.services)
