"""Joining a batch farm and leaving it.

`member.join` makes this machine a member of the farm that the context names, and returns only when the farm
says that it sends jobs here; what it had to start is stopped again when it can't. `member.load` gives the same
member to a later process, which closes it to new jobs, waits until none runs, and leaves. What differs from
farm to farm is a driver: `slurm`, `lsf`, `htcondor`.
"""
