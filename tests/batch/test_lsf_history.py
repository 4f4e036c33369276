"""Any history of a cluster, read at any moments, with switches and restarts at any places, gives what is there."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kiosk.batch.ask import Commands
from kiosk.batch.lsf.driver import Lsf
from kiosk.batch.lsf.follow import EventLog, Followed
from kiosk.batch.lsf.log import Position
from tests.batch.mbatchd import Mbatchd

NAMES = st.text(alphabet='ab"\n\\ é<>[]', max_size=8)


class History(RuleBasedStateMachine):
    """A master that writes, a reader that follows, and a model that only counts."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="kiosk-lsf-"))
        self.waits: set[int] = set()
        self.runs: dict[int, str] = {}
        self.ended: set[int] = set()
        self.half = b""

    @initialize(ibm=st.booleans())
    def begin(self, ibm: bool) -> None:
        self.master = Mbatchd(self.folder, ibm)
        self.restart()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def complete(self) -> None:
        """What was half written is written to its end."""
        with self.master.events.open("ab") as f:
            f.write(self.half)
        self.half = b""

    @rule(name=NAMES, command=NAMES)
    def submit(self, name: str, command: str) -> None:
        self.complete()
        self.waits.add(self.master.submit(name=f"{name}.", command=command))

    @precondition(lambda self: self.waits)
    @rule(data=st.data(), host=st.sampled_from(["wn1", "wn2"]), slots=st.integers(1, 3), short=st.booleans())
    def start(self, data: st.DataObject, host: str, slots: int, short: bool) -> None:
        self.complete()
        job = data.draw(st.sampled_from(sorted(self.waits)))
        self.master.start(job, [host] * slots, short=short)
        self.waits.remove(job)
        self.runs[job] = host

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), requeued=st.booleans())
    def finish(self, data: st.DataObject, requeued: bool) -> None:
        self.complete()
        job = data.draw(st.sampled_from(sorted(self.runs)))
        self.master.finish(job)
        del self.runs[job]
        if requeued:
            self.master.write("JOB_REQUEUE", f"{job} 0 ", job)
            self.waits.add(job)
        else:
            self.ended.add(job)

    @precondition(lambda self: self.ended)
    @rule()
    def clean(self) -> None:
        self.complete()
        self.master.clean(self.ended.pop())

    @rule()
    def switch(self) -> None:
        self.complete()
        self.master.switch()

    @precondition(lambda self: not self.half)
    @rule(data=st.data())
    def write_half_a_record(self, data: st.DataObject) -> None:
        before = self.master.events.stat().st_size
        self.master.write("HOST_CTRL", '1 "wn9" 0 "root" "a ""message"""')
        whole = self.master.events.read_bytes()
        cut = data.draw(st.integers(before, len(whole) - 1))
        self.half = whole[cut:]
        with self.master.events.open("r+b") as f:
            f.truncate(cut)

    @rule()
    def restart(self) -> None:
        kept = getattr(self, "reader", None)
        since = kept.position if kept is not None else None
        log = EventLog(self.folder, None if since is None else Position.parse(str(since)))
        self.reader = Followed(log, Lsf(Commands(self.folder)), now=lambda: datetime(2026, 12, 1, tzinfo=UTC))

    @rule()
    def look(self) -> None:
        look = self.reader.look()
        assert sum(g.jobs for g in look.pending) == len(self.waits)
        assert sum(g.jobs for g in look.running) == len(self.runs)
        jobs = {h.name: h.jobs for h in look.hosts if h.jobs}
        assert jobs == Counter(self.runs.values())

    @invariant()
    def nothing_is_asked(self) -> None:
        if hasattr(self, "reader"):
            assert self.reader.queries == 0


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
