"""`python -m kiosk.agent.daemon`: the process that is always there. `kiosk agent` starts it.

One loop waits for whatever comes first: an event of the kiosk's, the next poll, a line from the work, a signal.
It never does what could block or fail: network calls have threads, and everything that verifies, fetches or
writes images is a process of its own. It stays small: the standard library, libtorrent, and kiosk's light
modules (a test sees to that).
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from kiosk.agent import state as states
from kiosk.agent.api import Api, lease
from kiosk.agent.child import BEAT, Child
from kiosk.agent.events import Event, Stream
from kiosk.agent.notify import notify, watchdog
from kiosk.agent.orders import Orders, in_window, until_edge
from kiosk.agent.pace import Pace
from kiosk.agent.poll import Poll
from kiosk.agent.state import State
from kiosk.agent.swarm import Swarm, join
from kiosk.agent.web import Answer, Web, WebError
from kiosk.errors import KioskError
from kiosk.files import locked

REPORT_EVERY = 300.0
REPORT_LEAST = 1.0
SOON = 0.05
EDGE_MOST = 900.0
STOP_SECONDS = 15.0
LOOK_AT_CHILD = 60.0
MOST_PUSHES = 100
MOST_NAMES = 1000
NEVER = float("inf")
MOST_WAITING = 1000
"""Calls that wait for the loop, from which on events are dropped."""
WAKE = "wake"
LOCK = "agent.lock"
REFUSED = {
    401: "the token is not this host's (`kiosk fleet token HOST` on the kiosk)",
    404: "it has no fleet (a plain web server?)",
}


class Daemon:
    """The daemon's loop and what it knows."""

    def __init__(self, orders: Orders, swarm: Swarm) -> None:
        self.orders = orders
        self.swarm = swarm
        self.state = State(
            orders.host, orders.agent, fanout=states.last_fanout(orders.folder), pid=os.getpid()
        )
        self.pace = Pace(orders.poll)
        self.poll = Poll(orders.url, orders.proxy, orders.ca)
        self.at: dict[str, float] = {}
        self.child: Child | None = None
        self.pushes: dict[int, tuple[str, ...]] = {}
        self.pushed_before: collections.deque[int] = collections.deque(maxlen=MOST_PUSHES)
        self.held_back = False
        self.running_pushes: dict[int, tuple[str, ...]] = {}
        self.counting: dict[str, int] = {}
        self.again = False
        self.claimed: int | None = None
        self.stopped = False
        self.hung: str | None = None
        self.result: dict[str, Any] | None = None
        self.leased: tuple[str, str] | None = None
        self.ending = False
        self.reloading = False
        self.open = True
        self._inbox: collections.deque[Callable[[], None]] = collections.deque()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._reporting = False
        self._listens: bool | None = None
        self._taken: int | None = None
        self._reported_at = float("-inf")
        self.api: Api | None = None
        self.stream: Stream | None = None

    # -- the loop -------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until SIGTERM, or a reload."""
        self.begin()
        handlers = {
            "work": self.start_work,
            "poll": self.start_poll,
            "report": self.send_report,
            "save": self.save,
            "edge": self.look_at_window,
            "alive": self.tell_alive,
            "silent": self.look_at_child,
        }
        try:
            while not self.ending:
                pause = min(self.at.values(), default=60.0) - time.monotonic()
                writes = self.child is not None and self.child.waits_to_write
                for key, _ in self._selector.select(max(0.0, min(pause, 0.2 if writes else 3600.0))):
                    self.take(key.data)
                if writes and self.child is not None:
                    self.child.flush()
                now = time.monotonic()
                for name in [n for n, at in self.at.items() if at <= now]:
                    del self.at[name]
                    handlers[name]()
        finally:
            self.end()

    def begin(self) -> None:
        """Starts the threads and the first run."""
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, WAKE)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        signal.signal(signal.SIGHUP, lambda *_: self.reload())
        self.swarm.limit(self.orders.bandwidth)
        if (fd := self.swarm.fileno()) is not None:
            self._selector.register(fd, selectors.EVENT_READ, "swarm")
        if self.orders.api is not None:
            web = Web(self.orders.api, self.orders.proxy, self.orders.ca)
            path = f"/api/events?host={self.orders.host}"
            self.stream = Stream(
                web,
                path,
                self.hear,
                lambda why: self.post(lambda: self.stream_is(why)),
            )
            self.stream.start()
            token = self.orders.token()
            if token is not None:
                self.api = Api(web, self.orders.host, token)
                self.api.start()
            elif self.orders.token_file is not None:
                say(f"{self.orders.token_file} holds no token: this host does not report")
        now = time.monotonic()
        self.at = {"work": now, "poll": self.pace.next_poll(), "report": now, "save": now}
        self.look_at_window()
        self.tell_alive()
        notify("READY=1\nSTATUS=looking for what is new")
        say(f"keeps {', '.join(self.orders.images)} of {self.orders.url} as {self.orders.host}")

    def take(self, what: str) -> None:
        """Whatever the selector found."""
        if what == WAKE:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
            for _ in range(len(self._inbox)):  # not those that come meanwhile: timers have their turn
                self._inbox.popleft()()
            if self._inbox:
                self.wake()
        elif what == "swarm":
            for digest in self.swarm.completed():
                if self.child is not None:
                    self.child.tell({"object": digest})
            self.changed(often=True)  # peers are given to after the last run, too
        elif what == "work" and self.child is not None:
            for message in self.child.hear():
                self.told(message)
            if self.child.ended:
                self.work_ended()

    def post(self, call: Callable[[], None]) -> None:
        """Has the loop call it; for threads."""
        self._inbox.append(call)
        self.wake()

    def wake(self) -> None:
        """Has the loop look at once."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"\0")

    def hear(self, event: Event) -> None:
        """Passes an event on; for the thread that listens. Of a flood most is dropped: events only hasten."""
        if len(self._inbox) < MOST_WAITING:
            self.post(lambda: self.heard(event))

    def sooner(self, name: str, at: float) -> None:
        """Lets something be due then, unless it is due earlier."""
        self.at[name] = min(self.at.get(name, NEVER), at)

    # -- the work -------------------------------------------------------------------------------------

    def want_work(self, at: float) -> None:
        """Has a run start then; one more, where one is under way."""
        if self.child is not None:
            self.again = True
        else:
            self.sooner("work", at)

    def may_be_new(self, claimed: int | None, at: float) -> None:
        """Somebody says that timestamp.json has this version (None: any). A run under way may have seen it."""
        if self.child is not None:
            self.claimed = -1 if claimed is None else claimed
            if self.state.state == "waiting" and claimed != self.state.timestamp:
                # what it waits for may be withdrawn, and something else urgent: the bytes that came are kept
                self.stopped = self.again = True
                self.child.stop()
        elif claimed is None or claimed != self.state.timestamp or self.pace.failures:
            self.sooner("work", at)

    def start_work(self) -> None:
        """Starts a run."""
        if self.child is not None:
            self.again = True
            return
        self.pace.begun()
        self.result, self.again, self.stopped, self.hung = None, False, False, None
        self.running_pushes = dict(self.pushes)
        job = {
            "orders": json.loads(self.orders.to_json()),
            "pushed": sorted({name for names in self.pushes.values() for name in names}),
            "open": self.open,
            "swarm": self.swarm.works,
            "fanout": self.state.fanout,
            "beat": BEAT,
        }
        try:
            self.child = Child(job, self._selector)
        except OSError as e:
            self.state.error = f"the work can't be started: {e.strerror}"
            self.at["work"] = self.pace.ended_badly()
            return
        self.at["silent"] = time.monotonic() + LOOK_AT_CHILD

    def told(self, message: dict[str, Any]) -> None:
        """A line from the work."""
        what = message.pop("say")
        if what == "held":
            self.state.held, self.state.free = message["held"], message["free"]
            self.changed()
        elif what == "fetching":
            self.held_back = message.pop("held_back")
            self.state.state, self.state.fetching = "fetching", message
            self.changed(often=True)
        elif what == "counted":
            self.counting = message
            self.changed(often=True)
        elif what == "want":
            self.swarm.want(message["infohash"], Path(message["torrent"]), [d for d, _ in message["objects"]])
        elif what == "have":
            self.swarm.have(message["digest"])
        elif what == "lost":
            self.swarm.lost(message["digest"])
        elif what == "seed":
            self.swarm.seed([(h, Path(p)) for h, p in message["torrents"]])
        elif what == "lease":
            self.ask_lease(message)
        elif what == "result":
            self.result = message

    def work_ended(self) -> None:
        """The run is over, one way or another."""
        assert self.child is not None
        code = self.child.wait(STOP_SECONDS)
        self.child = None
        self.state.http += self.counting.get("http", 0)
        self.state.swarm += self.counting.get("swarm", 0)
        self.counting = {}
        self.state.fetching = None
        if self.leased is not None:
            self.give_back(*self.leased, 0)
        result = self.result
        if result is None:
            self.failed_without_result(code)
        else:
            self.take_result(result)
        self.changed()
        if self.again or self.claimed not in (None, self.state.timestamp):
            self.sooner("work", self.pace.after_event())
        self.claimed = None
        notify(f"STATUS={self.state.state}: {self.state.error or f'{len(self.state.held)} versions held'}")

    def failed_without_result(self, code: int) -> None:
        """A run that was killed, or stopped by us."""
        if self.stopped:
            self.state.state = "waiting"
            return
        self.state.state = "failed"
        self.state.error = self.hung or f"the work ended with status {code}"
        if self.hung is None:
            say(self.state.error)
        self.at["work"] = self.pace.ended_badly()

    def take_result(self, result: dict[str, Any]) -> None:
        """A run that has something to say."""
        results = result["results"]
        failed = [f"{r['name']}@{r['version']}"[:180] for r in results if r["bad"]]
        self.state.failed = failed[: states.MOST_FAILED]
        self.state.waiting = [f"{r['name']}@{r['version']}" for r in results if r["state"] == "waiting"]
        where = f"{result['where']}: " if result["where"] else ""
        self.state.error = where + result["error"] if result["error"] else None
        for r in results:
            if r["state"] not in ("current", "failed"):
                say(f"{r['name']}@{r['version']}: {r['state']}, {r['moved']} bytes moved in {r['seconds']} s")
        if result["timestamp"]:
            self.state.timestamp, self.state.expires = result["timestamp"], result["expires"]
        if result["code"] == 0:
            self.state.state = "waiting" if self.state.waiting else "idle"
            self.forget_pushes()
            fruitful = any(r["state"] not in ("current", "waiting") for r in results)
            self.sooner("work", self.pace.ended_well(fruitful=fruitful, left=result["expires"] - time.time()))
        else:
            self.state.state = "waiting" if result["code"] == 4 else "failed"
            self.at["work"] = self.pace.ended_badly()

    def forget_pushes(self) -> None:
        """The pushes that the last run has fulfilled are done with."""
        for number in self.running_pushes:
            self.pushes.pop(number, None)
            self.pushed_before.append(number)

    def look_at_child(self) -> None:
        """Kills a run that gives no sign of life, or gets nowhere: it is started again later."""
        if self.child is None:
            return
        if (why := self.child.hangs()) is not None and self.hung is None:
            self.hung = f"the work {why}: it is ended"
            say(self.hung)
            self.child.kill()
        self.at["silent"] = time.monotonic() + LOOK_AT_CHILD

    # -- leases ---------------------------------------------------------------------------------------

    def ask_lease(self, asked: dict[str, Any]) -> None:
        """Passes a question on to the kiosk, or answers it where nobody gives leases."""
        name, version = asked["name"], asked["version"]
        if asked["done"]:
            self.give_back(name, version, asked["bytes"])
            return
        self.leased = name, version
        if self.api is None:
            self.answer_lease(None)
            return
        fields = lease_fields(name, version, asked["bytes"])
        self.api.post("/api/lease", fields, lambda answer: self.post(lambda: self.answer_lease(answer)))

    def answer_lease(self, answer: Answer | None) -> None:
        """Tells the work what the kiosk said."""
        made = lease(answer)
        if made is not None and made["fanout"]:
            self.state.fanout = made["fanout"]
        if made is not None and not made["granted"] and self.state.state == "fetching":
            self.state.state = "waiting"
            self.changed()
        if made is not None and self.orders.bandwidth:  # the two together stay near the limit
            share = self.orders.bandwidth // 10 if made["granted"] else self.orders.bandwidth
            self.swarm.limit(max(1000, share))
        if self.child is not None:
            if made is not None:
                self.child.expect(made["retry"])
            self.child.tell({"lease": made, "fanout": self.state.fanout})

    def give_back(self, name: str, version: str, left: int) -> None:
        """Gives a lease back, so that another host gets it, with the bytes that were not read."""
        self.leased = None
        if self.api is not None:
            fields = {**lease_fields(name, version, left), "done": True}
            self.api.post("/api/lease", fields, lambda _answer: None)

    # -- what the kiosk tells -------------------------------------------------------------------------

    def heard(self, event: Event) -> None:
        """An event. It can only make the agent look sooner."""
        try:
            data = json.loads(event.data)
        except (ValueError, RecursionError):
            return
        if not isinstance(data, dict):
            return
        if event.name == "changed":
            claimed = data.get("timestamp")
            self.may_be_new(claimed if isinstance(claimed, int) else None, self.pace.after_event())
        elif event.name == "push":
            self.pushed(data)

    def pushed(self, data: dict[str, Any]) -> None:
        """Somebody wants images here now."""
        number, images = data.get("push"), data.get("images")
        if not isinstance(number, int) or not isinstance(images, list) or len(images) > MOST_NAMES:
            return
        names = tuple(i for i in images if isinstance(i, str) and len(i) <= 150)
        if number in self.pushed_before or number in self.pushes or len(self.pushes) >= MOST_PUSHES:
            return
        self.pushes[number] = names
        self.want_work(self.pace.after_event())

    def stream_is(self, why: str | None) -> None:
        """The event stream has begun, or ended."""
        connected = why is None
        if connected is not self._listens:
            self._listens = connected
            say("the kiosk's events are heard" if connected else f"no events from the kiosk: {why}; polling")
            self.state.connected = connected
            self.changed()

    # -- polling --------------------------------------------------------------------------------------

    def start_poll(self) -> None:
        """Looks at timestamp.json, in a thread."""
        self.at["poll"] = self.pace.next_poll()

        def look() -> None:
            try:
                version = self.poll.version()
            except WebError:
                return  # a run that is due anyway will say what is wrong
            self.post(lambda: self.may_be_new(version, time.monotonic()))

        threading.Thread(target=look, name="kiosk-poll", daemon=True).start()

    # -- the window -----------------------------------------------------------------------------------

    def look_at_window(self) -> None:
        """Notes whether the window is open; starts what waited for it, stops what may not go on."""
        window = self.orders.window
        if window is None:
            return
        now = datetime.now()
        was, self.open = self.open, in_window(window, now)
        self.at["edge"] = time.monotonic() + min(EDGE_MOST, until_edge(window, now))
        if self.open and not was and self.state.waiting:
            self.want_work(time.monotonic())
        if was and not self.open and self.child is not None and self.state.fetching and self.held_back:
            say("the window is over: the rest is fetched in the next")
            self.stopped = True
            self.state.waiting = [f"{self.state.fetching['name']}@{self.state.fetching['version']}"]
            self.again = True
            self.child.stop()

    # -- telling --------------------------------------------------------------------------------------

    def changed(self, *, often: bool = False) -> None:
        """Something is worth a report, and a new agent.json: at once, or after a while where it changes `often`."""
        now = time.monotonic()
        pause = REPORT_LEAST if often else SOON
        self.sooner("report", max(now, self._reported_at + pause))
        self.sooner("save", now + pause)

    def send_report(self) -> None:
        """Reports, one at a time."""
        now = time.monotonic()
        self.at["report"] = now + REPORT_EVERY
        if self.api is None:
            return
        if self._reporting:
            self.at["report"] = now + SOON
            return
        self._reporting, self._reported_at = True, now
        self.api.post("/api/report", self.current().report(), lambda a: self.post(lambda: self.reported(a)))

    def current(self) -> State:
        """What is true now, with what the run under way has counted."""
        made = State(**vars(self.state))
        made.http += self.counting.get("http", 0)
        made.swarm += self.counting.get("swarm", 0)
        made.uploaded = self.swarm.uploaded
        return made

    def reported(self, answer: Answer | None) -> None:
        """The kiosk has a report, or not. That costs nothing but a line in the log, and only when it changes."""
        self._reporting = False
        if (
            answer is not None and answer.status == 429
        ):  # much happened at once: what is true then is told later
            after = answer.headers.get("retry-after", "")
            self.sooner("report", time.monotonic() + (min(60, int(after)) if after.isdecimal() else 5))
            return
        status = answer.status if answer is not None else 0
        good = status == 200
        if status != self._taken:
            why = REFUSED.get(status, f"it answered {status}")
            if status == 0 and self.api is not None:
                why = self.api.trouble
            say("the kiosk takes reports" if good else f"the kiosk takes no reports: {why}")
            self.sooner("save", time.monotonic() + SOON)
        self._taken, self.state.reported = status, good
        if not good:
            self.at["report"] = time.monotonic() + (30 if self.state.fetching else REPORT_EVERY)

    def save(self) -> None:
        """Writes agent.json."""
        self.current().save(self.orders.folder)

    def tell_alive(self) -> None:
        """Tells systemd that the loop turns."""
        often = watchdog()
        if often is not None:
            notify("WATCHDOG=1")
            self.at["alive"] = time.monotonic() + often

    # -- the end --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ends the loop."""
        self.ending = True

    def reload(self) -> None:
        """Has the loop read the configuration anew."""
        self.post(self.read_anew)

    def read_anew(self) -> None:
        """Takes the new configuration over, if it is one; else everything stays."""
        argv = [sys.executable, "-m", "kiosk", *self.orders.argv[1:], "--print-orders"]
        try:
            done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
            orders = Orders.from_json(done.stdout) if done.returncode == 0 else None
        except (OSError, ValueError, TypeError, KeyError, subprocess.TimeoutExpired):
            orders = None
        if orders is None:
            said = done.stderr.decode(errors="replace").strip() if "done" in locals() else "it can't be read"
            say(f"the configuration is not taken over: {said}")
            return
        self.orders = orders
        self.reloading = self.ending = True

    def end(self) -> None:
        """Stops the work and the swarm in order."""
        notify("RELOADING=1" if self.reloading else "STOPPING=1")
        if self.stream is not None:
            self.stream.end()
        if self.child is not None:
            self.child.stop()
            self.child.wait(STOP_SECONDS)
        self.swarm.close()
        self.save()
        self._selector.close()


def lease_fields(name: str, version: str, left: int) -> dict[str, Any]:
    """What every call about a lease says; `left` bytes are still to come."""
    return {"schema": "kiosk.lease/1", "name": name, "version": version, "bytes": left}


def say(text: str) -> None:
    """One line for the journal."""
    print(f"kiosk agent: {text}", file=sys.stderr, flush=True)


def begin(orders: Orders) -> None:
    """Becomes the daemon: same process, fresh memory."""
    fd = os.memfd_create("kiosk-orders")
    os.write(fd, orders.to_json().encode())
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, 0)
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    if orders.ca is not None:
        os.environ["SSL_CERT_FILE"] = (
            orders.ca
        )  # libtorrent asks the tracker, and hears of authorities by this alone
    os.execv(sys.executable, [sys.executable, "-m", "kiosk.agent.daemon"])  # noqa: S606


def main() -> int:
    """Runs until SIGTERM; after a reload, becomes a new daemon. A second one of the same host ends at once."""
    orders = Orders.from_json(sys.stdin.buffer.read(1 << 20))
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.close(devnull)
    try:
        with locked(orders.folder / LOCK, what="this host, as its agent"):
            daemon = Daemon(orders, join(orders))
            daemon.run()
    except KioskError as e:
        say(str(e))
        return e.exit_code
    if daemon.reloading:
        begin(daemon.orders)
    return 0


if __name__ == "__main__":
    sys.exit(main())
