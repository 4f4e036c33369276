"""Asks a command whether a version is well: whether nodes of it joined the farm and ran jobs, say."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from kiosk import run
from kiosk.errors import MissingToolError
from kiosk.log import logger
from kiosk.model.rollout import Rollout
from kiosk.rollout.health import Answer

log = logger(__name__)


def ask(argv: Sequence[str] | None, rollout: Rollout, timeout: float) -> Answer:
    """`good` when the command ends with 0 (or there is none to ask), `bad` with 1, and `unknown` otherwise: when it
    takes longer than `timeout` seconds, can't be started, or ends in any other way.

    It is given NAME and VERSION as its last arguments, and ROLLOUT_BEFORE and ROLLOUT_SHARE (thousandths) in the
    environment.
    """
    if argv is None:
        return "good"
    words = [*argv, rollout.name, rollout.version]
    env = {"ROLLOUT_BEFORE": rollout.before or "", "ROLLOUT_SHARE": str(rollout.share)}
    try:
        run.bounded(words, timeout=timeout, most=1 << 16, env=env)
    except run.CommandError as e:
        log.info("%s", e)
        return "bad" if e.status == 1 else "unknown"
    except (MissingToolError, OSError, subprocess.SubprocessError) as e:
        log.warning("%s", e)
        return "unknown"
    return "good"
