"""What people may order of a roll-out. Pure: each gives the document to sign, or a PolicyError that says why not."""

from __future__ import annotations

from collections.abc import Sequence

from kiosk.errors import NotFoundError, PolicyError
from kiosk.model.names import Ref, Version
from kiosk.model.rollout import WHOLE, Rollout
from kiosk.rollout.plan import Plan


def begin(
    ref: Ref, offered: Sequence[Version], there: Rollout | None, plan: Plan, *, recall: bool = False
) -> Rollout:
    """The first stage of `ref` (a version). `offered` are the versions that are published without it or with it;
    `there` is the roll-out that hosts follow now. What hosts had until now is what an abort returns them to."""
    version = ref.version
    assert version is not None
    if there is not None and there.state in ("running", "paused"):
        raise PolicyError(
            f"{there.name}@{there.version} is being rolled out now",
            hint=f"`kiosk rollout finish {ref.base}` or `abort` ends that first.",
        )
    others = [v for v in offered if v != version]
    if there is None:
        if offered and version == max(offered) and not recall:
            raise PolicyError(
                f"all hosts are offered {ref} already: it was published without a roll-out",
                hint="With --recall, hosts outside of the first stage go back to the version before.",
            )
        before = max(others, default=None)
    else:
        now = there.before if there.state == "aborted" else there.version
        before = None if now is None else Version.parse(now)
    if before is not None and before >= version:
        raise PolicyError(
            f"hosts have {ref.base}@{before}, which is not older than {version}",
            hint="A roll-out goes to a newer version; to go back, abort one.",
        )
    return Rollout(
        name=ref.base,
        version=str(version),
        before=None if before is None else str(before),
        share=plan.stages[0].share,
        hosts=plan.hosts,
    )


def pause(there: Rollout) -> Rollout:
    """Nothing moves any more; hosts keep what they are offered."""
    return _changed(there, ("running",), state="paused")


def resume(there: Rollout) -> Rollout:
    """Goes on where it was paused."""
    return _changed(there, ("paused",), state="running")


def abort(there: Rollout, reason: str) -> Rollout:
    """All hosts are offered the version before."""
    return _changed(there, ("running", "paused"), state="aborted", reason=reason)


def finish(there: Rollout) -> Rollout:
    """All hosts are offered the version, now."""
    return _changed(there, ("running", "paused"), state="done", share=WHOLE)


def refuse_end(there: Rollout, newest: Version, *, force: bool) -> None:
    """PolicyError where without the roll-out some host would be offered another version, unless forced."""
    if not force and (there.state != "done" or there.version != str(newest)):
        raise PolicyError(
            f"without its roll-out all hosts would go to {there.name}@{newest}; now it is {there.state}"
            + (f" at {there.before or 'no version'}" if there.state == "aborted" else f" at {there.version}"),
            hint="`--force` if that is what you want.",
        )


def _changed(there: Rollout, states: tuple[str, ...], **values: object) -> Rollout:
    if there.state not in states:
        ended = there.state in ("aborted", "done")
        raise PolicyError(
            f"the roll-out of {there.name}@{there.version} is {there.state}"
            + (f": {there.reason}" if there.reason else ""),
            hint=f"`kiosk rollout start {there.name}@VERSION` begins anew." if ended else None,
        )
    return Rollout.model_validate({**there.model_dump(by_alias=True), **values})


def existing(there: Rollout | None, ref: Ref) -> Rollout:
    """The roll-out, or NotFoundError."""
    if there is None:
        raise NotFoundError(
            f"{ref.base} has no roll-out: hosts go by its newest version",
            hint=f"kiosk publish {ref.base} --rollout",
        )
    return there
