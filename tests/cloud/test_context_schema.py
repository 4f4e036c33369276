"""The published schema and the guest's reader are of one mind about the structure of a context document."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextualize import context
from contextualize.errors import Refused
from kiosk.cloud.context_schema import schema

SCHEMA = schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
FULL: dict[str, Any] = {
    "schema": "kiosk.context/1",
    "node": {"id": "0c0ffee0-0000-4000-8000-000000000001", "name": "node-7.example.org"},
    "image": {"name": "debian-12-worker", "version": "20260301.1"},
    "layers": [
        {"name": "site/example/base", "version": "1", "device": "layer-0"},
        {"name": "experiment/demo/software", "version": "2.1", "device": "layer-1"},
    ],
    "repository": {"url": "http://kiosk.example.org/repository", "proxy": "http://squid.example.org:3128"},
    "scratch": {"device": "scratch", "mount": "/scratch", "swap": 512},
    "network": {
        "address": "192.0.2.7/24", "gateway": "192.0.2.1", "dns": ["192.0.2.53"], "search": ["example.org"],
        "mac": "52:54:00:00:00:01",
    },
    "time_servers": ["ntp1.example.org"],
    "root_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample admin@example.org"],
    "life": {"age": 86400, "jitter": 3600, "drain": 7200},
    "farm": {"kind": "slurm", "name": "main", "settings": {"server": "ctl:6817"}, "secrets": {"key": "c2VjcmV0"},
             "timeout": 300},
    "hooks": {"prolog": "echo [[[[[[[[[[[[[[[[[", "epilog": "#!/bin/sh\n"},
    "user_data": "#cloud-config\n",
}  # fmt: skip
VALUES = [
    None, True, 0, -1, 59, 60, 2**40, "", "x", "X", "a\n", "/a", "/scratch\n", "layer-0\n", "a" * 48, "a" * 49,
    "a" * 254,
    "a.b", "a..b", "-a", "é", "\0", [], [1], ["a"] * 60, ["a\n"], {}, {"a": "b"}, {"A": "b"}, {"a": 1}, {"a": "\t"},
    {"a": "c2VjcmV0"}, {f"k{i}": "c2VjcmV0" for i in range(60)}, "1.2.3.4", "1.02",
    "00:11:22:33:44:55", "http://a/b", "http://a b",
]  # fmt: skip


def accepted_by_reader(document: Any) -> bool:
    """Of a source that knows the machine itself."""
    try:
        context.parse(json.dumps(document).encode(), context.Instance("ec2", "i-0123456789abcdef0"))
    except Refused:
        return False
    return True


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


PLACES = [path for path in places(FULL) if path]


def changed(path: tuple[Any, ...], value: Any) -> Any:
    document = copy.deepcopy(FULL)
    at = document
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return document


def agree(document: Any) -> bool:
    """Whether both say the same, or the reader alone knows: a machine lives longer than its jitter."""
    life = (
        {"age": 86400, "jitter": 0, **(document.get("life") or {})} if VALIDATOR.is_valid(document) else None
    )
    expected = life is not None and life["jitter"] < life["age"]
    return accepted_by_reader(document) == expected


def test_the_published_file_is_the_schema() -> None:
    published = Path(__file__).parents[2] / "docs/context.schema.json"
    assert json.loads(published.read_text()) == SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_full_document_holds_for_both() -> None:
    assert accepted_by_reader(FULL)
    VALIDATOR.validate(FULL)


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_both_say_the_same_of_any_value_in_any_place(path: tuple[Any, ...]) -> None:
    for value in VALUES:
        assert agree(changed(path, value)), value


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_both_say_the_same_when_something_is_missing_or_unknown(path: tuple[Any, ...]) -> None:
    without = copy.deepcopy(FULL)
    at = without
    for key in path[:-1]:
        at = at[key]
    if isinstance(at, dict):
        more = changed((*path[:-1], "unknown-key"), 1)
        assert not accepted_by_reader(more) and not VALIDATOR.is_valid(more)
    del at[path[-1]]
    assert agree(without)


@given(st.sampled_from(PLACES), st.text(max_size=30) | st.integers(-5, 10**8) | st.lists(st.text(max_size=3)))
def test_both_say_the_same_of_whatever_stands_in_a_place(path: tuple[Any, ...], value: Any) -> None:
    assert agree(changed(path, value))
