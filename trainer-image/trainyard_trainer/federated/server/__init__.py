"""The aggregator: its process, HTTP endpoints, spool and durable rounds; no torch."""
