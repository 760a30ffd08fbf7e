"""Scenarios of a DistributedJob: what is observed of it, and the desired state that follows."""

from tests.support.scenarios.failing import FAILING
from tests.support.scenarios.finishing import FINISHING
from tests.support.scenarios.running import RUNNING
from tests.support.scenarios.starting import STARTING
from tests.support.scenarios.suspending import SUSPENDING

SCENARIOS = {**STARTING, **RUNNING, **FAILING, **SUSPENDING, **FINISHING}
"""All scenarios by their names."""
