"""kill -9 a hundred times at random moments, of a fetch by a difference and of a whole sync: each time what is
current is a whole image, old or new, and in the end the new one is there."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kiosk.publish import differ
from kiosk.store.fetch import Seed, fetch
from kiosk.store.index import load
from kiosk.store.partial import index_file
from tests.simulators.published import behind
from tests.store.files import Repository

TIMES = 100
pytestmark = pytest.mark.slow


def started(work: Callable[[], object]) -> int:
    """Begins `work` in a child process."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def killed_after(seconds: float, work: Callable[[], object]) -> bool:
    """Runs `work` in a child that is killed after so long. False when it had ended before."""
    child = started(work)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def takes(work: Callable[[], object]) -> float:
    """How long a child needs for it."""
    begin = time.monotonic()
    assert os.waitpid(started(work), 0)[1] == 0
    return time.monotonic() - begin


def changed(data: bytes, chance: random.Random) -> bytes:
    """A few bytes of every third block are others."""
    new = bytearray(data)
    for at in range(0, len(new), 3 * 4096):
        where = at + chance.randrange(4000)
        new[where : where + 8] = chance.randbytes(8)
    return bytes(new)


@pytest.mark.timeout(280)
def test_a_fetch_by_a_difference(tmp_path: Path) -> None:
    chance = random.Random(20)
    repository, host = Repository(tmp_path / "kiosk"), tmp_path / "host"
    repository.folder.mkdir()
    before = chance.randbytes(24 << 20)
    after = changed(before, chance)
    old, new = repository.publish("old", before), repository.publish("new", after)
    assert old.index
    assert new.index
    store = repository.store
    older = differ.Older(repository.folder / "old", old.digest, load(store, old.index))
    made = differ.make(repository.folder / "new", load(store, new.index), older, store, seconds=1)
    assert made
    new = new.model_copy(update={"differences": (made,)})
    host.mkdir()
    shutil.copy(repository.folder / "old", host / "old")
    seed = Seed(host / "old", old.index, old.digest)

    def work() -> None:
        assert fetch(new, host / "new", store, [seed]).way == "difference"

    whole = takes(work)
    (host / "new").unlink()
    ended = left = 0
    for _ in range(TIMES):
        killed_after(chance.uniform(0, 1.2 * whole), work)
        left += (host / ".new.partial").exists()
        if (host / "new").exists():
            ended += 1
            assert (host / "new").read_bytes() == after
            (host / "new").unlink()
            index_file(host / "new").unlink(missing_ok=True)
    assert ended > 5
    assert left > 20, "most were killed in the middle of their work"
    fetch(new, host / "new", store, [seed])
    assert (host / "new").read_bytes() == after
    assert {p.name for p in host.iterdir()} == {"old", "new", ".new.index"}


@pytest.mark.timeout(280)
def test_a_whole_sync(tmp_path: Path) -> None:
    chance = random.Random(21)
    kiosk = behind(tmp_path / "all")
    good = {"1": kiosk.held()}
    shutil.copytree(kiosk.home, tmp_path / "again", symlinks=True)
    whole = takes(lambda: kiosk.sync("worker"))
    good["2"] = kiosk.held()
    shutil.rmtree(kiosk.home)
    shutil.copytree(tmp_path / "again", kiosk.home, symlinks=True)
    current = kiosk.hypervisor.host / "images/worker/current"
    seen = []
    for _ in range(TIMES):
        killed_after(chance.uniform(0, 1.2 * whole), lambda: kiosk.sync("worker"))
        version = current.readlink().name
        seen.append(version)
        held = kiosk.held()
        assert {k: v for k, v in held.items() if f"/{version}/" in k} == {
            k: v for k, v in good[version].items() if f"/{version}/" in k
        }
        if version == "2":
            shutil.rmtree(kiosk.hypervisor.host)
            shutil.copytree(
                tmp_path / "again" / kiosk.hypervisor.host.relative_to(kiosk.home),
                kiosk.hypervisor.host,
                symlinks=True,
            )
    assert set(seen) == {"1", "2"}
    assert kiosk.sync("worker").failure is None
    assert kiosk.held() == good["2"]
