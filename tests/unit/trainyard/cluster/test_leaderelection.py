"""Leader election: one leader at a time, whatever processes, clocks and the network do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from trainyard.cluster.leaderelection import (
    LeaderElectionRecord,
    LeaseTimings,
    ObservedRecord,
    acquired,
    may_take,
    observe,
    released,
)

TIMING = LeaseTimings()
HELD = LeaderElectionRecord(
    version="7", holder="a", duration_seconds=15, acquired_at="t0", transitions=3
)


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


@pytest.mark.parametrize(
    ("flag", "times"),
    {
        "no duration": ("--lease-duration", (0, 0, 0)),
        "a duration that a Lease cannot hold": ("--lease-duration", (1.5, 1, 0.5)),
        "a deadline as long as the duration": ("--renew-deadline", (15, 15, 2)),
        "retries as long as the deadline": ("--retry-period", (15, 10, 9)),
        "no pause between retries": ("--retry-period", (15, 10, 0)),
    }.values(),
)
def test_timings_that_do_not_fit_are_rejected_by_flag(
    flag: str, times: tuple[float, float, float]
) -> None:
    duration, deadline, retry = map(seconds, times)
    with pytest.raises(ValueError, match=flag):
        LeaseTimings(duration=duration, renew_deadline=deadline, retry=retry)


def test_a_lease_expires_when_it_was_observed_unchanged_for_its_own_duration() -> None:
    seen = observe(None, HELD, 100.0)
    assert not may_take(seen, 114.9)
    assert may_take(seen, 115.0)
    again = observe(seen, HELD, 110.0)
    assert again.since == 100.0
    renewed = observe(again, replace(HELD, version="8"), 114.0)
    assert not may_take(renewed, 128.9)


@pytest.mark.parametrize("record", [LeaderElectionRecord(), released(HELD, "t1")])
def test_a_free_lease_is_acquired_immediately(record: LeaderElectionRecord) -> None:
    assert may_take(observe(None, record, 5.0), 5.0)


def test_every_holder_has_a_higher_fencing_token() -> None:
    first = acquired(LeaderElectionRecord(), "a", TIMING, "t0")
    assert first.fencing_token == 1
    kept = acquired(replace(first, version="1"), "a", TIMING, "t1")
    assert (kept.fencing_token, kept.acquired_at, kept.renewed_at) == (1, "t0", "t1")
    second = acquired(replace(kept, version="2"), "b", TIMING, "t2")
    assert (second.fencing_token, second.acquired_at) == (2, "t2")
    after = acquired(released(replace(second, version="3"), "t3"), "b", TIMING, "t4")
    assert after.fencing_token == 3


def test_a_holder_whose_lease_was_deleted_keeps_its_fencing_token() -> None:
    assert (
        acquired(LeaderElectionRecord(), "a", TIMING, "t0", min_fencing_token=9).fencing_token == 9
    )


@dataclass
class Process:
    """One operator, which may be suspended between any two of its steps."""

    name: str
    skew: float
    observed: ObservedRecord | None = None
    asked_at: float = 0.0
    wanted: LeaderElectionRecord | None = None
    until: float = float("-inf")
    tokens: list[int] = field(default_factory=list)


class Replicas(RuleBasedStateMachine):
    """Two processes and one Lease; a rule is a step of one of them, or time that passes."""

    @initialize()
    def start(self) -> None:
        self.now = 0.0
        self.stored = LeaderElectionRecord()
        self.version = 0
        self.processes = [Process(name, skew) for name, skew in (("a", 0), ("b", 1e4))]

    def at(self, process: Process) -> float:
        return self.now + process.skew

    @rule(span=st.sampled_from([1.0, 9.5, 15.0]))
    def time_passes(self, span: float) -> None:
        self.now += span

    @rule(who=st.integers(0, 1))
    def read(self, who: int) -> None:
        process = self.processes[who]
        process.observed = observe(process.observed, self.stored, self.at(process))

    @rule(who=st.integers(0, 1))
    def decide(self, who: int) -> None:
        process = self.processes[who]
        if process.observed is None:
            return
        process.asked_at = self.at(process)
        is_mine = process.observed.record.holder == process.name
        if is_mine or may_take(process.observed, process.asked_at):
            process.wanted = acquired(process.observed.record, process.name, TIMING, "now")

    @rule(who=st.integers(0, 1), is_answered=st.booleans())
    def write(self, who: int, is_answered: bool) -> None:
        process = self.processes[who]
        wanted, process.wanted = process.wanted, None
        if wanted is None or wanted.version != self.stored.version:
            return
        self.version += 1
        self.stored = replace(wanted, version=str(self.version))
        if is_answered:
            process.observed = ObservedRecord(record=self.stored, since=process.asked_at)
            process.until = process.asked_at + TIMING.renew_deadline.total_seconds()
            process.tokens.append(self.stored.fencing_token)

    @rule(who=st.integers(0, 1))
    def attempt(self, who: int) -> None:
        self.read(who)
        self.decide(who)
        self.write(who, True)

    @rule(who=st.integers(0, 1))
    def release(self, who: int) -> None:
        process = self.processes[who]
        if self.at(process) < process.until and self.stored.holder == process.name:
            process.until, process.wanted = float("-inf"), None
            self.version += 1
            self.stored = replace(released(self.stored, "now"), version=str(self.version))

    @invariant()
    def one_leads_at_a_time(self) -> None:
        leaders = [p.name for p in self.processes if self.at(p) < p.until]
        assert len(leaders) <= 1, f"{leaders} lead at {self.now}"

    @invariant()
    def fencing_tokens_are_unique_and_grow(self) -> None:
        for process in self.processes:
            assert process.tokens == sorted(process.tokens)
            others = {t for p in self.processes if p is not process for t in p.tokens}
            assert not others & set(process.tokens)


Replicas.TestCase.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
test_replicas = Replicas.TestCase
