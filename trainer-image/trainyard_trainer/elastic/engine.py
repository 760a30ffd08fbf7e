"""The elastic engine: a replica group whose members change while training goes on.

The loop computes and commits; this group enters views, reduces over their members and recovers
from failures. All of it runs in the training thread; only building process groups and the
connection to the coordinator have threads of their own.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, assert_never

import torch
from torch import Tensor

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.elastic.builder import GroupBuilder, build_failure
from trainyard_trainer.elastic.process_group import LocalProcessGroup, ProcessGroup, Rendezvous
from trainyard_trainer.elastic.session import POLL_SECONDS, Dismissed, MembershipSession
from trainyard_trainer.elastic.task_errors import task_raised
from trainyard_trainer.elastic.transfer import broadcast_state, initialize_state
from trainyard_trainer.elastic.watchdog import CollectiveWatchdog
from trainyard_trainer.membership import participant as protocol
from trainyard_trainer.membership.messages import Stopped, ViewEntered
from trainyard_trainer.membership.participant import (
    Participant,
    ParticipantPhase,
    Step,
    ViewAction,
    Votes,
)
from trainyard_trainer.membership.views import View, ViewId
from trainyard_trainer.runtime.exits import TaskFailed
from trainyard_trainer.training.layout import layout
from trainyard_trainer.training.loop import CollectiveError, outcome
from trainyard_trainer.training.replica import Contribution, Replica
from trainyard_trainer.transport.connection import CoordinatorConnection

log = logging.getLogger(__name__)

UPLOAD_RETRY_SECONDS: Final = (1.0, 30.0)
"""The first and the longest pause after an upload that was not stored."""
ANSWER_SECONDS: Final = 45.0
"""How long a worker on which the task raised waits for a coordinator; a new one takes ten."""
HANDOVER_SECONDS: Final = 300.0
"""How long it then may take to upload its state."""
VOTE_FIELDS: Final = tuple(Votes.__dataclass_fields__)
"""The votes stand at the front of the control vector, in this order."""


class ElasticReplicaGroup:
    """The workers that train together, as one of them sees it, from its first view to its exit."""

    def __init__(
        self, connection: CoordinatorConnection, rendezvous: Rendezvous, pod: str, node: str
    ) -> None:
        """`pod` names the worker; `node` is where it runs."""
        self.session = MembershipSession(
            connection, pod=pod, node=node, rendezvous=rendezvous.address, act=self._act
        )
        self.process_group: ProcessGroup = LocalProcessGroup()
        self._rendezvous = rendezvous
        self._replica: Replica | None = None
        self._builders: dict[ViewId, GroupBuilder] = {}
        self._votes = Votes()
        """The sum of all members' votes in the last collective."""
        self._voted_plan: Plan | None = None
        self._watchdog = CollectiveWatchdog()
        self._is_computing = False
        """Whether an iteration has begun of which nothing is reduced or committed yet."""
        self._upload: Future[bool] | None = None
        self._next_upload = 0.0
        """Not before this time, on `time.monotonic`'s clock."""
        self._upload_pause = UPLOAD_RETRY_SECONDS[0]

    @property
    def replica(self) -> Replica:
        """This worker's replica; set by `register`."""
        assert self._replica is not None  # noqa: S101 -- the loop starts after `register`
        return self._replica

    @property
    def replica_or_none(self) -> Replica | None:
        """This worker's replica, once it has built one."""
        return self._replica

    @property
    def view(self) -> View | None:
        """The view that this worker is in."""
        return self._me.view

    @property
    def has_state(self) -> bool:
        """Whether this worker holds training state."""
        return self._me.progress >= 0

    @property
    def is_last_holder(self) -> bool:
        """Whether this worker has the state and no other is in its view."""
        me = self._me
        return self.has_state and me.view is not None and len(me.view.members) == 1

    @property
    def _me(self) -> Participant:
        return self.session.participant

    def register(self, replica: Replica) -> None:
        """Offer a warmed-up replica: from now on the worker can be called into a view."""
        self._replica = replica
        self.session.send_ready(layout(replica))

    # --- what the loop calls --------------------------------------------------------------------

    @property
    def rank(self) -> int:
        """This worker's rank in the view in force."""
        return self.process_group.rank

    @property
    def world_size(self) -> int:
        """The number of workers in the view in force."""
        return self.process_group.size

    def join(self) -> None:
        """Wait until this worker is in a view and has its state."""
        while True:
            while self._me.phase is not ParticipantPhase.ENTERING:
                self._wait()
            view = self._me.view
            try:
                self._enter()
                self._begin_iteration()
                return
            except CollectiveError as error:
                log.warning("%s has broken: %s", view, error)
                if self._me.phase is ParticipantPhase.ENTERING and self._me.view is view:
                    self._act(protocol.fail(self._me))

    def recover(self) -> None:
        """Discard the iteration that a failure interrupted, and join another view."""
        if self._me.phase is ParticipantPhase.STEPPING:
            self._act(protocol.fail(self._me))
        self.join()

    def synchronize(self, work: Contribution) -> Tensor:
        """Sum the iteration's contributions over all members; raises CollectiveError.

        The control vector goes last and so decides: a member that has its sum has all the others,
        and one that has not knows that nobody is more than one iteration ahead.
        """
        self.session.receive()
        if self._me.phase is not ParticipantPhase.STEPPING:
            raise CollectiveError("the view has ended")  # Perhaps the next one was announced, too.
        self._is_computing = False
        self._watchdog.wait(self.replica.config.stuck_seconds, time.monotonic())
        try:
            control = self._reduce(work)
        finally:
            self._watchdog.end()
        votes, totals = control.cpu().tensor_split([len(VOTE_FIELDS)])
        self._votes = Votes(**dict(zip(VOTE_FIELDS, votes.tolist(), strict=True)))
        return totals

    def _begin_iteration(self) -> None:
        self._is_computing = True
        self._watchdog.begin(time.monotonic())

    def _reduce(self, work: Contribution) -> Tensor:
        """Reduce the work in place; the control vector's sum."""
        if work.gradients:
            self.process_group.all_reduce_(*work.gradients)
        for buffer in work.buffers:
            self.process_group.broadcast_(buffer, 0)
        control = torch.cat([self._vote(), work.totals]).to(self.replica.device)
        self.process_group.all_reduce_(control)
        return control

    def step_boundary(self) -> None:
        """After a committed iteration: follow a new Plan or view when all are ready for it."""
        votes, size = self._votes, self.process_group.size
        self.session.update(protocol.commit(self._me))
        self._watchdog.committed(time.monotonic())
        self._begin_iteration()
        self._follow_plan(votes.agreed_plan(size))
        self.session.receive()
        if self._me.phase is not ParticipantPhase.STEPPING:
            return  # It was stopped: `synchronize` raises in the next iteration.
        if self.is_done:
            return
        me, action = protocol.switch(self._me, votes.agreed_view(size))
        self.session.update(me)
        if action is ViewAction.ENTER:
            self.join()

    @property
    def is_done(self) -> bool:
        """Whether training has ended or is suspended."""
        plan = self.replica.plan
        return self.replica.is_over or (plan is not None and plan.suspend)

    def finish(self, final: Callable[[], bytes]) -> Result:
        """Report the final state, upload it when it is collected, and wait to be dismissed.

        `final` makes the model file of a complete training.
        """
        self.session.send_finished(outcome(self.replica), self.replica.digest())
        try:
            while True:
                self._wait(final)
        except Dismissed as end:
            return end.result

    def hand_over(self, error: TaskFailed) -> None:
        """Report that the task raised, and upload the state before it if it is collected.

        Returns when this worker is dismissed, or nobody answers; raises JobFailed when the same
        samples have failed on another worker before.
        """
        if not self._is_computing:
            return  # What was raised in a commit leaves no state that could be used.
        self.replica.undo()
        self.session.send_raised(task_raised(error, self.replica, self.rank, self.world_size))
        deadline = time.monotonic() + ANSWER_SECONDS
        with contextlib.suppress(Dismissed):
            while time.monotonic() < deadline:
                is_collected = self.session.collecting is not None
                self._wait()
                if self.session.collecting is not None and not is_collected:
                    deadline = time.monotonic() + HANDOVER_SECONDS

    def _wait(self, final: Callable[[], bytes] | None = None) -> None:
        """Receive messages for a moment, and upload the state while it is being collected."""
        self.session.receive(POLL_SECONDS)
        collecting = self.session.collecting
        if collecting is None:
            return
        if self._upload is None:
            if time.monotonic() < self._next_upload:
                return
            self._upload = self._start_upload(collecting, final)
        elif self._upload.done():
            is_stored, self._upload = self._upload.result(), None
            if is_stored:
                self.session.collecting = None
                self._upload_pause = UPLOAD_RETRY_SECONDS[0]
                return
            # The coordinator is gone or could not store it: try again, but not in a tight loop.
            log.warning("trying again in %.0f s to hand over the state", self._upload_pause)
            self._next_upload = time.monotonic() + self._upload_pause
            self._upload_pause = min(2 * self._upload_pause, UPLOAD_RETRY_SECONDS[1])

    def _start_upload(self, collecting: Result, final: Callable[[], bytes] | None) -> Future[bool]:
        if collecting is Result.COMPLETE and final is not None:
            return self.session.connection.upload("model", final())
        return self.session.connection.upload("checkpoint", self.replica.encode())

    # --- votes ----------------------------------------------------------------------------------

    def _vote(self) -> Tensor:
        """What this worker is ready for, at the front of the control vector."""
        self.session.update(protocol.vote(self._me, is_prepared=self._is_prepared()))
        # A newer plan may arrive while the votes are summed: this is the one agreed on.
        self._voted_plan = plan = self.session.newest_plan
        ballot = self._me.ballot.id if self._me.ballot is not None else None
        votes = Votes.of(ballot, plan.generation if plan is not None else 0)
        return torch.tensor([getattr(votes, name) for name in VOTE_FIELDS], dtype=torch.float64)

    def _is_prepared(self) -> bool:
        """Whether this worker is ready to switch to the pending view."""
        pending = self._me.pending
        if pending is None:
            return False
        builder = self._builders.get(pending.id)
        if builder is None:
            return self._me.member_id not in pending.member_ids
        if builder.error is not None and not builder.is_reported:
            builder.is_reported = True
            self.session.send_build_failed(pending.id, builder.error)
        return builder.group is not None

    def _follow_plan(self, generation: int) -> None:
        """Put the plan in force that all members have voted for, if it is newer."""
        plan, current = self._voted_plan, self.replica.plan
        if plan is None or plan.generation != generation or plan == current:
            return
        if current is None or generation > current.generation:
            self.replica.plan = plan
            self.replica.notes["effective_step"] = self.replica.step

    # --- views ----------------------------------------------------------------------------------

    def _act(self, step: Step) -> None:
        """Take the action that the protocol calls for; `join` enters the views."""
        me, action = step
        match action:
            case ViewAction.STOP:
                self._stop(me)
            case ViewAction.PREPARE:
                self.session.update(me)
                if me.pending is not None and me.member_id in me.pending.member_ids:
                    self._build(me.pending)
            case ViewAction.ENTER | ViewAction.NONE:
                self.session.update(me)
            case _:
                assert_never(action)

    def _stop(self, me: Participant) -> None:
        """Undo what is not committed, and report the progress."""
        if me.progress >= 0:
            self.replica.undo()
            self.session.digest = self.replica.digest()
        stopped = Stopped(
            announced=me.announced,
            state_view=me.state_view.id if me.state_view else None,
            progress=me.progress,
            digest=self.session.digest,
        )
        self.session.update(me, stopped)

    def _build(self, view: View) -> GroupBuilder:
        """Start building the view's process group, unless it was: that can be done only once."""
        if view.id not in self._builders:
            self._builders[view.id] = GroupBuilder(
                view,
                self._me.member_id,
                self._rendezvous,
                self.replica.device,
                self._check,
            )
        return self._builders[view.id]

    def _check(self, view: View) -> None:
        """Raise CollectiveError when a wait in `view` must end; called in each slice of it."""
        self.session.check(view)
        self._watchdog.check(time.monotonic())

    def _enter(self) -> None:
        """Enter the participant's view: first its process group, then its state."""
        view = self._me.view
        assert view is not None  # noqa: S101 -- what ENTERING means
        if not self._me.is_member:
            self.session.send_goodbye(view.id)
            raise Dismissed(Result.LEFT)
        group = self.process_group = self._await_group(view)
        self._abandon_before(view.id)
        if view.transfer:
            if view.initial and view.source == self._me.member_id:
                session = self.session
                initialize_state(self.replica, session.connection, session.newest_plan)
            adopts = self._me.progress < 0 or view.after is None
            source = view.member_ids.index(view.source)
            broadcast_state(self.replica, group, source, adopts=adopts)
        me = protocol.begin(self._me, self.replica.iteration)
        self.session.update(me, ViewEntered(view=view, progress=me.progress))

    def _await_group(self, view: View) -> ProcessGroup:
        builder = self._build(view)
        while not builder.is_done:
            self.session.receive(POLL_SECONDS / 5)
            self.session.check(view)
        if builder.group is None:
            assert builder.error is not None  # noqa: S101 -- what `is_done` means without a group
            raise build_failure(builder.error) from builder.error
        return builder.group

    def _abandon_before(self, view: ViewId) -> None:
        """Abort the groups of earlier views, including those that never began."""
        for earlier in [key for key in self._builders if key < view]:
            self._builders.pop(earlier).abandon()
