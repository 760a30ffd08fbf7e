"""Bytes between trainer processes: TLS, the messages' encoding, the worker's connection."""
