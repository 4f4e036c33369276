"""The guest's code is that of the oldest Python among the images: Debian 11's 3.9."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import contextualize

FILES = sorted(Path(contextualize.__file__).parent.rglob("*.py"))
LATER = re.compile(
    r"zip\([^\n]*strict=|\bslots=|\bkw_only=|\bpairwise\b|\bbit_count\b|datetime\.UTC|import UTC|\btomllib\b"
    r"|\bfile_digest\b|contextlib\.chdir|\bStrEnum\b|\bTaskGroup\b|\bExceptionGroup\b|process_group=|\.walk\(top_down"
    r"|\bhardlink_to\b|\bstdlib_module_names\b|\bTypeAlias\b|\bParamSpec\b|import Self\b|\bbatched\b|\banext\b"
)
"""What came with 3.10 and later and is no syntax."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_is_read_by_python_3_9_and_asks_for_nothing_newer(file: Path) -> None:
    text = file.read_text()
    ast.parse(text, feature_version=(3, 9))
    assert "from __future__ import annotations" in text or "Optional[" not in text
    assert not LATER.search(text), LATER.search(text)
