"""What programs print is bounded, in bytes and in time, whatever they do."""

from __future__ import annotations

import os
import signal
import time

from kiosk.pipe import KEPT, told

BOTH = "import os; os.write(1, b'out'); os.write(2, b'err')"


def test_both_streams_are_told_together_or_apart() -> None:
    assert told(["python3", "-c", BOTH], timeout=60).text == "outerr"
    ended = told(["python3", "-c", BOTH], timeout=60, most=3)
    assert (ended.status, ended.text, ended.error, ended.cut) == (0, "out", "err", False)


def test_a_program_that_prints_without_end_is_ended() -> None:
    ended = told(["yes"], timeout=60, most=1000)
    assert (ended.cut, ended.late, len(ended.text)) == (True, False, 1000)
    ended = told(["sleep", "60"], timeout=0.2, most=1000)
    assert (ended.cut, ended.late) == (False, True)


def test_a_stream_that_somebody_else_holds_open_is_not_waited_for() -> None:
    start = time.monotonic()
    ended = told(["sh", "-c", "sleep 30 & echo $!"], timeout=60)
    took = time.monotonic() - start
    os.kill(int(ended.text), signal.SIGKILL)
    assert (ended.status, took < 20) == (0, True)


def test_of_a_long_text_the_beginning_and_the_end_are_kept() -> None:
    ended = told(["seq", "1000000"], timeout=60)
    assert (ended.status, ended.cut) == (0, True)
    assert ended.text.startswith("1\n2\n")
    assert ended.text.endswith("\n1000000\n")
    assert len(ended.text) < 2 * KEPT + 10
