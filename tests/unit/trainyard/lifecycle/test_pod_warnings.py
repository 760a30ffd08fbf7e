"""Why a pod does not start, from its Events."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.jobs import ago, at, worker
from trainyard.api.pods import Pod
from trainyard.lifecycle.pod_warnings import (
    MAX_MESSAGE,
    PodWarning,
    needs_events,
    newest_warning,
    with_warning,
)

NO_CONFIG_MAP = 'MountVolume.SetUp failed for volume "settings" : configmap "settings" not found'
NO_IMAGE = 'Failed to pull image "nope:1": rpc error: code = NotFound desc = not found'
STARTING = worker(phase="Pending")
PULLING_AGAIN = worker(
    phase="Pending", waiting_reason="ImagePullBackOff", waiting_message="Back-off pulling image"
)


def event(reason: str, message: str = "why", seconds: float = 10, **fields: Any) -> dict[str, Any]:
    """A Warning of so many seconds ago."""
    values = {"type": "Warning", "reason": reason, "message": message}
    return {**values, "lastTimestamp": at(ago(seconds=seconds)), **fields}


def progress(reason: str, seconds: float) -> dict[str, Any]:
    return event(reason, seconds=seconds, type="Normal")


@pytest.mark.parametrize(
    ("pod", "events", "expected"),
    [
        pytest.param(STARTING, [], None, id="none"),
        pytest.param(STARTING, [event("DNSConfigForming")], None, id="nothing that matters"),
        pytest.param(STARTING, [progress("Scheduled", 5)], None, id="no warning"),
        pytest.param(
            STARTING,
            [event("FailedMount", NO_CONFIG_MAP, 5), event("FailedAttachVolume", "old", 60)],
            PodWarning("FailedMount", NO_CONFIG_MAP),
            id="the newest",
        ),
        pytest.param(
            STARTING,
            [event("FailedMount", "over", 60), progress("Pulling", 30)],
            None,
            id="what is over",
        ),
        pytest.param(
            STARTING,
            [progress("Pulled", 60), event("FailedCreatePodSandBox", "again", 5)],
            PodWarning("FailedCreatePodSandBox", "again"),
            id="what came after some progress",
        ),
        pytest.param(
            STARTING, [event("FailedScheduling")], None, id="a pod that has a node by now"
        ),
        pytest.param(
            worker(phase="Pending", node=""),
            [event("FailedScheduling", "no node", lastTimestamp=None, eventTime=at())],
            PodWarning("FailedScheduling", "no node"),
            id="a time of kube-scheduler's",
        ),
        pytest.param(
            PULLING_AGAIN,
            [event("Failed", NO_IMAGE, 20), event("Failed", "Error: ErrImagePull", 15)],
            PodWarning("ErrImagePull", NO_IMAGE),
            id="why an image cannot be pulled",
        ),
        pytest.param(
            PULLING_AGAIN,
            [event("Failed", NO_IMAGE, 20), progress("Pulling", 5)],
            PodWarning("ErrImagePull", NO_IMAGE),
            id="an image that is pulled again",
        ),
        pytest.param(
            STARTING,
            [event("FailedMount", "many\n  lines " + "x" * 2000)],
            PodWarning("FailedMount", ("many lines " + "x" * 2000)[:MAX_MESSAGE]),
            id="in one line of bounded length",
        ),
        pytest.param(
            STARTING,
            [{"type": "Warning", "reason": "FailedMount", "message": None}, {}],
            None,
            id="without fields",
        ),
    ],
)
def test_the_newest_warning_that_still_holds(
    pod: Pod, events: list[dict[str, Any]], expected: PodWarning | None
) -> None:
    assert newest_warning(events, pod) == expected


def test_a_series_counts_by_its_last_repetition() -> None:
    repeated = event(
        "FailedMount", "now", series={"lastObservedTime": at(ago(seconds=1))}, eventTime=at(ago())
    )
    repeated["eventTime"] = at(ago(hours=1))
    found = newest_warning([repeated, event("FailedAttachVolume", seconds=30)], STARTING)
    assert found == PodWarning("FailedMount", "now")


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        pytest.param(STARTING, True, id="it says nothing"),
        pytest.param(PULLING_AGAIN, True, id="it does not say why its image cannot be pulled"),
        pytest.param(worker(), False, id="it runs"),
        pytest.param(worker(phase="Pending", is_deleting=True), False, id="it is being deleted"),
        pytest.param(worker(phase="Failed"), False, id="it has ended"),
        pytest.param(
            worker(phase="Pending", waiting_reason="Unschedulable"), False, id="its status says why"
        ),
        pytest.param(
            worker(phase="Pending", waiting_reason="ErrImagePull", waiting_message="not found"),
            False,
            id="its status says why its image cannot be pulled",
        ),
    ],
)
def test_events_are_needed_only_where_the_status_leaves_it_open(pod: Pod, expected: bool) -> None:
    assert needs_events(pod) is expected


def test_a_warning_explains_a_pod_whose_status_does_not() -> None:
    warning = PodWarning("FailedMount", NO_CONFIG_MAP)
    explained = with_warning(STARTING, warning)
    assert (explained.waiting_reason, explained.waiting_message) == warning
    assert with_warning(worker(), warning) == worker(), "it runs by now"
    assert with_warning(STARTING, None) == STARTING
    pulling = with_warning(PULLING_AGAIN, PodWarning("ErrImagePull", NO_IMAGE))
    assert (pulling.waiting_reason, pulling.waiting_message) == ("ImagePullBackOff", NO_IMAGE)
