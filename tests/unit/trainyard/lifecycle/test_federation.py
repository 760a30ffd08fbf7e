"""The stages of a federation that differ from those of a DistributedJob."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.federations import (
    PARTIES,
    admission,
    aggregator,
    make_federation,
    parties,
    party,
    reported,
)
from tests.support.jobs import (
    NOW,
    TIMEOUTS,
    UID,
    ago,
    condition,
    condition_of,
    conditions_of,
    ending,
    failing,
    has_run,
    observe,
)
from trainyard.api.federation import AdmissionStatus
from trainyard.api.pods import Pod
from trainyard.api.podset import group_pods
from trainyard.api.refusals import Refusal
from trainyard.lifecycle.desired import DesiredPods, DesiredState, Phase
from trainyard.lifecycle.diff import pod_actions
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.stages import evaluate
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Result

CLAIM = {"state": {"claimName": "heart-state"}}
DESIRED_PODS = DesiredPods(coordinator=True, members=PARTIES, member_role=Role.PARTY)


def observed(
    *pods: Pod,
    spec: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    assignment: AdmissionStatus | None = None,
    **fields: Any,
) -> Observation:
    job = make_federation(spec, status)
    return observe(job, *pods, assignment=assignment or admission(), **fields)


def evaluated(*pods: Pod, **fields: Any) -> DesiredState:
    return evaluate(observed(*pods, **fields))


def test_a_federation_that_is_not_admitted_waits() -> None:
    waiting = AdmissionStatus(reason="WaitingForGPUs", message="party ann waits for 1 GPU")
    desired = evaluated(assignment=waiting)
    assert (desired.phase, desired.pods) == (Phase.WAITING, DesiredPods())
    assert condition_of(desired, "Admitted").message == "party ann waits for 1 GPU"


def test_an_admitted_federation_gets_all_its_pods() -> None:
    desired = evaluated()
    assert desired.phase is Phase.STARTING
    assert desired.pods == DESIRED_PODS
    assert condition_of(desired, "Running").message == "0 of 3 parties run, 2 are needed."


def test_a_quorum_makes_it_run_and_the_missing_are_named() -> None:
    desired = evaluated(aggregator(), *parties("ann", "cid"))
    assert (desired.phase, desired.pods.members) == (Phase.RUNNING, PARTIES)
    assert conditions_of(desired)["Running"] == ("True", "PartiesRunning")
    assert conditions_of(desired)["Degraded"] == ("True", "PartiesMissing")
    assert condition_of(desired, "Degraded").message == (
        "1 party is missing: bob; rounds continue with the others."
    )


def test_a_federation_with_all_its_parties_is_healthy_and_has_no_rescaling_condition() -> None:
    desired = evaluated(aggregator(), *parties(), report=reported())
    assert conditions_of(desired)["Degraded"] == ("False", "Healthy")
    assert "Rescaling" not in conditions_of(desired)


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param((aggregator(), party("ann")), id="too few parties"),
        pytest.param(parties(), id="no aggregator"),
    ],
)
def test_it_does_not_run_without_quorum_and_aggregator(pods: tuple[Pod, ...]) -> None:
    desired = evaluated(*pods, status=has_run())
    assert desired.phase is Phase.STARTING
    assert conditions_of(desired)["Running"] == ("False", "Starting")


def test_a_failed_party_is_replaced_after_a_pause_under_a_new_name() -> None:
    failed = observed(aggregator(), *parties("ann", "cid"), party("bob", **failing()))
    desired = evaluate(failed)
    assert desired.phase is Phase.RUNNING
    assert desired.restarts == 1
    assert desired.pods.retry_times == {"bob": NOW + timedelta(seconds=1)}
    assert desired.pods.replace_at is None
    recorded = frozenset(failure.pod_uid for failure in desired.failures)
    assert not pod_actions(desired.pods, failed.pods, recorded, 1, NOW).create
    [missing] = pod_actions(
        desired.pods, failed.pods, recorded, 1, NOW + timedelta(seconds=1)
    ).create
    assert (missing.role, missing.member, missing.attempt) == (Role.PARTY, "bob", 2)


def test_a_federation_that_stays_below_its_quorum_is_no_longer_admitted() -> None:
    lost = {
        **has_run(),
        "conditions": [condition("Running", "False", since=ago(minutes=10))],
    }
    desired = evaluated(
        aggregator(), party("ann"), status=lost, assignment=admission(since=ago(hours=1))
    )
    assert (desired.phase, desired.refuse_start) == (Phase.WAITING, True)


def test_the_aggregator_completes_a_federation() -> None:
    end = aggregator(**ending(Result.COMPLETE, step=7, metrics={"eval/accuracy": 0.9}))
    desired = evaluated(end, *parties(), spec=CLAIM, status=has_run())
    assert desired.phase is Phase.COMPLETE
    assert conditions_of(desired)["Complete"] == ("True", "TrainingComplete")
    assert not {"Rescaling"} & conditions_of(desired).keys()


def test_parties_that_are_done_wait_for_the_aggregator_to_store_the_model() -> None:
    done = [party(name, **ending(Result.COMPLETE)) for name in ("ann", "cid")]
    desired = evaluated(aggregator(), *done, *parties("bob"), spec=CLAIM, status=has_run())
    assert desired.pods == DesiredPods(coordinator=True, keeps_live=True, keeps_finished=True)


def test_without_a_claim_the_aggregators_report_completes_the_job_not_a_partys_message() -> None:
    own = ending(Result.COMPLETE, step=5, metrics={"eval/accuracy": 0.5})
    pods = (aggregator(), party("ann", ended_at=NOW, **own), *parties("bob"))
    assert evaluated(*pods, status=has_run()).phase is Phase.RUNNING
    report = reported(9, outcome="Complete", samples=100, evaluation={"eval/accuracy": 0.9})
    desired = evaluated(*pods, status=has_run(), report=report)
    assert (desired.phase, desired.pods.coordinator) == (Phase.COMPLETE, True)
    assert desired.termination_message is not None
    assert (desired.termination_message.step, desired.termination_message.metrics) == (
        9,
        {"eval/accuracy": 0.9},
    )


def test_a_federation_whose_aggregator_is_lost_after_the_end_is_complete() -> None:
    done = [party(name, **ending(Result.COMPLETE)) for name in ("ann", "bob")]
    desired = evaluated(*done, status=has_run())
    assert desired.phase is Phase.COMPLETE


def test_suspending_waits_as_long_as_a_round_may_take() -> None:
    spec = {"suspend": True, "rounds": {"deadline": "7m"}}
    desired = evaluated(aggregator(), *parties(), spec=spec, status=has_run())
    assert (desired.phase, desired.suspend) == (Phase.SUSPENDING, True)
    assert desired.requeue_at == NOW + timedelta(minutes=7) + TIMEOUTS.suspend_timeout


@pytest.mark.parametrize(
    ("pods", "report"),
    [
        pytest.param((aggregator(), *parties()), reported(outcome="Suspended"), id="it reports so"),
        pytest.param((aggregator(**ending(Result.SUSPENDED)), *parties()), None, id="it ended so"),
    ],
)
def test_a_federation_is_suspended_once_its_aggregator_has_saved_the_state(
    pods: tuple[Pod, ...], report: Any
) -> None:
    desired = evaluated(*pods, spec={"suspend": True, **CLAIM}, status=has_run(), report=report)
    assert (desired.phase, desired.pods) == (Phase.SUSPENDED, DesiredPods())


def test_an_earlier_aggregators_report_does_not_suspend() -> None:
    old = reported(outcome="Suspended")
    desired = evaluated(
        aggregator(2), *parties(), spec={"suspend": True, **CLAIM}, status=has_run(), report=old
    )
    assert desired.phase is Phase.SUSPENDING


def test_an_aggregator_of_another_release_trains_on_and_is_named() -> None:
    desired = evaluated(aggregator(), *parties(), status=has_run(), report=reported(wire=99))
    assert desired.phase is Phase.RUNNING
    assert conditions_of(desired)["Degraded"] == ("True", "WireMismatch")
    assert "wire version 99" in condition_of(desired, "Degraded").message


def test_labels_that_mix_the_kinds_break_nothing() -> None:
    stray = replace(party("x"), role="worker", party="", index=3)
    pods = group_pods([*parties(), stray], UID)
    assert list(pods.members) == [3, *PARTIES]
    assert stray in pod_actions(DESIRED_PODS, pods, frozenset(), 0, NOW).delete


NO_IMAGE: dict[str, Any] = {"phase": "Pending", "waiting_reason": "InvalidImageName"}


@pytest.mark.parametrize(
    ("pods", "is_blocked"),
    [
        pytest.param((party("ann"), party("bob", **NO_IMAGE)), False, id="a quorum is left"),
        pytest.param((party("ann", **NO_IMAGE), party("bob", **NO_IMAGE)), True, id="none is left"),
        pytest.param(
            (
                party("ann", **NO_IMAGE),
                party("bob", phase="Pending"),
                party("cid", phase="Pending"),
            ),
            False,
            id="parties are unlike: the others may start",
        ),
    ],
)
def test_a_start_fails_soon_only_if_too_few_parties_may_still_start(
    pods: tuple[Pod, ...], is_blocked: bool
) -> None:
    found = observed(aggregator(phase="Pending"), *pods)
    timeout = TIMEOUTS.blocked_start_timeout if is_blocked else TIMEOUTS.start_timeout
    assert found.start_deadline == NOW + timeout


def test_a_start_whose_aggregator_is_refused_fails_soon() -> None:
    refusal = Refusal(message="exceeded quota", since=NOW - timedelta(seconds=5))
    found = replace(observed(*parties()), refusal=refusal)
    assert found.start_blocked_since == refusal.since
    assert replace(found, refusal=None).start_blocked_since is None
