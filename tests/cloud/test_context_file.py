"""The file of `kiosk vm start --context`: read once, never waited for, and nothing private of it shown."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from contextualize import context as guest
from kiosk.cloud import context
from kiosk.errors import PolicyError, UsageError
from tests.cloud.test_context import made


@pytest.mark.parametrize(
    "more", [{"hooks": {"prolog": "token=hush"}}, {"user_data": "#!/bin/sh\ntoken=hush"}]
)
def test_scripts_are_their_owners_alone(tmp_path: Path, more: dict[str, Any]) -> None:
    path = tmp_path / "context.json"
    path.write_text(json.dumps(more))
    path.chmod(0o644)
    with pytest.raises(PolicyError, match=f"holds {next(iter(more))}, and others than its owner") as caught:
        context.given(path)
    assert "hush" not in str(caught.value)
    path.chmod(0o600)
    assert context.given(path) == more


@pytest.mark.parametrize(
    "more",
    [
        {"hooks": {"prolog": ["hush"]}},
        {"hooks": {"epilog": "hush\0"}},
        {"user_data": {"token": "hush"}},
        {"user_data": "hush" * guest.LIMIT},
    ],
)
def test_a_script_that_is_none_is_refused_unseen(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        made(more)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("text", ['{"life": {}, "life": {}}', '{"farm": {"kind": "slurm", "kind": "lsf"}}'])
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "context.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"has '(life|kind)' twice in one object"):
        context.given(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is not a file"):
        context.given(tmp_path / "pipe")
