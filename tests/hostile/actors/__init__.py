"""The hostile actors, each in a module of its own."""

from __future__ import annotations

from typing import Final

from tests.hostile.actor import Actor
from tests.hostile.actors.big_pod import BigPod
from tests.hostile.actors.crashing_party import CrashingParty
from tests.hostile.actors.failing_nodes import FailingNodes
from tests.hostile.actors.fat_jobs import FatJobs
from tests.hostile.actors.full_disk import FullDisk
from tests.hostile.actors.full_quota import FullQuota
from tests.hostile.actors.impostors import Impostors
from tests.hostile.actors.metrics_flood import MetricsFlood
from tests.hostile.actors.odd_messages import OddMessages
from tests.hostile.actors.plan_refusal import PlanRefusal
from tests.hostile.actors.redirects import Redirects
from tests.hostile.actors.rejecting_node import RejectingNode
from tests.hostile.actors.slow_coordinators import SlowCoordinators
from tests.hostile.actors.slow_webhook import SlowWebhook
from tests.hostile.actors.squatters import Squatters
from tests.hostile.actors.system_priority import SystemPriority
from tests.hostile.actors.taken_names import TakenNames

ACTORS: Final[tuple[type[Actor], ...]] = (
    BigPod,
    CrashingParty,
    FailingNodes,
    FatJobs,
    FullDisk,
    FullQuota,
    Impostors,
    MetricsFlood,
    OddMessages,
    PlanRefusal,
    Redirects,
    RejectingNode,
    SlowCoordinators,
    SlowWebhook,
    Squatters,
    SystemPriority,
    TakenNames,
)
