"""Moves roll-outs on: looks at the health of the hosts, and signs the next step where it is due.

* The repository's lock is not held while a command is asked. A step is signed only when the document is still the
  one that was judged, so an order that a person gave meanwhile stands.
* The document is signed first and remembered after it. Killed in between, the next look sees where the signed
  document is and begins the stage's hold there (see step).
* Reports that can't be had, and a repository that another kiosk is signing, hold everything until the next look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiosk.config import Settings
from kiosk.errors import KioskError
from kiosk.log import logger
from kiosk.model.names import Ref, parse_ref
from kiosk.model.rollout import Rollout, rollout_path
from kiosk.publish import signed
from kiosk.rollout import record
from kiosk.rollout.health import Health, Heard, Reports, Verdict, health, judge
from kiosk.rollout.plan import Plans
from kiosk.rollout.question import ask
from kiosk.rollout.record import Entry, Record
from kiosk.rollout.step import Moment, Step, step
from kiosk.trust.names import ROLLOUTS
from kiosk.trust.signing.repository import Repository

log = logger(__name__)
BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Look:
    """What one look at a running roll-out found, and what came of it."""

    ref: Ref
    before: Rollout
    health: Health
    step: Step


def moment() -> Moment:
    """Now, by the kernel's clock since the machine's start, which goes on while it sleeps and is never set."""
    return Moment(boot=BOOT.read_text().strip(), seconds=time.clock_gettime(time.CLOCK_BOOTTIME))


class Driver:
    """Looks at all running roll-outs of a repository."""

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        reports: Reports,
        plans: Plans,
        clock: Callable[[], Moment] = moment,
    ) -> None:
        self.settings = settings
        self.repository = repository
        self._reports = reports
        self._plans = plans
        self._clock = clock

    def look(self, *, dry_run: bool = False) -> list[Look]:
        """One look at each running roll-out; signs what follows, unless `dry_run`. Raises KioskError when the
        repository can't be read or signed (BusyError: another kiosk is at it); nothing has moved then."""
        with self.repository.locked():
            running = [r for _, r in signed.rollouts(self.repository) if r.state == "running"]
        heard = self._heard() if running else None
        looks = [self._judged(r, heard) for r in running]
        return looks if dry_run else self._signed(looks)

    def _heard(self) -> Sequence[Heard] | None:
        try:
            return self._reports.latest()
        except KioskError as e:
            log.warning("%s", e)
            return None

    def _judged(self, rollout: Rollout, heard: Sequence[Heard] | None) -> Look:
        """What follows for one roll-out. The command is asked only when the hosts' reports alone would do."""
        ref = parse_ref(rollout.name)
        known = self._record(ref, rollout)
        found = health(
            rollout, heard or (), known.hosts, self.repository.now(), known.plan.fresh_of(rollout.share)
        )
        if heard is None:
            verdict = Verdict("unknown", "the hosts' reports can't be had")
        else:
            verdict = judge(found, "good", known.plan)
            if verdict.answer == "good":
                verdict = judge(found, ask(known.plan.ask, rollout, known.plan.ask_timeout), known.plan)
        return Look(ref, rollout, found, step(rollout, known.plan, known.progress, verdict, self._clock()))

    def _record(self, ref: Ref, rollout: Rollout) -> Record:
        there = record.read(record.path_of(self.settings, ref))
        if there is not None and there.version == rollout.version:
            return there
        plan = self._plans.of(ref.base)
        return Record(name=ref.base, version=rollout.version, plan=plan, started=self.repository.now())

    def _signed(self, looks: Sequence[Look]) -> list[Look]:
        """Signs the steps of those documents that are still what was judged, in one change, and remembers."""
        with self.repository.locked():
            now = {r.name: r for _, r in signed.rollouts(self.repository)}
            looks = [look for look in looks if now.get(look.before.name) == look.before]
            moved = [look for look in looks if look.step.rollout != look.before]
            if moved:
                documents = {rollout_path(look.ref): look.step.rollout.to_json() for look in moved}
                self.repository.publish({ROLLOUTS: documents})
            for look in looks:
                self._remember(look)
        return looks

    def _remember(self, look: Look) -> None:
        made = look.step.rollout
        at = self.repository.now()
        entry = Entry(at=at, share=made.share, state=made.state, said=look.step.said).of(look.health)
        known = self._record(look.ref, made)
        kept = known.model_copy(update={"progress": look.step.progress, "hosts": look.health.hosts})
        record.write(record.path_of(self.settings, look.ref), kept.with_entry(entry))
