"""One small process per job: membership, Plans, metrics, and the keeper of state. Never torch."""
