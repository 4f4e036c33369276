"""Shell variables read as data are what a real shell has after reading them, or they are refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextualize.errors import Refused
from contextualize.sources.variables import variables

TEXT = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=40)


def quoted(value: str) -> str:
    """As OpenNebula writes a value."""
    escaped = value.replace("'", "'\\''")
    return f"'{escaped}'"


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,8}", fullmatch=True), TEXT, max_size=5))
def test_whatever_opennebula_writes_is_read_back(values: dict[str, str]) -> None:
    text = "# Context\n\n" + "".join(f"{name}={quoted(value)}\n" for name, value in values.items())
    assert variables(text.encode(), "context.sh") == values


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = variables(data, "context.sh")
    except Refused:
        return
    assert all(name.isidentifier() for name in found)


ACCEPTED = [
    "X='plain'", "X=''", "X=", "X=a-b_c:/%@+,.", 'X="in double"', 'X="it\'s"',
    "X='over\ntwo lines'", "X='$HOME `id` \\n'", "X='it'\\''s'", "X=\\''a'", "X='a'   ", "X='a''b'",
]  # fmt: skip


@pytest.mark.parametrize("line", ACCEPTED)
def test_what_is_accepted_means_the_same_to_a_shell(line: str, tmp_path: Path) -> None:
    file = tmp_path / "context.sh"
    file.write_text(f"{line}\n")
    argv = ["sh", "-c", '. "$1"; printf "%s|" "$X"', "sh", str(file)]
    shell = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert variables(file.read_bytes(), "context.sh") == {"X": shell.removesuffix("|")}


@pytest.mark.parametrize(
    "text",
    [
        "X=$HOME", 'X="$HOME"', 'X="`id`"', "X=`id`", "X=$(id)", "X='a' id", "X='a';id", "X='a'&", "X='open",
        'X="a\\"b"', "id", "export X='a'", "X ='a'", "X= 'a'", "1X='a'", "X='a'\nX='b'", "X='a' # c", "X=a b",
        "X[0]='a'", "X+='a'", "X=~", "X=a*", "X='a'$Y", "X={a,b}", 'X="a!b"', "X='a'\\",
    ],
)  # fmt: skip
def test_what_a_shell_would_act_upon_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        variables(f"{text}\n".encode(), "context.sh")
