"""Options and hooks of all tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Before the first import, so that their assertions are rewritten like those of tests.
pytest.register_assert_rewrite("tests.support")

# A slow machine must not fail a test.
settings.register_profile("trainyard", deadline=None)
settings.load_profile("trainyard")


@pytest.fixture(autouse=True)
def unchanged_log_levels() -> Iterator[None]:
    """Fail a test after which our loggers have other levels, as later tests read logs."""
    loggers = [logging.getLogger(name) for name in ("trainyard", "trainyard_trainer")]
    before = [logger.level for logger in loggers]
    yield
    assert [logger.level for logger in loggers] == before


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that select a sample of the long tests."""
    group = parser.getgroup("trainyard")
    group.addoption(
        "--long-minutes",
        type=float,
        help="Run a random sample of the long tests that takes this time.",
    )
    group.addoption("--long-seed", default="", help="Seed of the sample, such as a commit.")


@pytest.hookimpl(trylast=True)  # after the markers have selected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the long tests outside the sample, if `--long-minutes` is given."""
    budget = config.getoption("--long-minutes")
    if budget is None:
        return
    from tests.support.sampling import sample_within  # after the registration above

    minutes = {item.nodeid: _minutes(item) for item in items if item.get_closest_marker("long")}
    sample = sample_within(minutes, budget, config.getoption("--long-seed"))
    deselected = [item for item in items if item.nodeid in minutes.keys() - sample]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]


def _minutes(item: pytest.Item) -> float:
    """The duration of a long test on two cores, from its marker."""
    marker = item.get_closest_marker("long")
    assert marker is not None
    return float(marker.kwargs["minutes"])
