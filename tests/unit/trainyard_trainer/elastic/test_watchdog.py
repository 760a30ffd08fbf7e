"""How long a worker waits for another's part of an iteration."""

import pytest

from trainyard_trainer.elastic.watchdog import CollectiveWatchdog
from trainyard_trainer.training.loop import CollectiveError


def waiting(computed: float, least: float = 300.0, usual: float = 1.0) -> CollectiveWatchdog:
    """A worker that has computed its part for so long, and waits since time 0."""
    watchdog = CollectiveWatchdog()
    for _ in range(5):
        watchdog.begin(0.0)
        watchdog.committed(usual)
    watchdog.begin(-computed)
    watchdog.wait(least, 0.0)
    return watchdog


def expires(watchdog: CollectiveWatchdog, at: float) -> bool:
    try:
        watchdog.check(at)
    except CollectiveError:
        return True
    return False


@pytest.mark.parametrize(
    ("computed", "usual", "limit"),
    [
        (1.0, 1.0, 300.0),
        (1.0, 100.0, 1000.0),  # ten usual steps
        (600.0, 1.0, 6000.0),  # an evaluation that is long for all
    ],
)
def test_the_wait_ends_after_the_limit(computed: float, usual: float, limit: float) -> None:
    assert not expires(waiting(computed, usual=usual), limit)
    assert expires(waiting(computed, usual=usual), limit + 1)


def test_a_worker_that_does_not_wait_never_expires() -> None:
    watchdog = waiting(1.0)
    watchdog.end()
    assert not expires(watchdog, 1e9)


def test_an_iteration_that_is_computed_again_may_take_twice_as_long() -> None:
    watchdog = waiting(1.0)
    assert expires(watchdog, 301.0)
    watchdog.begin(400.0)
    watchdog.wait(300.0, 400.0)
    assert not expires(watchdog, 1000.0)
    assert expires(watchdog, 1001.0)
    watchdog.begin(2000.0)
    watchdog.committed(2001.0)
    watchdog.wait(300.0, 2001.0)
    assert expires(watchdog, 2302.0)
