"""What a coordinator gets: its configuration when it starts, and Plans while it runs."""

from __future__ import annotations

from dataclasses import replace

from trainyard.api.durations import parse_duration
from trainyard.api.federation import FederatedJobSpec, PartySpec, Rounds
from trainyard.api.jobs import DistributedJob, FederatedJob, Job
from trainyard.api.spec import TargetSpec
from trainyard.lifecycle.desired import DesiredState
from trainyard_trainer.contract import federated
from trainyard_trainer.contract.config import Direction, JobConfig, Target
from trainyard_trainer.contract.federated import FederatedConfig, FederatedPlan, PartyConfig
from trainyard_trainer.contract.plan import Plan

AnyPlan = Plan | FederatedPlan


def config_of(job: Job) -> JobConfig | FederatedConfig:
    """The configuration of the job's coordinator."""
    match job:
        case DistributedJob():
            return _distributed_config(job)
        case FederatedJob():
            return _federated_config(job)


def _distributed_config(job: DistributedJob) -> JobConfig:
    spec, training = job.spec, job.spec.training
    return JobConfig(
        task=spec.task.entrypoint,
        args=spec.task.arguments(),
        batch_size=training.batch_size,
        epochs=training.epochs,
        init=training.init or "",
        target=_target(training.target),
        seed=training.seed,
        checkpoint_seconds=parse_duration(spec.checkpoint.interval).total_seconds(),
        checkpoint_keep=spec.checkpoint.keep,
        durable=job.is_durable,
        min_workers=spec.workers.min,
    )


def _federated_config(job: FederatedJob) -> FederatedConfig:
    spec, training = job.spec, job.spec.training
    optimizer = training.optimizer
    return FederatedConfig(
        task=spec.task.entrypoint,
        args=spec.task.arguments(),
        parties=_parties(spec),
        rounds=_rounds(spec.rounds),
        local_epochs=training.local_epochs,
        batch_size=training.batch_size,
        optimizer=federated.OptimizerConfig(
            name=optimizer.name, lr=optimizer.lr, args=optimizer.arguments()
        )
        if optimizer
        else None,
        init=training.init or "",
        target=_target(training.target),
        seed=training.seed,
        strategy=federated.StrategyConfig(name=spec.strategy.name, args=spec.strategy.arguments()),
        durable=job.is_durable,
    )


def plan_of(job: Job, desired: DesiredState, before: AnyPlan | None) -> AnyPlan | None:
    """The Plan for the desired state, with the generation of the one before.

    None without a coordinator to read it; the one before while the pods exit by themselves.
    """
    if not desired.pods.coordinator:
        return None
    if not (desired.pods.members or desired.suspend):
        return before
    generation, fencing_token = (before.generation, before.fencing_token) if before else (1, 0)
    match job:
        case DistributedJob():
            return Plan(
                generation=generation,
                fencing_token=fencing_token,
                workers=len(desired.pods.members),
                suspend=desired.suspend,
            )
        case FederatedJob():
            return FederatedPlan(
                generation=generation,
                fencing_token=fencing_token,
                parties=_parties(job.spec),
                rounds=_rounds(job.spec.rounds),
                suspend=desired.suspend,
            )


def with_generation(plan: AnyPlan, generation: int) -> AnyPlan:
    """The same Plan under another generation."""
    return replace(plan, generation=generation)


def _parties(spec: FederatedJobSpec) -> tuple[PartyConfig, ...]:
    return tuple(_party(party) for party in sorted(spec.parties, key=lambda party: party.name))


def _party(party: PartySpec) -> PartyConfig:
    return PartyConfig(
        name=party.name, external=party.external, args=party.arguments(), lr=party.lr
    )


def _rounds(rounds: Rounds) -> federated.RoundsConfig:
    return federated.RoundsConfig(
        max=rounds.max,
        min_parties=rounds.min_parties,
        fraction=rounds.fraction,
        deadline_seconds=parse_duration(rounds.deadline).total_seconds(),
        patience=rounds.patience,
    )


def _target(target: TargetSpec | None) -> Target | None:
    if target is None:
        return None
    return Target(metric=target.metric, value=target.value, direction=Direction(target.direction))
