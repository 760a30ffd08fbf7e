"""The reasons of the scheduler's decisions."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a job has its number of workers: a code for programs, beside a message for people."""

    WAITING_FOR_GPUS = "WaitingForGPUs"
    WAITING_FOR_RESOURCES = "WaitingForResources"
    """GPUs are free, or none are needed, but CPU, memory or another resource is short."""
    WAITING_IN_QUEUE = "WaitingInQueue"
    """It would fit, but a job ahead of it in the queue does not yet."""
    NO_SUCH_NODES = "NoSuchNodes"
    """The nodes could not run the minimum even if all were free."""
    START_TIMED_OUT = "StartTimedOut"
    """The job did not start in time, and backs off before it is queued again."""
    ADMITTED = "Admitted"
    STEADY = "Steady"
    """Nothing to gain, or at the bounds."""
    BOUNDS_CHANGED = "BoundsChanged"
    """min or max has moved past the present number."""
    REQUESTED = "Requested"
    """`Manual`: `workers.replicas` has changed."""
    GROW_TO_MEASURE = "GrowToMeasure"
    """Free GPUs, and no growth has been tried yet."""
    GROW_PAYS = "GrowPays"
    """The last growth paid at least `minGain`, and GPUs are free."""
    SHRINK_DOES_NOT_PAY = "ShrinkDoesNotPay"
    """The last growth did not pay, or clearly no longer does: its GPUs are released."""
    SHRINK_NODES_LOST = "ShrinkNodesLost"
    """Workers lost their nodes, and no free GPUs are left for them."""
    NOT_PLACED = "NotPlaced"
    """kube-scheduler or the API server did not take all workers: their GPUs are released, and the
    size is not asked for again for a while."""
    LEFT_OUT = "LeftOut"
    """Workers that alone cannot take part are left out, and the job does not grow before they are
    tried again."""
    PROVISIONING = "Provisioning"
    """Admitted on nodes that an autoscaler has yet to add to a declared pool."""
    NOT_PROVISIONED = "NotProvisioned"
    """The pool added no nodes in time; the job backs off before it asks again."""
    COOLING_DOWN = "CoolingDown"
    CHANGE_LIMIT = "ChangeLimit"
    """`maxChangesPerHour` is used up."""
    METRICS_STALE = "MetricsStale"
    MEASURING = "Measuring"
    """Too few steps at the present number to evaluate it, or its gain is not clear yet."""
    NO_FREE_GPUS = "NoFreeGPUs"
    PARTY_ADDED = "PartyAdded"
    """A party that joined a running federation was assigned."""
