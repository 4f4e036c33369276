"""Two commands around a capture: one makes a snapshot, the other drops it, whatever happens between them."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Sequence

from kiosk.cloud import untrusted
from kiosk.errors import BuildError, KioskError
from kiosk.golden.capture import Answer
from kiosk.log import logger
from kiosk.pipe import told
from kiosk.run import tool

log = logger(__name__)

LINES = 10
Runner = Callable[[Sequence[str]], Answer]


@contextlib.contextmanager
def around(before: Sequence[str] | None, after: Sequence[str] | None, run: Runner) -> Iterator[None]:
    """Runs `before`, the block, and `after`; BuildError where one of the commands fails.

    `after` runs once `before` was begun, also when that failed half-way and when the block fails, whose error is
    then the one that is raised.
    """
    failed = True
    try:
        if before is not None:
            _must("before", before, run)
        yield
        failed = False
    finally:
        if after is not None:
            try:
                _must("after", after, run)
            except KioskError as e:
                if not failed:
                    raise
                log.warning("%s", e)


def _must(which: str, argv: Sequence[str], run: Runner) -> None:
    answer = run(argv)
    if answer.status != 0:
        raise BuildError(
            f"the hook `{which}` ended with status {answer.status}: {shlex.join(argv)}\n{last_lines(answer.output)}"
        )


def here(timeout: float) -> Runner:
    """Runs commands on this machine."""

    def run(argv: Sequence[str]) -> Answer:
        tool(argv[0])
        ended = told(argv, timeout=timeout)
        if ended.late:
            raise BuildError(
                f"`{shlex.join(argv)}` was not done after {timeout:.0f} s\n{last_lines(ended.text)}"
            )
        return Answer(ended.status, untrusted.printable(ended.text, limit=1 << 20))

    return run


def last_lines(text: str, count: int = LINES) -> str:
    """The last lines of what a program said, fit to be shown, each indented."""
    shown = [
        line.strip() for line in untrusted.printable(text[-65536:], limit=65536).splitlines() if line.strip()
    ]
    return "\n".join(f"  {line[:300]}" for line in shown[-count:])
