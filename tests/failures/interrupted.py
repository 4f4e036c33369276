"""Ends a process in the middle of its work, for real: a forked child gets SIGKILL at the n-th rename.

Every step of kiosk's that others can see is a rename, so these are all the states that can be left behind;
what removes files can be killed at every removal as well.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from kiosk.errors import KioskError

DONE, FAILED = 0, 17


def killed_at(step: int, work: Callable[[], object], *, removals: bool = False) -> bool:
    """Runs `work` in a child that is killed before its `step`-th rename (or removal of a file, if those count).
    False when it ended before that."""
    child = os.fork()
    if child == 0:
        _die_at(step, removals)
        _end(work)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == DONE
    return False


def beside(work: Callable[[], object]) -> Callable[[], bool]:
    """Starts `work` in a child; the function returned waits and says whether it went well (else BusyError)."""
    child = os.fork()
    if child == 0:
        _end(work)
    return lambda: os.WEXITSTATUS(os.waitpid(child, 0)[1]) == DONE


def _end(work: Callable[[], object]) -> None:
    code = 1
    try:
        work()
        code = DONE
    except KioskError as e:
        code = FAILED if e.exit_code == 4 else 1
    finally:
        os._exit(code)


def _die_at(step: int, removals: bool) -> None:
    left = [step]

    def counted(real: Callable[..., None]) -> Callable[..., None]:
        def rename(*args: Any, **more: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args, **more)

        return rename

    os.replace = counted(os.replace)
    os.rename = counted(os.rename)
    if removals:
        os.unlink = counted(os.unlink)
