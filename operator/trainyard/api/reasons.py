"""Why a job has the workers it has: the reasons of decisions, for programs."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a job has the workers it has: a code for programs, beside a sentence for people."""

    WAITING_FOR_GPUS = "WaitingForGPUs"
    WAITING_IN_QUEUE = "WaitingInQueue"
    """It would fit, but a job before it in the queue does not yet."""
    NO_SUCH_NODES = "NoSuchNodes"
    """No node could ever hold the minimum, even if all were free."""
    START_TIMED_OUT = "StartTimedOut"
    """The job did not start in time, and backs off before it is queued again."""
    ADMITTED = "Admitted"
    STEADY = "Steady"
    """Nothing to gain, or at the bounds."""
    BOUNDS_CHANGED = "BoundsChanged"
    """min or max moved past the number in force."""
    REQUESTED = "Requested"
    """`Manual`: somebody set `workers.replicas`."""
    GROW_TO_MEASURE = "GrowToMeasure"
    """Free GPUs, and no growth has been tried yet."""
    GROW_PAYS = "GrowPays"
    """The last growth paid at least `minGain`, and GPUs are free."""
    SHRINK_DOES_NOT_PAY = "ShrinkDoesNotPay"
    """The last growth did not pay: its GPUs are released."""
    SHRINK_NODES_LOST = "ShrinkNodesLost"
    """Workers lost their nodes, and no free GPUs are left for them."""
    COOLING_DOWN = "CoolingDown"
    CHANGE_LIMIT = "ChangeLimit"
    """`maxChangesPerHour` is used up."""
    METRICS_STALE = "MetricsStale"
    MEASURING = "Measuring"
    """Too few steps at the present size to judge it."""
    NO_FREE_GPUS = "NoFreeGPUs"
    PARTY_ADDED = "PartyAdded"
    """A party that joined a running federation was assigned."""
