"""Resource requirement strings: what is understood is exactly what is there, and garbage is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.batch.lsf.resources import Wanted, mebibytes, understood

OS = frozenset({("os", "debian12")})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", Wanted()),
        ("select[os==debian12]", Wanted(values=OS)),
        ("os == debian12", Wanted(values=OS)),
        ('select[os == "debian12"]', Wanted(values=OS)),
        ("select[((os==debian12) && (kiosk))]", Wanted(frozenset({"kiosk"}), OS)),
        ("select[os==debian12 && (gold || silver)]", Wanted(values=OS)),
        ("select[os==debian12 || os==debian13]", Wanted()),
        ("select[!gpu && defined(ssd)]", Wanted(frozenset({"ssd"}))),
        ("select[type == any] order[r15s:pg] rusage[mem=100.00]", Wanted(memory=100)),
        ("select[type == X86_64]", Wanted(values=frozenset({("type", "X86_64")}))),
        ("select[mem>2000 && tmp>50] rusage[mem=1G]", Wanted(memory=2000)),
        ("select[maxmem>=4GB]", Wanted(memory=4096)),
        ("rusage[mem=500/task:duration=10]", Wanted(task_memory=500)),
        ("rusage[tmp=5,mem=2048MB]", Wanted(memory=2048)),
        ("rusage[mem=100||mem=200]", Wanted()),
        ("span[hosts=1] affinity[core(2)]", Wanted(hosts=1)),
        ("span[ptile=4]", Wanted(ptile=4)),
        ("select[gold] || select[silver]", Wanted()),
        ("{select[gold]} || {select[silver]}", Wanted()),
        ("2*{rusage[mem=100]} + 1*{rusage[mem=1000]}", Wanted()),
        ("select[ngpus>0 && kiosk]", Wanted(frozenset({"kiosk"}))),
        ("select[kiosk", Wanted(frozenset({"kiosk"}))),
        ("select[kiosk && (gold]", Wanted()),
        ("select[cs && cs==1]", Wanted(frozenset({"cs"}), frozenset({("cs", "1")}))),
        (
            'Requirements = (other.OpSysAndVer == "debian12" && other.Kiosk == true);',
            Wanted(frozenset({"Kiosk"}), frozenset({("OpSysAndVer", "debian12")})),
        ),
    ],
)
def test_what_is_understood(text: str, wanted: Wanted) -> None:
    assert understood(text) == wanted


@given(st.text(max_size=200))
def test_no_text_raises(text: str) -> None:
    understood(text)


@given(st.text(alphabet="selctruagpn[]()&|=!<>os mkd1.\"'{};,:/*+", max_size=120))
def test_no_text_of_the_languages_own_signs_raises_or_invents(text: str) -> None:
    wanted = understood(text)
    assert all(tag in text for tag in wanted.tags)
    assert all(key in text and value in text for key, value in wanted.values)


NAMES = st.from_regex(r"[a-z][a-z0-9_]{2,8}", fullmatch=True).filter(
    lambda name: name not in ("mem", "tmp", "swp", "r1m", "r15s", "r15m", "select", "span", "cpuf", "slots", "same",
                              "maxmem", "ncpus", "type", "model", "order", "rusage", "rexpri", "ndisks", "maxtmp",
                              "maxswp", "stream", "defined", "affinity", "true")
)  # fmt: skip


@given(
    st.sets(NAMES, max_size=5), st.dictionaries(NAMES, NAMES, max_size=5), st.integers(1, 10**6), st.data()
)
def test_what_is_written_is_read(
    tags: set[str], values: dict[str, str], memory: int, data: st.DataObject
) -> None:
    conditions = [*tags, *(f"{key}=={value}" for key, value in values.items())]
    conditions = ["(" * n + c + ")" * n for c in conditions for n in [data.draw(st.integers(0, 3))]]
    text = f"select[{' && '.join(data.draw(st.permutations(conditions)))}] rusage[mem={memory}]"
    assert understood(text) == Wanted(frozenset(tags), frozenset(values.items()), memory)


def test_deep_nesting_neither_raises_nor_takes_long() -> None:
    assert understood("select[" + "(" * 4000 + "kiosk" + ")" * 4000 + "]").tags == {"kiosk"}
    assert understood("select[" + "(a && " * 1500 + "b" + ")" * 1500 + "]") is not None
    assert understood("x" * 100_000) == Wanted()


@given(st.text(max_size=20))
def test_no_amount_raises(text: str) -> None:
    found = mebibytes(text)
    assert found is None or found >= 0
