"""The long tables of LSF's programs over a simulated cluster: the forms that a scheduler asks for.

volclava's are as recorded; of IBM's, the JSON is as others' parsers expect it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.simulators.lsf.cluster import batch_status, slots

LOADS = """ CURRENT LOAD USED FOR SCHEDULING:
              r15s   r1m  r15m    ut    pg    io   ls    it   tmp   swp   mem  slots
 Total         0.2   1.5   0.2   32%   0.0 2e+05    0     0   75G    0M   23G      0
"""
THRESHOLDS = """ SCHEDULING PARAMETERS:
           r15s   r1m  r15m   ut      pg    io   ls    it    tmp    swp    mem
 loadSched   -     -     -     -       -     -    -     -     -      -      -  
 loadStop    -     -     -     -       -     -    -     -     -      -      -  
"""
RULE = "-" * 78
WHEN = "Mon Nov 23 09:51"


def jobs_long(jobs: Sequence[dict[str, Any]]) -> str:
    """`bjobs -l`."""
    return f"{RULE}\n".join(_job(job) for job in jobs)


def _job(job: dict[str, Any]) -> str:
    number = job.get("slots", 1)
    many = f", {number} Processors Requested" if number > 1 else ""
    text = (
        f"\nJob <{job['id']}>, Job Name <{job['name']}>, User <{job['user']}>, Project <default>, "
        f"Status <{job['status']}>, Queue <{job.get('queue', 'normal')}>, Command <sleep 60>\n"
        f"{WHEN}:45: Submitted from host <lavam>, CWD <$HOME>{many}, "
        f"Requested Resources <{job.get('text', '')}>;\n"
    )
    if job["hosts"]:
        names = " ".join(f"<{name}>" for name in job["hosts"])
        on = names if len(job["hosts"]) == 1 else f"{len(job['hosts'])} Hosts/Processors {names}"
        text += f"{WHEN}:49: Started on {on}, Execution Home </home/alice>, Execution CWD </home/alice>;\n"
    elif job["status"] == "PEND":
        text += f" PENDING REASONS:\n {job.get('reason', 'Job slot limit reached: 1 host')};\n"
    return (
        f"{text}\n{THRESHOLDS}\n RESOURCE REQUIREMENT DETAILS:\n"
        f" Combined: select[type == local] {job.get('text', '')}\n Effective: -\n"
    )


def jobs_json(jobs: Sequence[dict[str, Any]]) -> str:
    """`bjobs -o ... -json`."""
    found = [
        {
            "JOBID": str(job["id"]), "STAT": job["status"], "USER": job["user"], "USER_GROUP": "",
            "QUEUE": job.get("queue", "normal"), "NREQ_SLOT": str(job.get("slots", 1)), "RUNTIMELIMIT": "",
            "SUBMIT_TIME": "Nov 23 09:51", "EXEC_HOST": ":".join(job["hosts"]), "PEND_REASON": job.get("reason", ""),
            "COMBINED_RESREQ": job.get("text", ""),
        }
        for job in jobs
    ]  # fmt: skip
    return json.dumps({"COMMAND": "bjobs", "JOBS": len(found), "RECORDS": found}, indent=2) + "\n"


def hosts_long(state: dict[str, Any], names: Sequence[str]) -> str:
    """`bhosts -l`."""
    text = ""
    for name in names:
        entry, used = state["hosts"][name], slots(state, name)
        text += (
            f"HOST  {name}\nSTATUS           CPUF  JL/U    MAX  NJOBS    RUN  SSUSP  USUSP    RSV DISPATCH_WINDOW\n"
            f"{batch_status(state, name, True):<13} 100.00     -{entry['slots']:>7}{used:>7}{used:>7}"
            f"      0      0      0      -\n\n{LOADS}\n\n"
        )
        if entry["closed"] not in ("", "closed"):
            text += f' ADMIN ACTION COMMENT: "{entry["closed"]}"\n'
        text += "\n"
    return text


def hosts_json(state: dict[str, Any], names: Sequence[str]) -> str:
    """`bhosts -o ... -json`."""
    found = []
    for name in names:
        entry, used = state["hosts"][name], str(slots(state, name))
        locks = {lock: said for lock, said in entry.get("locks", {}).items() if lock}
        found.append(
            {"HOST_NAME": name, "STATUS": batch_status(state, name, True), "MAX": str(entry["slots"]), "NJOBS": used,
             "RUN": used, "SSUSP": "0", "USUSP": "0", "RSV": "0",
             "COMMENTS": json.dumps(locks) if locks else entry["closed"]}
        )  # fmt: skip
    return json.dumps({"COMMAND": "bhosts", "HOSTS": len(found), "RECORDS": found}, indent=2) + "\n"


def queues(state: dict[str, Any], words: Sequence[str]) -> str:
    """`bqueues -l`, or `bqueues`."""
    jobs = state["jobs"]
    waits = sum(job.get("slots", 1) for job in jobs if job["status"] == "PEND")
    runs = sum(len(job["hosts"]) for job in jobs)
    if "-l" in words:
        return (
            "\nQUEUE: normal\n  -- For normal jobs.\n\nPARAMETERS/STATISTICS\n"
            "PRIO NICE STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN SSUSP USUSP  RSV \n"
            f" 30   20  Open:Active       -    -    -    - {waits + runs:>5} {waits:>5} {runs:>5}     0     0    0\n\n"
            "USERS:  all\nHOSTS:  all\n\n"
        )
    return (
        "QUEUE_NAME      PRIO STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN  SUSP \n"
        f"normal           30   Open:Active      -    -    -    - {waits + runs:>5} {waits:>5} {runs:>5}     0\n"
    )
