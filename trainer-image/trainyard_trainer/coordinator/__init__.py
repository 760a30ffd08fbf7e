"""The coordinator, one CPU process per job: membership, Plans, metrics and state; no torch."""
