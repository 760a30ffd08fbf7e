"""Where a federation stands: the stages that differ from those of a DistributedJob."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.federations import (
    PARTIES,
    aggregator,
    make_federation,
    parties,
    party,
    room,
    told,
)
from tests.support.jobs import (
    LIMITS,
    NOW,
    UID,
    ago,
    claim,
    claimed,
    condition,
    ending,
    failing,
    has_run,
    look_at,
)
from trainyard.api.federation import AdmissionStatus
from trainyard.api.pods import Pod
from trainyard.api.podset import group_pods
from trainyard.lifecycle.desired import DesiredPods, DesiredState, Phase
from trainyard.lifecycle.diff import pod_actions
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.stages import evaluate
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Result

CLAIM = {"state": {"claimName": "heart-state"}}


def look(
    *pods: Pod,
    spec: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    held: AdmissionStatus | None = None,
    **fields: Any,
) -> Observation:
    return look_at(make_federation(spec, status), *pods, scaling=held or room(), **fields)


def verdict(*pods: Pod, **fields: Any) -> DesiredState:
    return evaluate(look(*pods, **fields))


def test_a_federation_without_room_waits() -> None:
    waiting = AdmissionStatus(reason="WaitingForGPUs", message="party ann waits for 1 GPU")
    found = verdict(held=waiting)
    assert (found.phase, found.pods) == (Phase.WAITING, DesiredPods())
    assert claim(found, "Admitted").message == "party ann waits for 1 GPU"


def test_an_admitted_federation_gets_all_its_pods() -> None:
    found = verdict()
    assert found.phase is Phase.STARTING
    assert found.pods == DesiredPods(coordinator=True, parties=PARTIES)
    assert claim(found, "Running").message == "0 of 3 parties run, 2 are needed."


def test_a_quorum_makes_it_run_and_the_missing_are_named() -> None:
    found = verdict(aggregator(), *parties("ann", "cid"))
    assert (found.phase, found.pods.parties) == (Phase.RUNNING, PARTIES)
    assert claimed(found)["Running"] == ("True", "PartiesRunning")
    assert claimed(found)["Degraded"] == ("True", "PartiesMissing")
    assert claim(found, "Degraded").message == (
        "1 party is not there: bob; rounds go on with the others."
    )


def test_all_parties_there_is_healthy_and_nothing_is_said_of_rescaling() -> None:
    found = verdict(aggregator(), *parties(), report=told())
    assert claimed(found)["Degraded"] == ("False", "Healthy")
    assert "Rescaling" not in claimed(found)


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param((aggregator(), party("ann")), id="too few parties"),
        pytest.param(parties(), id="no aggregator"),
    ],
)
def test_it_does_not_run_without_quorum_and_aggregator(pods: tuple[Pod, ...]) -> None:
    found = verdict(*pods, status=has_run())
    assert found.phase is Phase.STARTING
    assert claimed(found)["Running"] == ("False", "Starting")


def test_a_failed_party_is_replaced_after_a_pause_under_a_new_name() -> None:
    seen = look(aggregator(), *parties("ann", "cid"), party("bob", **failing()))
    found = evaluate(seen)
    assert found.phase is Phase.RUNNING
    assert found.restarts == 1
    assert found.pods.replace_at == NOW + timedelta(seconds=1)
    recorded = frozenset(failure.uid for failure in found.failures)
    assert not pod_actions(found.pods, seen.pods, recorded, 1, NOW).create
    [slot] = pod_actions(found.pods, seen.pods, recorded, 1, NOW + timedelta(seconds=1)).create
    assert (slot.role, slot.member, slot.attempt) == (Role.PARTY, "bob", 2)


def test_a_federation_that_stays_below_its_quorum_gives_its_room_back() -> None:
    lost = {
        **has_run(),
        "conditions": [condition("Running", "False", since=ago(minutes=10))],
    }
    found = verdict(aggregator(), party("ann"), status=lost, held=room(since=ago(hours=1)))
    assert (found.phase, found.refuse_start) == (Phase.WAITING, True)


def test_the_aggregator_completes_it() -> None:
    end = aggregator(**ending(Result.COMPLETE, step=7, metrics={"eval/accuracy": 0.9}))
    found = verdict(end, *parties(), spec=CLAIM, status=has_run())
    assert found.phase is Phase.COMPLETE
    assert claimed(found)["Complete"] == ("True", "TrainingComplete")
    assert not {"Rescaling"} & claimed(found).keys()


def test_parties_that_are_done_wait_for_the_aggregator_to_store_the_model() -> None:
    done = party("ann", **ending(Result.COMPLETE))
    found = verdict(aggregator(), done, *parties("bob"), spec=CLAIM, status=has_run())
    assert found.pods == DesiredPods(coordinator=True, keeps_live=True, keeps_finished=True)


def test_without_a_claim_the_aggregators_metrics_complete_it_not_a_partys_words() -> None:
    mine = ending(Result.COMPLETE, step=5, metrics={"eval/accuracy": 0.5})
    pods = (aggregator(), party("ann", **mine), *parties("bob"))
    assert verdict(*pods, status=has_run()).phase is Phase.RUNNING
    said = told(9, outcome="Complete", samples=100, evaluation={"eval/accuracy": 0.9})
    found = verdict(*pods, status=has_run(), report=said)
    assert (found.phase, found.pods.coordinator) == (Phase.COMPLETE, True)
    assert found.termination_message is not None
    assert (found.termination_message.step, found.termination_message.metrics) == (
        9,
        {"eval/accuracy": 0.9},
    )


def test_a_federation_whose_aggregator_is_lost_after_the_end_is_over_all_the_same() -> None:
    found = verdict(party("ann", **ending(Result.COMPLETE)), status=has_run())
    assert found.phase is Phase.COMPLETE


def test_suspending_waits_as_long_as_a_round_may_take() -> None:
    spec = {"suspend": True, "rounds": {"deadline": "7m"}}
    found = verdict(aggregator(), *parties(), spec=spec, status=has_run())
    assert (found.phase, found.suspend) == (Phase.SUSPENDING, True)
    assert found.requeue_at == NOW + timedelta(minutes=7) + LIMITS.suspend_timeout


@pytest.mark.parametrize(
    ("pods", "report"),
    [
        pytest.param((aggregator(), *parties()), told(outcome="Suspended"), id="it says so"),
        pytest.param((aggregator(**ending(Result.SUSPENDED)), *parties()), None, id="it ended so"),
    ],
)
def test_it_is_suspended_once_the_aggregator_keeps_its_state(
    pods: tuple[Pod, ...], report: Any
) -> None:
    found = verdict(*pods, spec={"suspend": True, **CLAIM}, status=has_run(), report=report)
    assert (found.phase, found.pods) == (Phase.SUSPENDED, DesiredPods())


def test_what_an_earlier_aggregator_said_does_not_suspend() -> None:
    old = told(outcome="Suspended")
    found = verdict(
        aggregator(2), *parties(), spec={"suspend": True, **CLAIM}, status=has_run(), report=old
    )
    assert found.phase is Phase.SUSPENDING


def test_an_aggregator_of_another_release_trains_on_and_says_so() -> None:
    found = verdict(aggregator(), *parties(), status=has_run(), report=told(wire=99))
    assert found.phase is Phase.RUNNING
    assert claimed(found)["Degraded"] == ("True", "WireMismatch")
    assert "wire version 99" in claim(found, "Degraded").message


def test_labels_that_mix_the_kinds_break_nothing() -> None:
    stray = replace(party("x"), role="worker", party="", index=3)
    roster = group_pods([*parties(), stray], UID)
    assert list(roster.members) == [3, *PARTIES]
    steps = pod_actions(DesiredPods(coordinator=True, parties=PARTIES), roster, frozenset(), 0, NOW)
    assert stray in steps.delete
