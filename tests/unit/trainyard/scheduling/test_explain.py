"""The sentences about decisions: one for every kind of facts, under every reason."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

import pytest

from tests.support.requests import GPU, NOW
from trainyard.api.reasons import Reason
from trainyard.api.status import Provisioning
from trainyard.scheduling.basis import (
    AtMaximum,
    Basis,
    BoundsChanged,
    ChangeLimitReached,
    CoolingDown,
    Gain,
    GainTooSmall,
    GrowthBelowExpectation,
    GrowthDidNotPay,
    GrowthNoLongerPays,
    GrowthPaid,
    GrowthUncertain,
    LargerSizeDidNotPay,
    LargerSizePays,
    LossUncertain,
    MetricsStale,
    NodesAwaited,
    NodesNotAdded,
    NoOtherSizeKnown,
    PolicyUnavailable,
    ReplicasRequested,
    SizeNotPlaced,
    TooFewSteps,
    TriedAgainLater,
    WorkersJoining,
    WorkersNotPlaced,
    WorkersUnfit,
    WorkersUnplaceable,
)
from trainyard.scheduling.capacity import Availability, Shortfall
from trainyard.scheduling.decision import Decision
from trainyard.scheduling.explain import explain
from trainyard.scheduling.facts import (
    Facts,
    PartiesAdmitted,
    PartiesAssigned,
    PartiesWaiting,
    PodsRequest,
    Shortage,
    SizeChanged,
    SizeKept,
    StartTimedOut,
    WaitingParty,
    WorkersAdmitted,
    WorkersDoNotFit,
    WorkersProvisioning,
    WorkersWaiting,
)
from trainyard.scheduling.shapes import PodShape

SHAPE = PodShape.of({GPU: 2, "pods": 1})
ZONED = PodShape.of({GPU: 2}, node_selector={"zone": "a", "pool": "b"})
LARGE = PodShape.of({GPU: 1, "cpu": 4000, "pods": 1})
CPU = PodShape.of({"pods": 1})
CPUS = PodShape.of({"cpu": 1500, "memory": 2**33, "pods": 1})
GAIN = Gain(before=1, after=2, before_speed=41.23, after_speed=75.26, min_gain=1.05)
NOISY_LOSS = Gain(
    before=1,
    after=2,
    before_speed=412.0,
    after_speed=395.0,
    min_gain=1.05,
    before_error=4.2,
    after_error=5.06,
    interval=(0.911, 1.008),
)
NO_CPU = "0/3 nodes are available: 3 Insufficient cpu"
PAID = "1→2 paid 1.83× (41.2→75.3 samples/s, minGain 1.05)"


def workers(number: int, shape: PodShape = SHAPE) -> PodsRequest:
    return PodsRequest(workers=number, shape=shape)


def available(
    free: int = 0, nodes: int = 0, jobs_ahead: int = 0, short: Shortfall | None = None
) -> Availability:
    return Availability(free=free, nodes=nodes, jobs_ahead=jobs_ahead, shortfall=short)


def lacking(number: int, desired: int) -> Shortage:
    return Shortage(missing=workers(number), desired=desired, availability=available(3, 2, 1))


def party(name: str, jobs_ahead: int = 0) -> WaitingParty:
    return WaitingParty(
        party=name, shape=ZONED, matching_nodes=3, availability=available(1, 1, jobs_ahead)
    )


def kept(basis: Basis, shortage: Shortage | None = None) -> SizeKept:
    return SizeKept(workers=2, basis=basis, shortage=shortage)


def changed(
    before: int,
    after: int,
    basis: Basis,
    *,
    expected: float | None = None,
    shortage: Shortage | None = None,
    is_recommendation: bool = False,
) -> SizeChanged:
    return SizeChanged(
        before=before,
        after=after,
        basis=basis,
        is_recommendation=is_recommendation,
        added=workers(after - before) if after > before else None,
        expected_speedup=expected,
        shortage=shortage,
    )


SENTENCES: dict[str, tuple[Reason, Facts, str]] = {
    "admitted as large as wanted": (
        Reason.ADMITTED,
        WorkersAdmitted(request=workers(1, ZONED), desired=1),
        f"admitted with 1 worker (1 × 2 {GPU} with selector pool=b,zone=a)",
    ),
    "admitted with fewer workers than wanted": (
        Reason.ADMITTED,
        WorkersAdmitted(request=workers(3), desired=4),
        f"admitted with 3 workers (3 × 2 {GPU}), of 4 wanted",
    ),
    "admitted on CPUs": (
        Reason.ADMITTED,
        WorkersAdmitted(request=workers(5, CPU), desired=5),
        "admitted with 5 workers (5 × no GPU)",
    ),
    "waiting for GPUs": (
        Reason.WAITING_FOR_GPUS,
        WorkersWaiting(minimum=workers(4), availability=available(3, 1), unready_nodes=0),
        f"needs 4 × 2 {GPU} (min); 3 free on 1 node",
    ),
    "waiting for CPU beside free GPUs": (
        Reason.WAITING_FOR_RESOURCES,
        WorkersWaiting(
            minimum=workers(2, LARGE),
            availability=available(
                3,
                1,
                short=Shortfall(node="a", resource="cpu", free=1000, needed=4000, accelerators=3),
            ),
            unready_nodes=0,
        ),
        f"needs 2 × (1 {GPU}, 4 cpu) (min); 3 free on 1 node, but node a has 1 cpu free beside "
        f"3 {GPU}",
    ),
    "waiting for CPU alone": (
        Reason.WAITING_FOR_RESOURCES,
        WorkersWaiting(
            minimum=workers(64, CPUS),
            availability=available(
                12,
                3,
                1,
                Shortfall(node="b", resource="memory", free=2**30, needed=2**33, accelerators=0),
            ),
            unready_nodes=0,
        ),
        "needs 64 × (1500m cpu, 8Gi memory) (min); 12 fit on 3 nodes, but node b has 1Gi memory "
        "free; 1 job before it",
    ),
    "waiting for what pods of no job hold": (
        Reason.WAITING_FOR_GPUS,
        WorkersWaiting(
            minimum=workers(4),
            availability=available(3, 1),
            unready_nodes=0,
            in_the_way=("team/notebook", "team/other"),
        ),
        f"needs 4 × 2 {GPU} (min); 3 free on 1 node; "
        "pods of no job in the way: team/notebook, team/other",
    ),
    "waiting with a priority class that does not count": (
        Reason.WAITING_FOR_GPUS,
        WorkersWaiting(
            minimum=workers(4),
            availability=available(3, 1),
            unready_nodes=0,
            refused_class="urgent",
        ),
        f"needs 4 × 2 {GPU} (min); 3 free on 1 node; "
        "priority class urgent does not count: its namespace may not use it",
    ),
    "a gang waiting for what pods of no job hold": (
        Reason.WAITING_FOR_GPUS,
        PartiesWaiting(parties=2, waiting=(party("ann"),), in_the_way=("team/notebook",)),
        f"all 2 parties start together; party ann waits for 2 {GPU} with selector pool=b,zone=a "
        "(1 free on 1 of 3 matching nodes); pods of no job in the way: team/notebook",
    ),
    "admitted with all that a CPU worker requests": (
        Reason.ADMITTED,
        WorkersAdmitted(request=workers(5, CPUS), desired=5),
        "admitted with 5 workers (5 × (1500m cpu, 8Gi memory))",
    ),
    "waiting in the queue while nodes are not ready": (
        Reason.WAITING_IN_QUEUE,
        WorkersWaiting(minimum=workers(4), availability=available(8, 2, 3), unready_nodes=2),
        f"needs 4 × 2 {GPU} (min); 8 free on 2 nodes; 3 jobs before it; "
        "2 matching nodes are not ready",
    ),
    "too large for the cluster": (
        Reason.NO_SUCH_NODES,
        WorkersDoNotFit(minimum=workers(3), matching_nodes=1, capacity=2),
        f"needs 3 × 2 {GPU} (min); 1 node matches by size, labels and taints, "
        "with capacity for 2 workers when empty",
    ),
    "of a kind that the cluster does not have": (
        Reason.NO_SUCH_NODES,
        WorkersDoNotFit(minimum=workers(1, ZONED), matching_nodes=0, capacity=0),
        f"needs 1 × 2 {GPU} with selector pool=b,zone=a (min); "
        "0 nodes match by size, labels and taints",
    ),
    "backing off": (
        Reason.START_TIMED_OUT,
        StartTimedOut(minimum=workers(3), requeue_at=NOW),
        f"its last start did not get 3 × 2 {GPU} running in time; it queues again at 12:00:00",
    ),
    "a gang backing off": (
        Reason.START_TIMED_OUT,
        StartTimedOut(minimum=None, requeue_at=NOW),
        "its last start did not run in time; it queues again at 12:00:00",
    ),
    "a gang admitted": (
        Reason.ADMITTED,
        PartiesAdmitted(parties=3, gpus=(("amd.com/gpu", 2), (GPU, 1))),
        f"admitted with 3 parties: 2 amd.com/gpu, 1 {GPU}",
    ),
    "a gang of one party admitted on CPUs": (
        Reason.ADMITTED,
        PartiesAdmitted(parties=1, gpus=()),
        "admitted with 1 party: no GPU",
    ),
    "a gang waiting": (
        Reason.WAITING_FOR_GPUS,
        PartiesWaiting(parties=3, waiting=(party("ann"), party("bob", jobs_ahead=2))),
        "all 3 parties start together; "
        f"party ann waits for 2 {GPU} with selector pool=b,zone=a "
        "(1 free on 1 of 3 matching nodes); "
        f"party bob waits for 2 {GPU} with selector pool=b,zone=a "
        "(1 free on 1 of 3 matching nodes, 2 jobs before it)",
    ),
    "a gang with all parties": (
        Reason.STEADY,
        PartiesAssigned(parties=2, added=(), waiting=()),
        "2 parties have room",
    ),
    "a gang with new parties": (
        Reason.PARTY_ADDED,
        PartiesAssigned(parties=3, added=("bob", "cid"), waiting=()),
        "3 parties have room; added bob, cid",
    ),
    "a gang whose new party waits": (
        Reason.NO_FREE_GPUS,
        PartiesAssigned(parties=1, added=(), waiting=(party("bob"),)),
        f"1 party has room; party bob waits for 2 {GPU} with selector pool=b,zone=a "
        "(1 free on 1 of 3 matching nodes)",
    ),
    "out of bounds": (
        Reason.BOUNDS_CHANGED,
        changed(4, 2, BoundsChanged(min_workers=1, max_workers=2)),
        "min is 1 and max 2: shrinking 4→2",
    ),
    "as requested": (
        Reason.REQUESTED,
        changed(2, 4, ReplicasRequested(replicas=4)),
        f"workers.replicas asks for 4 and 2 × 2 {GPU} fit: growing 2→4",
    ),
    "only a part of what was requested": (
        Reason.REQUESTED,
        changed(2, 4, ReplicasRequested(replicas=8), shortage=lacking(4, 8)),
        f"workers.replicas asks for 8 and 2 × 2 {GPU} fit: growing 2→4; "
        f"4 × 2 {GPU} short of 8, 3 free on 2 nodes; 1 job before it",
    ),
    "no GPUs to grow": (
        Reason.NO_FREE_GPUS,
        kept(ReplicasRequested(replicas=8), lacking(6, 8)),
        f"stays at 2: workers.replicas asks for 8; to grow it needs 6 × 2 {GPU}; "
        "3 free on 2 nodes; 1 job before it",
    ),
    "a policy of later versions": (
        Reason.STEADY,
        kept(PolicyUnavailable(policy="Goodput")),
        "stays at 2: policy Goodput is not available in this version",
    ),
    "lost nodes": (
        Reason.SHRINK_NODES_LOST,
        changed(4, 3, WorkersUnplaceable(unplaceable=1, workers=4, give_up_at=None)),
        "1 of 4 workers can no longer get GPUs: shrinking 4→3",
    ),
    "lost nodes within the grace": (
        Reason.NO_FREE_GPUS,
        kept(WorkersUnplaceable(unplaceable=1, workers=2, give_up_at=NOW)),
        "stays at 2: 1 of 2 workers can no longer get GPUs, giving up at 12:00:00",
    ),
    "workers that were not placed": (
        Reason.NOT_PLACED,
        changed(4, 3, WorkersNotPlaced(not_placed=1, workers=4, message=f"{NO_CPU}.")),
        f"1 of 4 workers got no node in time ({NO_CPU}): shrinking 4→3",
    ),
    "workers that were not placed, and nobody says why": (
        Reason.NOT_PLACED,
        changed(4, 3, WorkersNotPlaced(not_placed=1, workers=4, message="")),
        "1 of 4 workers got no node in time "
        "(neither kube-scheduler nor the API server says why): shrinking 4→3",
    ),
    "a size that was not placed": (
        Reason.NOT_PLACED,
        kept(SizeNotPlaced(pending=ReplicasRequested(replicas=8), workers=2, retry_at=NOW)),
        "stays at 2: workers.replicas asks for 8; more than 2 were not placed, "
        "and are not asked for again before 12:00:00",
    ),
    "workers that cannot take part": (
        Reason.LEFT_OUT,
        changed(4, 2, WorkersUnfit(indices=(1, 3), workers=4, message="no device.")),
        "workers 1, 3 of 4 cannot take part (no device): shrinking 4→2",
    ),
    "workers that are left out": (
        Reason.LEFT_OUT,
        kept(TriedAgainLater(pending=ReplicasRequested(replicas=8), retry_at=NOW)),
        "stays at 2: workers.replicas asks for 8; workers are left out until 12:00:00",
    ),
    "admitted on nodes of a pool": (
        Reason.PROVISIONING,
        WorkersProvisioning(minimum=workers(4), pool="a100", nodes=2, give_up_at=NOW),
        f"needs 4 × 2 {GPU} (min); pool a100 has to add 2 nodes, awaited until 12:00:00",
    ),
    "nodes of a pool are awaited": (
        Reason.PROVISIONING,
        kept(NodesAwaited(pool="a100", unbound=1, workers=2, give_up_at=NOW)),
        "stays at 2: nodes of pool a100 are awaited for 1 of 2 workers until 12:00:00",
    ),
    "nodes of a pool did not come": (
        Reason.NOT_PROVISIONED,
        changed(2, 0, NodesNotAdded(pool="a100", unbound=1, workers=2, retry_at=NOW)),
        "no node of pool a100 came in time for 1 of 2 workers; it is asked again at 12:00:00: "
        "releasing 2 workers",
    ),
    "a pool that is not asked yet": (
        Reason.NOT_PROVISIONED,
        WorkersDoNotFit(
            minimum=workers(4),
            matching_nodes=0,
            capacity=0,
            provisioning=Provisioning(pool="a100", attempts=1, retry_time=NOW),
        ),
        f"needs 4 × 2 {GPU} (min); 0 nodes match by size, labels and taints; "
        "pool a100 added no node in time and is asked again at 12:00:00",
    ),
    "joining": (
        Reason.MEASURING,
        kept(WorkersJoining(workers=2)),
        "stays at 2: not all 2 workers train together yet",
    ),
    "no metrics yet": (
        Reason.METRICS_STALE,
        kept(MetricsStale(age=None, limit=timedelta(seconds=15))),
        "stays at 2: the coordinator's metrics have not been read yet",
    ),
    "old metrics": (
        Reason.METRICS_STALE,
        kept(MetricsStale(age=timedelta(seconds=20.4), limit=timedelta(seconds=15))),
        "stays at 2: the metrics are 20 s old, older than 15 s",
    ),
    "few steps": (
        Reason.MEASURING,
        kept(TooFewSteps(workers=1, min_steps=10)),
        "stays at 2: fewer than 10 steps measured with 1 worker",
    ),
    "at the maximum": (
        Reason.STEADY,
        kept(AtMaximum(workers=2)),
        "stays at 2: 2 workers is the most it may have",
    ),
    "a growth that paid": (
        Reason.GROW_PAYS,
        changed(2, 4, GrowthPaid(gain=GAIN), expected=1.708),
        f"{PAID} and 2 × 2 {GPU} fit: growing 2→4, expected 1.71×",
    ),
    "a recommendation": (
        Reason.GROW_PAYS,
        changed(2, 4, GrowthPaid(gain=GAIN), expected=1.708, is_recommendation=True),
        f"{PAID} and 2 × 2 {GPU} fit: would be growing 2→4, expected 1.71×",
    ),
    "a growth that did not pay": (
        Reason.SHRINK_DOES_NOT_PAY,
        changed(2, 1, GrowthDidNotPay(gain=GAIN), expected=0.548),
        "1→2 did not pay: 1.83× (41.2→75.3 samples/s, minGain 1.05): shrinking 2→1, expected 0.55×",
    ),
    "a growth that is not clear yet": (
        Reason.MEASURING,
        kept(GrowthUncertain(gain=NOISY_LOSS, until=NOW)),
        "stays at 2: 1→2 brings 0.96× (412 ± 4.2→395 ± 5.06 samples/s, 0.91× to 1.01× with 99 % "
        "confidence, minGain 1.05); not clear yet, measured until 12:00:00",
    ),
    "a proven size that no longer pays": (
        Reason.SHRINK_DOES_NOT_PAY,
        changed(2, 1, GrowthNoLongerPays(gain=NOISY_LOSS), expected=1.042),
        "1→2 paid at first and clearly no longer does: 0.96× (412 ± 4.2→395 ± 5.06 samples/s, "
        "0.91× to 1.01× with 99 % confidence, minGain 1.05): shrinking 2→1, expected 1.04×",
    ),
    "a loss within the noise": (
        Reason.STEADY,
        kept(LossUncertain(gain=NOISY_LOSS)),
        "stays at 2: 1→2 paid at first and now brings 0.96× (412 ± 4.2→395 ± 5.06 samples/s, "
        "0.91× to 1.01× with 99 % confidence, minGain 1.05); noise may explain the difference",
    ),
    "a larger size that pays": (
        Reason.GROW_PAYS,
        changed(1, 2, LargerSizePays(gain=GAIN), expected=1.83),
        "2 workers brought 1.83× (41.2→75.3 samples/s, minGain 1.05) "
        f"and 1 × 2 {GPU} fit: growing 1→2, expected 1.83×",
    ),
    "a larger size that did not pay": (
        Reason.STEADY,
        kept(LargerSizeDidNotPay(gain=GAIN, retry_at=NOW)),
        "stays at 2: 1→2 brought 1.83× (41.2→75.3 samples/s, minGain 1.05); "
        "not tried again before 12:00:00",
    ),
    "a growth of which half may do": (
        Reason.SHRINK_DOES_NOT_PAY,
        changed(
            4,
            3,
            GrowthBelowExpectation(
                before=2, after=4, measured_speedup=1.4, expected_speedup=1.8, middle=3
            ),
        ),
        "2→4 brought 1.40× where 1.80× was expected, so 3 may do as well: shrinking 4→3",
    ),
    "the first growth": (
        Reason.GROW_TO_MEASURE,
        changed(1, 2, NoOtherSizeKnown(workers=1), expected=2.0),
        f"no size but 1 worker is known to pay and 1 × 2 {GPU} fit: growing 1→2, expected 2.00×",
    ),
    "too small a gain": (
        Reason.STEADY,
        kept(GainTooSmall(workers=3, expected_speedup=1.031, min_gain=1.05)),
        "stays at 2: 3 workers are expected to bring 1.03×, minGain is 1.05",
    ),
    "cooling down": (
        Reason.COOLING_DOWN,
        kept(CoolingDown(pending=GrowthPaid(gain=GAIN), until=NOW)),
        f"stays at 2: {PAID}; cooling down until 12:00:00",
    ),
    "too many changes": (
        Reason.CHANGE_LIMIT,
        kept(ChangeLimitReached(pending=GrowthPaid(gain=GAIN), changes=12, limit=12)),
        f"stays at 2: {PAID}; 12 of 12 changes per hour used",
    ),
}


@pytest.mark.parametrize(("reason", "facts", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_a_decision_is_explained(reason: Reason, facts: Facts, sentence: str) -> None:
    assert Decision(workers=2, recommended=2, reason=reason, facts=facts).message == sentence


def test_every_reason_and_all_kinds_of_facts_are_in_the_table() -> None:
    rows = list(SENTENCES.values())
    bases = {type(facts.basis) for _, facts, _ in rows if isinstance(facts, SizeKept | SizeChanged)}
    assert {reason for reason, _, _ in rows} == set(Reason)
    assert {type(facts) for _, facts, _ in rows} == set(get_args(Facts))
    assert bases == set(get_args(Basis))


def test_a_sentence_names_five_parties_and_counts_the_others() -> None:
    waiting = tuple(party(name) for name in "abcdefg")
    sentence = explain(PartiesWaiting(parties=7, waiting=waiting))
    assert [f"party {name} waits for" in sentence for name in "abcdefg"] == [True] * 5 + [False] * 2
    assert sentence.endswith("; and 2 more")
    added = explain(PartiesAssigned(parties=9, added=tuple("abcdefg"), waiting=()))
    assert added == "9 parties have room; added a, b, c, d, e and 2 more"


@pytest.mark.parametrize(
    ("speed", "shown"), [(100.4, "100"), (99.96, "100"), (12.345, "12.3"), (0.01234, "0.0123")]
)
def test_speeds_are_rounded_to_three_digits(speed: float, shown: str) -> None:
    gain = Gain(before=1, after=2, before_speed=speed, after_speed=speed, min_gain=1.05)
    assert f"({shown}→{shown} samples/s" in explain(kept(GrowthPaid(gain=gain)))
