"""Distributed training with a process group that changes while training goes on.

`training.loop` sees one `ElasticReplicaGroup` and none of what is behind it.
"""
