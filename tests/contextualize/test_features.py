"""Machine and job features: what a job finds in $MACHINEFEATURES and $JOBFEATURES under each batch system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contextualize import features, features_command
from contextualize.features_command import Job, job, values
from kiosk.build.sandbox import namespaces, unmount_below
from tests.contextualize.guest import Guest

CODE = Path(features_command.__file__).parents[1]


def folder(path: Path) -> dict[str, str]:
    return {p.name: p.read_text().strip() for p in path.iterdir() if p.name[0] != "." and not p.is_symlink()}


def test_a_node_has_its_features_as_soon_as_it_is_ready(guest: Guest) -> None:
    guest.context["life"] = {"age": 3600, "drain": 600}
    guest.write("/etc/kiosk/hs06-per-cpu", b"12.5\n")
    guest.write("/etc/kiosk/jobslots", b"3\n")
    assert guest.boot() == 0
    found = folder(guest.root / "run/kiosk/machinefeatures")
    cpus = os.cpu_count() or 1
    assert int(found.pop("shutdowntime")) == pytest.approx(guest.machine.now().timestamp() + 4187, abs=3)
    assert found == {"total_cpu": str(cpus), "grace_secs": "600", "jobslots": "3", "hs06": f"{12.5 * cpus}"}
    modes = {p.stat().st_mode & 0o777 for p in (guest.root / "run/kiosk/machinefeatures").iterdir()}
    assert modes == {0o644}


def test_jobs_write_where_they_can_fill_nothing_that_a_drain_needs(guest: Guest) -> None:
    assert guest.boot() == 0
    kind, options = guest.machine.mounts["/run/kiosk/jobfeatures"]
    assert kind == "tmpfs"
    assert {"nosuid", "nodev", "noexec", "mode=1777"} < set(options.split(","))
    assert "size=" in options and "nr_inodes=" in options
    for path in (guest.root / "run").rglob("*"):
        assert path.is_symlink() or not path.stat().st_mode & 0o002, f"everybody may write {path}"


def test_what_a_job_fills_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "run/kiosk/jobfeatures").mkdir(parents=True)
    script = f'''set -u; mount -t tmpfs -o size=1m none "$1/run"
    mkdir -p "$1{features.JOBS}"
    mount -t tmpfs -o {features.OPTIONS} kiosk-jobs "$1{features.JOBS}"
    cd "$1{features.JOBS}" && seq 40000 | xargs mkdir 2>/dev/null && exit 1
    echo drains > "$1/run/kiosk/reason"'''
    try:
        subprocess.run([*namespaces(), "sh", "-c", script, "sh", tmp_path], check=True)
    finally:
        unmount_below(tmp_path)


def test_a_number_of_the_sites_that_is_none_ends_the_boot(guest: Guest) -> None:
    guest.write("/etc/kiosk/jobslots", b"many\n")
    assert guest.boot() == 1
    assert guest.refused() == "attest: /etc/kiosk/jobslots: 'many' is not a number"


SLURM = {
    "SLURM_JOB_ID": "77", "SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_CPU": "2000",
    "SLURM_JOB_START_TIME": "1000", "SLURM_JOB_END_TIME": "4600",
}  # fmt: skip


def test_slurms_job() -> None:
    found = values(job(SLURM, "node"), {"hs06": "100", "total_cpu": "8"}, 1234)
    assert found == {
        "job_id": "77", "jobstart_secs": "1000", "allocated_cpu": "4", "hs06_job": "50.0",
        "wall_limit_secs": "3600", "cpu_limit_secs": "14400", "max_rss_bytes": str(8000 << 20),
    }  # fmt: skip
    assert job({"SLURM_JOB_ID": "78", "SLURM_MEM_PER_NODE": "10"}, "n") == Job("78", memory=10 << 20)


def test_lsfs_job_counts_the_slots_of_this_host() -> None:
    environment = {"LSB_JOBID": "5", "LSB_JOBINDEX": "2", "LSB_MCPU_HOSTS": "a.example 2 node-7 3 b 1"}
    assert job(environment, "node-7.example") == Job("5[2]", 3)
    assert job({"LSB_JOBID": "5", "LSB_JOBINDEX": "0", "LSB_DJOB_NUMPROC": "6"}, "node-7") == Job("5", 6)


def test_htcondors_job(tmp_path: Path) -> None:
    ads = {"_CONDOR_JOB_AD": tmp_path / "job", "_CONDOR_MACHINE_AD": tmp_path / "machine"}
    ads["_CONDOR_JOB_AD"].write_text(
        'ClusterId = 12\nProcId = 3\nCmd = "x y"\nJobStartDate = 99\nA = B + 1\n'
    )
    ads["_CONDOR_MACHINE_AD"].write_text('Cpus = 2\nMemory = 1000\nName = "slot1@node"\n')
    assert job({k: str(v) for k, v in ads.items()}, "n") == Job("12.3", 2, 99, None, 1000 << 20)
    assert job({"_CONDOR_JOB_AD": "/nowhere"}, "n") == Job("0.0")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("jobfeatures", "machinefeatures"):
        (tmp_path / "run/kiosk" / name).mkdir(parents=True)
    (tmp_path / "run/kiosk/machinefeatures/total_cpu").write_text("8\n")
    return tmp_path


def test_a_jobs_folder_lives_as_long_as_the_job(root: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        first = features_command.make(root, Job("../7[1]", 2), process.pid, 50)
        assert first.parent == root / "run/kiosk/jobfeatures"
        assert folder(first) == {"job_id": "../7[1]", "jobstart_secs": "50", "allocated_cpu": "2"}
        assert str((first / "shutdowntime_job").readlink()) == "/run/kiosk/machinefeatures/shutdowntime"
        second = features_command.make(root, Job("8"), os.getpid(), 50)
        assert first.exists()
        process.kill()
    features_command.make(root, Job("9"), os.getpid(), 50)
    assert not first.exists() and second.exists()


def run(root: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = "import sys; from pathlib import Path; r = Path(sys.argv.pop(1))\n"
    script += "from contextualize.features_command import run; run(r)"
    argv = [sys.executable, "-c", script, str(root), *words]
    return subprocess.run(argv, env=environment, cwd=CODE, text=True, capture_output=True, check=False)


def test_a_prolog_prints_what_slurm_exports_and_a_wrapper_becomes_the_job(root: Path) -> None:
    said = run(root, **SLURM).stdout.splitlines()
    assert said[0].startswith(f"export JOBFEATURES={root}/run/kiosk/jobfeatures/77.")
    assert said[1] == "export MACHINEFEATURES=/run/kiosk/machinefeatures"
    job = run(root, "sh", "-c", 'cat "$JOBFEATURES/allocated_cpu"; exit 7', PATH="/usr/bin:/bin", **SLURM)
    assert (job.returncode, job.stdout) == (7, "4\n")
    assert run(root, "no-such-program", PATH="/bin").returncode == 127


def test_a_job_starts_without_features_where_they_can_not_be_made(tmp_path: Path) -> None:
    done = run(tmp_path, "echo", "runs", PATH="/usr/bin:/bin")
    assert (done.returncode, done.stdout) == (0, "runs\n")
    assert "the job goes without" in done.stderr
