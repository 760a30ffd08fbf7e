"""The coordinator of a DistributedJob: membership, Plans, metrics and stored state; no torch."""
