"""Whether a recipe's policy opens what no layer may have. Pure; the guest has the last word with the same list."""

from __future__ import annotations

from collections.abc import Iterator

from contextualize.rules import NEVER, reaches
from contextualize.tree import clean
from kiosk.build.fault import Severity

POWERFUL = (
    "/etc/cron.d",
    "/etc/init.d",
    "/etc/ld.so.conf.d",
    "/etc/modprobe.d",
    "/etc/modules-load.d",
    "/etc/ssl",
    "/etc/sysctl.d",
    "/etc/tmpfiles.d",
    "/etc/udev",
)
"""What a site may want to add to and an experiment hardly ever."""


def faults(etc: object) -> Iterator[tuple[Severity, str, str]]:
    """The faults of `policy.etc`: severity, key below `policy`, and what is wrong."""
    seen = set()
    for i, pattern in enumerate(etc if isinstance(etc, list) else []):
        if not isinstance(pattern, str):
            continue
        key = f"etc.{i}"
        if not pattern.startswith("/etc/") or not clean(pattern[1:]):
            yield "error", key, f"{pattern!r} is not a plain path below /etc, where layers add their files"
            continue
        never = [path for path in NEVER if reaches(pattern, path)]
        if never:
            yield "error", key, f"{pattern!r} opens {', '.join(never[:4])}, which no layer may have"
        else:
            for path in POWERFUL:
                if reaches(pattern, path):
                    yield "warning", key, f"{pattern!r} opens {path}: what layers add there rules the machine"
        if pattern in seen:
            yield "warning", key, f"{pattern!r} is there twice"
        seen.add(pattern)
