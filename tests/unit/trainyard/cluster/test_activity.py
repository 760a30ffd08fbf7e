"""Since when something has not succeeded."""

from __future__ import annotations

from datetime import timedelta

from trainyard.cluster.activity import Activity

MINUTE = timedelta(minutes=1)


def test_only_what_is_waited_for_stalls() -> None:
    now = 0.0
    activity = Activity(lambda: now)
    activity.record("pods")
    activity.expect("scheduler")
    activity.expect("other")
    activity.succeed("other")
    now = 59.0
    assert activity.stalled(MINUTE) == []
    activity.expect("scheduler")  # a second attempt succeeded no more than the first
    activity.record("nodes")
    now = 61.0
    assert activity.stalled(MINUTE) == ["pods", "scheduler"]
    activity.record("pods")
    activity.succeed("scheduler")
    assert activity.stalled(MINUTE) == []
