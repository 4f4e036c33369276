"""Documents from outside: whatever bytes they are, they are read as specified or refused."""

from __future__ import annotations

import json
import re
import time
import uuid
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextualize import context, document, manifest
from contextualize.context import Context, Instance, Life
from contextualize.document import LAYER_NAME, LayerName
from contextualize.errors import Refused
from kiosk.model import names

GOOD: dict[str, Any] = {
    "schema": "kiosk.context/1",
    "node": {"id": "0c0ffee0-0000-4000-8000-000000000001", "name": "node-7"},
    "image": {"name": "debian-12-minimal", "version": "20260301.1"},
    "layers": [{"name": "site/example/base", "version": "1", "device": "layer-0"}],
    "scratch": {"device": "scratch", "mount": "/scratch"},
    "life": {"age": 86400},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def read(value: object) -> Context:
    return context.parse(json.dumps(value).encode())


def test_a_good_context() -> None:
    found = read(GOOD)
    assert found.node_name == "node-7"
    assert found.layers[0].name.prefix == "/opt/site"
    assert found.life.age == 86400


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        context.parse(data)


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
    assert key in ("layers", "life")
    assert value in ([], {})
    assert found.layers == () or found.life == Life()


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
        (b" " * (1 << 19), "larger than"),
        (b"\xff{}", "not valid JSON"),
        (b"7", "not a JSON object"),
    ],
)
def test_json_that_tries_something(data: bytes, expected: str) -> None:
    with pytest.raises(Refused, match=expected):
        context.parse(data)


@pytest.mark.parametrize(
    "name", ["-x", "x-", "a..b", "a b", "a\n", "a" * 64, ".".join(["a" * 60] * 5), "", "ä", "a;reboot"]
)
def test_host_names_that_are_none(name: str) -> None:
    with pytest.raises(Refused, match="node: name"):
        read({**GOOD, "node": {**GOOD["node"], "name": name}})


WITHOUT_NODE = {key: value for key, value in GOOD.items() if key != "node"}


def own(instance: Instance | None) -> tuple[str, str]:
    found = context.parse(json.dumps(WITHOUT_NODE).encode(), instance)
    return found.node_id, found.node_name


def test_a_document_for_several_machines_leaves_them_what_their_source_knows_of_them() -> None:
    one = own(Instance("ec2", "i-0123456789abcdef0", "ip-10-0-0-7.example.org"))
    assert one == (str(uuid5(NAMESPACE_URL, "kiosk:ec2:i-0123456789abcdef0")), "ip-10-0-0-7.example.org")
    image = GOOD["image"]["name"]
    assert own(Instance("opennebula", "4711"))[1] == f"{image}-4711"
    assert len({own(Instance(kind, id))[0] for kind in ("ec2", "opennebula") for id in ("1", "2")}) == 4
    known = context.parse(json.dumps(GOOD).encode(), Instance("ec2", "i-0", "another"))
    assert (known.node_id, known.node_name) == (GOOD["node"]["id"], GOOD["node"]["name"])


@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        (None, "node: missing, and the source has no id of this machine"),
        (Instance("ec2", ""), "the source's id of this machine, '', can't stand in for it"),
        (Instance("ec2", "i_0"), "the source's id of this machine, 'i_0', can't"),
        (Instance("ec2", "a.b"), "the source's id of this machine, 'a.b', can't"),
        (Instance("ec2", "0\n"), "the source's id of this machine"),
        (Instance("ec2", "i" * 64), "the source's id of this machine"),
        (Instance("ec2", "i-0", "web server"), "'web server', by the source, is not a host name"),
        (Instance("ec2", "i-0", "a\nb"), "by the source, is not a host name"),
        (Instance("ec2", "i" * 60), "by the source, is not a host name"),
    ],
)
def test_a_machine_that_its_source_does_not_name_is_none(instance: Instance | None, expected: str) -> None:
    with pytest.raises(Refused) as caught:
        own(instance)
    assert expected in caught.value.reason


def test_one_disk_for_two_purposes() -> None:
    with pytest.raises(Refused, match="named twice"):
        read({**GOOD, "scratch": {"device": "layer-0", "mount": "/scratch"}})


def test_names_are_the_same_on_both_sides() -> None:
    assert (document.NAME, document.VERSION) == (names.NAME, names.VERSION)


@given(st.from_regex(re.compile(LAYER_NAME), fullmatch=True))
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


@given(st.uuids(), st.integers(60, 10**6), st.floats(0, 0.99))
def test_a_machine_always_drains_within_its_jitter_and_at_the_same_moment(
    node: uuid.UUID, age: int, share: float
) -> None:
    life = Life(age=age, jitter=int(age * share))
    moment = life.drains(str(node))
    assert age - life.jitter <= moment <= age
    assert life.drains(str(node).upper()) == moment


def test_a_thousand_machines_started_together_do_not_leave_together() -> None:
    life = Life(age=86400, jitter=7200)
    moments = sorted(life.drains(str(uuid.UUID(int=i))) for i in range(1000))
    assert max(sum(m <= x < m + 720 for x in moments) for m in moments) < 160


def test_no_error_shows_a_secret() -> None:
    farm = {"kind": "slurm", "name": "main", "secrets": {"munge_key": "h!dden-secret"}}
    with pytest.raises(Refused) as caught:
        read({**GOOD, "farm": farm})
    assert "h!dden" not in str(caught.value)
    good = read({**GOOD, "farm": {**farm, "secrets": {"munge_key": "aGlkZGVu"}}}).farm
    assert good is not None and good.secrets == {"munge_key": b"hidden"}
    assert "hidden" not in repr(good)


def test_a_text_full_of_quotes_takes_time_as_its_size_and_no_more() -> None:
    began = time.process_time()
    for text in (b'"\\' * 500_000, b'"a' * 499_999, b'{"a": "' + b'\\"' * 500_000, b'"' + b"\\" * 999_999):
        with pytest.raises(Refused, match="not valid JSON"):
            document.read(text, "it")
    assert time.process_time() - began < 5


def test_brackets_in_strings_are_not_nested() -> None:
    assert document.read(b'{"a": "[[[[[[[[[[[[[[[[\\"{{{{\\\\"}', "it").text("a", ".*")
    with pytest.raises(Refused, match="nested more than 12 deep"):
        document.read(b'{"a\\"": ' + b"[" * 13 + b"]" * 13 + b"}", "it")
