"""The one error that the rooms of `tools.localcluster` raise: a sentence for a person."""

from __future__ import annotations


class ClusterError(Exception):
    """What went wrong with a cluster, and what to do about it."""
