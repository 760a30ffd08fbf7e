"""Bytes between trainer processes: TLS, messages, the worker's link, streamed state."""
