"""What users of a machine can do to a farm's driver: call their processes as its daemons, and leave folders behind."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from contextualize.errors import Refused
from contextualize.farm.driver import Driver, Node, Seat
from contextualize.farm.htcondor import HTCondor
from contextualize.farm.lsf import Lsf
from contextualize.farm.slurm import Slurm
from contextualize.machine import Answer, Machine
from kiosk.build.sandbox import namespaces

NODE = Node("wn-1.example.org", "debian-12-worker", "20261125.1")
NOBODY = 65534
THREE = """
for number in 1 2 3; do
    setpriv --reuid=$2 --regid=$2 --clear-groups bash -c 'exec -a "$1" "$0" 60' "$1" "$3" &
done
until [ "$(readlink /proc/[0-9]*/exe | grep -cxF "$1")" = 3 ]; do :; done
shift 3
exec "$@"
"""


COUNT = "import sys; from contextualize.machine import Machine; print(Machine().processes(sys.argv[1]))"


class Beside(Machine):
    """A machine where nothing runs but three processes of a user that call themselves by a name, and what counts
    them; the farm does not answer."""

    def __init__(self, home: Path, name: str, user: int) -> None:
        super().__init__(home)
        self.program, self.name, self.user = home / name.split(":")[0], name, user
        shutil.copy("/bin/sleep", self.program)

    def ask(
        self, argv: Sequence[str], timeout: float = 20, environment: Mapping[str, str] | None = None
    ) -> Answer:
        if argv[0] != "pgrep":
            return Answer(1, "", "no answer after 20 s")
        return self._beside(argv, {})

    def processes(self, name: str, parent: int | None = None) -> int:
        words = [sys.executable, "-c", COUNT, name]
        return int(self._beside(words, {"PYTHONPATH": str(Path(__file__).parents[2])}).out)

    def _beside(self, argv: Sequence[str], environment: Mapping[str, str]) -> Answer:
        own = [*map(str, namespaces()), "--mount-proc", "bash", "-c", THREE, "-"]
        return super().ask([*own, str(self.program), str(self.user), self.name, *argv], 20, environment)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that all users can reach."""
    path = Path(tempfile.mkdtemp(prefix="kiosk-hostile-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def count(driver: Driver, seat: Seat) -> int:
    if isinstance(driver, Slurm):
        return len(driver._steps(seat))
    assert isinstance(driver, Lsf)
    return driver._here(seat)


@pytest.mark.parametrize(
    ("driver", "name", "jobs"), [(Slurm(), "slurmstepd: [7.batch]", 1), (Lsf(), "sbatchd", 2)]
)
def test_a_users_process_that_calls_itself_as_the_farms_is_no_job(
    home: Path, driver: Driver, name: str, jobs: int
) -> None:
    assert count(driver, Seat(Beside(home, name, 0), "batch", NODE, {})) == jobs
    assert count(driver, Seat(Beside(home, name, NOBODY), "batch", NODE, {})) == 0


def test_a_users_starter_is_none_of_htcondors(home: Path) -> None:
    for name in ("bin", "sbin"):
        (home / "usr" / name).mkdir(parents=True)
    (home / "usr/bin/condor_status").touch(0o755)
    settings = {"prefix": "/usr"}
    assert HTCondor().busy(Seat(Beside(home, "condor_starter", 0), "pool", NODE, settings)) == 3
    with pytest.raises(Refused, match="can't be told"):
        HTCondor().busy(Seat(Beside(home, "condor_starter", NOBODY), "pool", NODE, settings))


@pytest.mark.parametrize(
    ("owner", "mode", "above"),
    [
        (NOBODY, 0o755, (0, 0o755)),
        (0, 0o777, (0, 0o755)),
        (0, 0o755, (NOBODY, 0o755)),
        (0, 0o755, (0, 0o777)),
    ],
)
def test_a_folder_that_an_earlier_job_may_have_made_is_refused(
    tmp_path: Path, owner: int, mode: int, above: tuple[int, int]
) -> None:
    seat = Seat(Machine(tmp_path), "batch", NODE, {})
    scratch, spool = tmp_path / "scratch", tmp_path / "scratch/farm/spool"
    spool.mkdir(parents=True)
    scratch.chmod(0o1777)
    spool.parent.chmod(0o755)
    spool.chmod(0o755)
    seat.folder("/scratch/farm/spool")  # its own, of a life before
    spool.parent.chmod(above[1])
    os.chown(spool.parent, above[0], 0)
    spool.chmod(mode)
    os.chown(spool, owner, 0)
    with pytest.raises(Refused, match="somebody else may have made it"):
        seat.folder("/scratch/farm/spool")
    assert spool.stat().st_uid == owner
