"""Slurm: by squeue, sinfo, sshare and scontrol."""
