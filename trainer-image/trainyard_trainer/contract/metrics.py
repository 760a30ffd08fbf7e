"""Names of the metrics that a coordinator serves."""

from __future__ import annotations

from typing import Final


class Metric:
    """Names of what a coordinator serves as OpenMetrics; any trainer that does can be scaled.

    `CONFIGURATION` labels (`nodes`, `workers`, `local_batch`) key the throughput profile: each
    series is the mean over the steps made in that configuration since the coordinator learnt of it,
    steps within a rescale left out.
    """

    CONFIGURATION: Final = ("nodes", "workers", "local_batch")

    INFO: Final = "trainyard_training_info"
    """1, with labels `wire`, `version` and `task`."""
    TERM: Final = "trainyard_training_term"
    VIEW: Final = "trainyard_training_view"
    """Number of the view in force."""
    MEMBERS: Final = "trainyard_training_members"
    """Workers by label `state` (warming, replaying, active, leaving)."""
    STEP: Final = "trainyard_training_step"
    EPOCH: Final = "trainyard_training_epoch"
    """Passes over the data, with its fraction."""
    SAMPLES: Final = "trainyard_training_samples"
    """Counter (exposed with `_total`) of samples in committed steps."""
    EPOCHS_AUDITED: Final = "trainyard_training_epochs_audited"
    """Counter (exposed with `_total`) of epochs whose samples were counted and checked."""
    SAMPLES_WRONG: Final = "trainyard_training_samples_wrong"
    """Samples that the audits found missing or repeated within an epoch; 0 is the promise."""
    LOSS: Final = "trainyard_training_loss"
    """Mean training loss of the last reported step."""
    EVAL: Final = "trainyard_training_eval"
    """Last evaluation by label `metric`, for example `eval/accuracy`."""
    LAST_STEP_AT: Final = "trainyard_training_last_step_timestamp_seconds"
    """Unix time of the last committed step; old means stale."""
    SAMPLES_PER_SECOND: Final = "trainyard_training_samples_per_second"
    """Throughput by `CONFIGURATION`."""
    MEASURED_STEPS: Final = "trainyard_training_measured_steps"
    """How many steps stand behind a configuration's figures."""
    COMPUTE_SECONDS: Final = "trainyard_training_compute_seconds"
    """Mean forward and backward time of a step by `CONFIGURATION`."""
    COMMUNICATION_SECONDS: Final = "trainyard_training_communication_seconds"
    """Mean time of a step in collectives by `CONFIGURATION`."""
    RESCALES: Final = "trainyard_training_rescales"
    """Counter of completed view changes."""
    RESCALE_STALL: Final = "trainyard_training_rescale_stall_seconds"
    """Of the last rescale: survivors' longest gap between two steps, minus a normal step."""
    RESCALE_COST: Final = "trainyard_training_rescale_cost_gpu_seconds"
    """Of the last rescale: worker seconds that did not train, from a joiner's start to steady."""
    PLAN_GENERATION: Final = "trainyard_training_plan_generation"
    PLAN_EFFECTIVE_STEP: Final = "trainyard_training_plan_effective_step"
    CHECKPOINT_STEP: Final = "trainyard_training_checkpoint_step"
    """Step of the newest checkpoint that is safely stored; -1 before the first."""
    OUTCOME: Final = "trainyard_training_outcome"
    """1, with label `result` (Complete or Suspended), once the coordinator has ended training."""
