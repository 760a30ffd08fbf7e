"""Hostile users, parties, nodes and disks beside honest jobs, which must not notice them.

`python -m tests.hostile --seed 7 --minutes 30` runs it for any time;
`tests/integration/test_hostile.py` runs 90 seconds of it. A `Team` submits honest jobs, `Attacks`
lets `actors` act by a schedule from the seed, a `JobMonitor` and a `PodGuard` watch the honest
namespaces, and an `Observer` the operator's replicas.

Of a disk only its symptom in the cluster is played: pods that end because it is full. How a
trainer behaves on such a disk needs real trainers.
"""
