"""Names of the metrics that a coordinator serves."""

from __future__ import annotations

from typing import Final


class Metric:
    """Names of the metrics, as OpenMetrics; any trainer that serves them can be scaled.

    The labels of `CONFIGURATION` are the key of the throughput profile: each series is a mean over
    the steps made in that configuration, except those within a rescale.
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
    """Passes over the data, fractional."""
    SAMPLES: Final = "trainyard_training_samples"
    """Counter (exposed with `_total`) of samples in committed steps."""
    EPOCHS_AUDITED: Final = "trainyard_training_epochs_audited"
    """Counter (exposed with `_total`) of epochs whose samples were audited."""
    SAMPLES_WRONG: Final = "trainyard_training_samples_wrong"
    """Samples that audits found missing or repeated within an epoch; 0 is guaranteed."""
    LOSS: Final = "trainyard_training_loss"
    """Mean training loss of the last reported step."""
    NON_FINITE_STEPS: Final = "trainyard_training_non_finite_steps"
    """Consecutive steps, up to the last reported, whose loss was not finite; 0 if it was."""
    EVAL: Final = "trainyard_training_eval"
    """Last evaluation by label `metric`, for example `eval/accuracy`."""
    LAST_STEP_AT: Final = "trainyard_training_last_step_timestamp_seconds"
    """Unix time of the last committed step."""
    USUAL_STEP: Final = "trainyard_training_usual_step_seconds"
    """Median seconds of the recent steps, as reports show them; absent before the second."""
    SAMPLES_PER_SECOND: Final = "trainyard_training_samples_per_second"
    """Throughput by `CONFIGURATION`."""
    MEASURED_STEPS: Final = "trainyard_training_measured_steps"
    """Number of steps that a configuration's means are taken over."""
    COMPUTE_SECONDS: Final = "trainyard_training_compute_seconds"
    """Mean forward and backward time of a step by `CONFIGURATION`."""
    COMMUNICATION_SECONDS: Final = "trainyard_training_communication_seconds"
    """Mean time of a step in collectives by `CONFIGURATION`."""
    BLOCKS: Final = "trainyard_training_blocks"
    """Blocks of some seconds behind the two figures below, by `CONFIGURATION`; optional."""
    SAMPLE_SECONDS: Final = "trainyard_training_sample_seconds"
    """Mean of the blocks' seconds per sample, all workers together, by `CONFIGURATION`."""
    SAMPLE_SECONDS_DEVIATION: Final = "trainyard_training_sample_seconds_deviation"
    """Standard deviation of one block's seconds per sample by `CONFIGURATION`."""
    RESCALES: Final = "trainyard_training_rescales"
    """Counter of completed view changes."""
    RESCALE_STALL: Final = "trainyard_training_rescale_stall_seconds"
    """Of the last rescale: the survivors' longest gap between two steps, minus a normal step."""
    RESCALE_COST: Final = "trainyard_training_rescale_cost_gpu_seconds"
    """Of the last rescale: worker seconds without training, a joiner's counted from its start."""
    PLAN_GENERATION: Final = "trainyard_training_plan_generation"
    PLAN_EFFECTIVE_STEP: Final = "trainyard_training_plan_effective_step"
    CHECKPOINT_STEP: Final = "trainyard_training_checkpoint_step"
    """Step of the newest stored checkpoint; -1 before the first."""
    FAILED_WRITES: Final = "trainyard_training_checkpoint_failures"
    """Counter (exposed with `_total`) of checkpoints and models that were not stored."""
    CONSECUTIVE_FAILED_WRITES: Final = "trainyard_training_consecutive_checkpoint_failures"
    """Checkpoints and models that were not stored since the last one that was."""
    OUTCOME: Final = "trainyard_training_outcome"
    """1, with label `result` (Complete or Suspended), once training has ended."""
