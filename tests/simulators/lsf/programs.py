"""LSF's programs over a simulated cluster: what they print, where it goes, and their exit status."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.simulators.lsf import cluster, tables
from tests.simulators.lsf.cluster import State, admission, batch_status, host, known, load_status, slots

LSID = {
    "volclava": "volclava project 2.2, Nov 23 2026\n",
    "ibm": "IBM Spectrum LSF Standard 10.1.0.14, Jul 17 2023\n"
    "Copyright International Business Machines Corp. 1992, 2016.\n"
    "US Government Users Restricted Rights - Use, duplication or disclosure restricted by GSA ADP Schedule Contract "
    "with IBM Corp.\n",
}
BHOSTS = "HOST_NAME          STATUS       JL/U    MAX  NJOBS    RUN  SSUSP  USUSP    RSV \n"
BHOSTS_WIDE = "HOST_NAME          STATUS          JL/U    MAX  NJOBS    RUN  SSUSP  USUSP    RSV \n"
LSLOAD = "HOST_NAME       status  r15s   r1m  r15m   ut    pg  ls    it   tmp   swp   mem\n"
LSLOAD_WIDE = "HOST_NAME               status  r15s   r1m  r15m   ut    pg  ls    it   tmp   swp   mem\n"
LOAD = "   0.0   0.3   0.9   8%   0.0   0     4   69G    0M   23G\n"
LSHOSTS = "HOST_NAME      type    model  cpuf ncpus maxmem maxswp server RESOURCES\n"
BJOBS = "JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME\n"
WHEN = "Nov 23 09:51"
ROOT = Path(__file__).parents[3]


class Failed(Exception):
    """Ends a program: what it says on stderr, and its status."""

    def __init__(self, text: str, status: int = 255) -> None:
        super().__init__(text)
        self.status = status


def listed(state: dict[str, Any]) -> list[str]:
    """The hosts that the master knows."""
    return sorted(name for name in state["hosts"] if known(state, name))


def asked(state: dict[str, Any], program: str, words: Sequence[str], unknown: str) -> list[str]:
    """The hosts that a program was asked for; all, when none is named."""
    names = [word for word in words if not word.startswith("-")]
    for name in names:
        if name not in listed(state):
            raise Failed(unknown.format(name=name, program=program))
    return names or listed(state)


def lsid(state: dict[str, Any], words: Sequence[str]) -> str:
    return (
        f"{LSID[state['dialect']]}\nMy cluster name is {state['name']}\nMy master name is {state['master']}\n"
    )


def lsload(state: dict[str, Any], words: Sequence[str]) -> str:
    names = asked(state, "lsload", words, "{name}: Unknown host name.")
    wide = "-w" in words
    text = LSLOAD_WIDE if wide else LSLOAD
    for name in names:
        status = load_status(state, name)
        text += f"{name:<{23 if wide else 15}} {status:>6}"
        text += "\n" if status == "unavail" else LOAD
    return text


def lshosts(state: dict[str, Any], words: Sequence[str]) -> str:
    text = LSHOSTS
    for name in listed(state):
        server = "Dyn" if state["dialect"] == "ibm" and name != state["master"] else "Yes"
        local = " ".join(state["hosts"][name].get("resources", []))
        text += (
            f"{name:<11}   linux  IntelI5 100.0     2 24105M      -    {server} ({('cs ' + local).strip()})\n"
        )
    return text


def bhosts(state: dict[str, Any], words: Sequence[str]) -> str:
    known_to_batch = [
        name
        for name, entry in state["hosts"].items()
        if known(state, name) or state["now"] < entry.get("removed", -1e9) + cluster.FORGOTTEN
    ]
    names = [] if "-o" in words else [word for word in words if not word.startswith("-")]
    for name in names:
        if name not in known_to_batch:
            raise Failed(f"{name}: No such host/group")
    if "-l" in words:
        return tables.hosts_long(state, names or sorted(known_to_batch))
    if "-json" in words:
        understands_json(state, "bhosts")
        return tables.hosts_json(state, sorted(known_to_batch))
    wide = "-w" in words
    text = BHOSTS_WIDE if wide else BHOSTS
    for name in names or sorted(known_to_batch):
        used = slots(state, name)
        status = batch_status(state, name, wide)
        pad = 14 if wide else 11
        text += f"{name:<18} {status:<{pad}}     -{state['hosts'][name]['slots']:>7}{used:>7}{used:>7}"
        text += "      0      0      0\n"
    return text


def bjobs(state: dict[str, Any], words: Sequence[str]) -> str:
    """Only as it is called: by host, by state, in wide form; of all, in long form and as JSON."""
    if "-json" in words or "-o" in words:
        understands_json(state, "bjobs")
    if state["jobs"] and ("-l" in words or "-json" in words):
        return (tables.jobs_long if "-l" in words else tables.jobs_json)(state["jobs"])
    where = words[words.index("-m") + 1] if "-m" in words else ""
    wanted = {"-r": ("RUN", "UNKWN"), "-s": ("SSUSP", "USUSP", "PSUSP"), "-p": ("PEND",)}
    states = [s for option, found in wanted.items() if option in words for s in found]
    if where and where not in state["hosts"]:
        raise Failed(f"{where}: No such host/group")
    text = ""
    for job in state["jobs"]:
        lost = any(load_status(state, name) == "unavail" for name in job["hosts"])
        status = "UNKWN" if lost and job["status"] == "RUN" else job["status"]
        if (not where or where in job["hosts"]) and (not states or status in states):
            at = ":".join(job["hosts"]) or "   -"
            text += f"{job['id']:<7} {job['user']:<7} {status:<5} normal     lavam       {at:<11} "
            text += f"{job['name']:<10} {WHEN}\n"
    if not text:
        status = {"volclava": 254, "ibm": 0}[state["dialect"]]
        raise Failed("No unfinished job found", state.get("no_jobs_status", status))
    return BJOBS + text


def understands_json(state: dict[str, Any], program: str) -> None:
    """Fails as a program does that knows no such option."""
    if state["dialect"] != "ibm" or state.get("old"):
        raise Failed(f"{program}: illegal option -- j\nUsage: {program} [-h] [-V]")


def bqueues(state: dict[str, Any], words: Sequence[str]) -> str:
    if "-r" in words and state["dialect"] != "ibm":
        raise Failed("bqueues: illegal option -- r\nusage: bqueues [-h] [-V] [-w | -l]")
    return tables.queues(state, words)


def bhpart(state: dict[str, Any], words: Sequence[str]) -> str:
    raise Failed("No host partition in the cluster")


def badmin(state: dict[str, Any], words: Sequence[str]) -> str:
    """hclose and hopen of one host."""
    known_options = (
        {"-C": True, "-i": True} if state["dialect"] == "ibm" and not state.get("old") else {"-C": True}
    )
    left, options = list(words[1:]), {}
    while left and left[0].startswith("-"):
        option = left.pop(0)
        if option not in known_options:
            raise Failed(f"badmin: illegal option -- {option[1:]}")
        options[option] = left.pop(0)
    name = left[-1]
    if words[0] in state["denied"]:
        raise Failed(f"{'Close' if words[0] == 'hclose' else 'Open'} <{name}> ...... User permission denied")
    if name not in listed(state):
        raise Failed(f"{name}: No such host/group")
    entry = state["hosts"][name]
    locks = entry.setdefault("locks", {})
    if words[0] == "hclose":
        entry["closed"], entry["lock"] = options.get("-C", "closed"), options.get("-i", "")
        locks[entry["lock"]] = entry["closed"]
        return f"Close <{name}> ...... done\n"
    if "-i" in options:
        locks.pop(options["-i"], None)
    else:
        locks.clear()
    entry["closed"] = next(iter(locks.values()), "")
    full = slots(state, name) >= entry["slots"]
    return f"Open <{name}> ...... done" + (" : host remains closed due to job limit;  \n" if full else "\n")


def lsaddhost(state: dict[str, Any], words: Sequence[str]) -> str:
    if state["here"] != state["master"]:
        raise Failed("ls_addhost: Cannot locate master LIM now, try later")
    host(state, words[-1])["admitted"] = state["now"]
    return f"Host {words[-1]} added.\n"


def lsrmhost(state: dict[str, Any], words: Sequence[str]) -> str:
    name = words[-1]
    if state["here"] != state["master"]:
        raise Failed("ls_rmhost: Cannot locate master LIM now, try later")
    state["hosts"][name]["removed"] = state["now"]
    state["jobs"] = [job for job in state["jobs"] if name not in job["hosts"]]
    return f"Host {name} removed.\n"


def lsadmin(state: dict[str, Any], words: Sequence[str]) -> str:
    if state["dialect"] != "ibm" or words[0] != "expire":
        raise Failed(f"lsadmin: {words[0]}: Unknown command")
    state["hosts"][words[-1]]["removed"] = state["now"]
    return f"Host <{words[-1]}> is expired\n"


PROGRAMS: dict[str, Callable[[dict[str, Any], Sequence[str]], str]] = {
    "lsid": lsid, "lsload": lsload, "lshosts": lshosts, "bhosts": bhosts, "bjobs": bjobs, "badmin": badmin,
    "bqueues": bqueues, "bhpart": bhpart,
    "lsaddhost": lsaddhost, "lsrmhost": lsrmhost, "lsadmin": lsadmin,
}  # fmt: skip
BATCH = ("bhosts", "bjobs", "badmin", "bqueues", "bhpart")


def unreachable(state: dict[str, Any], name: str) -> Failed:
    """How a program says that the master does not answer."""
    if state["dialect"] == "ibm":
        return Failed("Cannot connect to LSF. Please wait ...")
    if name in BATCH:
        return Failed("batch system daemon not responding ... still trying")
    return Failed(f"{name}: Cannot locate master LIM now, try later")


def daemon(state: dict[str, Any], name: str) -> None:
    """A daemon of this host starts; it reads lsf.conf as the real one would."""
    conf = (Path(os.environ["LSF_ENVDIR"]) / "lsf.conf").read_text()
    values = dict(re.findall(r'^([A-Z_]+)="?(.*?)"?$', conf, re.MULTILINE))
    entry = host(state, state["here"])
    if state["master"] not in values["LSF_SERVER_HOSTS"].split():
        return
    entry["started"][name] = state["now"]
    entry["resources"] = re.findall(r"\[resource(?:map)? ([^\]]*)\]", values.get("LSF_LOCAL_RESOURCES", ""))


def main(name: str, path: str, words: Sequence[str]) -> int:
    """Runs a program."""
    state = State(Path(path))
    if name in cluster.DAEMONS:
        pid = cluster.pid_of_this(name)
        with state() as now:
            host(now, now["here"])["pids"][name] = pid
            daemon(now, name)
        return 0
    with state() as now:
        try:
            if not now["up"]:
                raise unreachable(now, name)
            sys.stdout.write(PROGRAMS[name](now, words))
        except Failed as e:
            sys.stderr.write(f"{e}\n")
            return e.status
        finally:
            # The master forgets a host's admission with it, and not before somebody has looked.
            for entry in now["hosts"].values():
                if entry["admitted"] is None and (since := admission(now, name_of(now, entry))) is not None:
                    entry["admitted"] = since if now["now"] >= since else None
    return 0


def name_of(state: dict[str, Any], entry: dict[str, Any]) -> str:
    """The name of an entry."""
    return next(name for name, found in state["hosts"].items() if found is entry)


def install(
    bin_folder: Path, server_folder: Path, state: State, root: Path = ROOT, module: str = "programs"
) -> None:
    """Puts the programs into their folders. They find the simulator below `root`, and run by that module of it."""
    for folder, names in ((bin_folder, PROGRAMS), (server_folder, cluster.DAEMONS)):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_text(
                f"#!/usr/bin/python3 -ES\nimport os, sys\nsys.path.insert(0, {str(root)!r})\n"
                f"sys.dont_write_bytecode = True\nos.environ['KIOSK_DAEMON'] = {str(state.path) + '.' + name!r}\n"
                f"from tests.simulators.lsf.{module} import main\n"
                f"sys.exit(main({name!r}, {str(state.path)!r}, sys.argv[1:]))\n"
            )
            (folder / name).chmod(0o755)
