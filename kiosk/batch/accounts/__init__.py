"""Jobs of the past: from `lsb.acct`, from `sacct`, and from the Standard Workload Format. Read one after the other, so
that a file of any length needs no memory."""
