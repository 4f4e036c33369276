"""The next step of a roll-out. Pure: from what is signed, the plan, and the health, the next document.

* The share only grows, one stage at a time. Only an abort takes a version back, and an abort is final.
* Only a roll-out that is running moves.
* A stage holds for as long as it has been *seen* to be well: the time between two looks that both found it so, by a
  clock that nobody sets. A step of the wall clock, a restart, a reboot, and time in which nothing was known add
  nothing.
* The signed document decides where a roll-out is. Progress that belongs to another stage is begun anew, so that
  nothing is lost or skipped when a driver dies between signing and remembering.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from kiosk.model.base import Document
from kiosk.model.names import VersionText
from kiosk.model.rollout import WHOLE, Rollout
from kiosk.rollout.health import Verdict
from kiosk.rollout.plan import Plan, duration, percent

LONGEST_GAP = 600.0
"""Seconds between two looks that count, at the most."""


class Moment(Document):
    """A time that only goes forward: seconds since the machine was started, and which start that was."""

    boot: str
    seconds: Annotated[float, Field(ge=0)]


class Progress(Document):
    """How far the stage of `version` at `share` is: the seconds in which it was seen to be well, and the last look,
    where that found it well."""

    version: VersionText
    share: Annotated[int, Field(ge=0, le=WHOLE)]
    held: Annotated[float, Field(ge=0)] = 0
    well: Moment | None = None


Move = Literal["rest", "hold", "advance", "done", "abort"]


@dataclass(frozen=True)
class Step:
    """What is to be signed (the same document where nothing changes), the progress to remember, and what to say."""

    move: Move
    rollout: Rollout
    progress: Progress
    said: str


def step(rollout: Rollout, plan: Plan, progress: Progress | None, verdict: Verdict, now: Moment) -> Step:
    """The next step."""
    if progress is None or (progress.version, progress.share) != (rollout.version, rollout.share):
        progress = Progress(version=rollout.version, share=rollout.share)
    if rollout.state != "running":
        return Step("rest", rollout, progress.model_copy(update={"well": None}), rollout.state)
    if verdict.answer == "bad":
        ended = rollout.model_copy(update={"state": "aborted", "reason": verdict.why[:400]})
        return Step("abort", ended, progress, f"aborted: {verdict.why}")
    if verdict.answer == "unknown":
        return Step("hold", rollout, progress.model_copy(update={"well": None}), verdict.why)
    held, hold = progress.held + passed(progress.well, now), plan.hold_of(rollout.share)
    if held < hold:
        said = f"{verdict.why}, for {duration(held)} of {duration(hold)}"
        return Step("hold", rollout, progress.model_copy(update={"held": held, "well": now}), said)
    return _advanced(rollout, plan, verdict)


def _advanced(rollout: Rollout, plan: Plan, verdict: Verdict) -> Step:
    share = plan.after(rollout.share)
    if share is None:
        ended = rollout.model_copy(update={"state": "done"})
        return Step("done", ended, Progress(version=ended.version, share=ended.share), f"done: {verdict.why}")
    more = rollout.model_copy(update={"share": share})
    begun = Progress(version=more.version, share=share)
    return Step("advance", more, begun, f"{verdict.why}: on to {percent(share)}")


def passed(since: Moment | None, now: Moment) -> float:
    """The seconds between two looks that count."""
    if since is None or since.boot != now.boot:
        return 0.0
    return min(max(0.0, now.seconds - since.seconds), LONGEST_GAP)
