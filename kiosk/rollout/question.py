"""Asks a command whether a version is well: whether nodes of it joined the farm and ran jobs, say."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from kiosk.errors import MissingToolError
from kiosk.log import logger
from kiosk.model.rollout import Rollout
from kiosk.pipe import told
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
        ended = told(words, timeout=timeout, env=env)
    except (MissingToolError, OSError, subprocess.SubprocessError) as e:
        log.warning("%s", e)
        return "unknown"
    if ended.late or ended.status not in (0, 1):
        log.warning("%s ended with %d: %s", words[0], ended.status, ended.text[-500:])
        return "unknown"
    return "bad" if ended.status else "good"
