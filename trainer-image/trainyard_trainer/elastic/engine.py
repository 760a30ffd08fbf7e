"""A worker among others: it enters views, reduces with them, and mends what breaks.

This is the seam behind which the engine may become faster. The loop computes and commits; the crew
decides with whom. All of it runs in the training thread; only the making of groups and the
connection to the coordinator have threads of their own.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, assert_never

import torch
from torch import Tensor

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import WIRE_VERSION
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.elastic.builder import GroupBuilder
from trainyard_trainer.elastic.process_group import LocalProcessGroup, ProcessGroup, Rendezvous
from trainyard_trainer.elastic.transfer import broadcast_state, initialize_state
from trainyard_trainer.membership import participant as protocol
from trainyard_trainer.membership.events import MemberAddress, View, ViewId
from trainyard_trainer.membership.participant import Mode, Participant, Reaction, Votes
from trainyard_trainer.runtime.exits import Fenced, WireMismatch
from trainyard_trainer.training.loop import CollectiveError
from trainyard_trainer.training.replica import Contribution, Replica
from trainyard_trainer.transport import messages
from trainyard_trainer.transport.link import CoordinatorConnection

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.05
VOTE_LENGTH: Final = 6
"""The length of `Votes` at the front of the control vector."""


class Dismissed(Exception):
    """The worker has been let go; not an error."""

    def __init__(self, result: Result) -> None:
        """`result` is what its last words will say."""
        super().__init__(result)
        self.result = result


class ElasticReplicaGroup:
    """The worker's place in its job, from the first view to the last word."""

    def __init__(
        self, link: CoordinatorConnection, rendezvous: Rendezvous, pod: str, node: str
    ) -> None:
        """`pod` names the worker; `node` is where it runs."""
        self.link, self.rendezvous = link, rendezvous
        self.pod, self.node = pod, node
        self.participant = Participant(member_id=new_member_id(pod))
        self.device = torch.device("cpu")
        self.group: ProcessGroup = LocalProcessGroup()
        self.offered_plan: Plan | None = None
        """The newest plan heard of; in force once all have heard of it."""
        self.is_leaving = False
        self.wants_snapshot = False
        self.report: messages.Report | None = None
        """What the next `Hello` says of training."""
        self._config: JobConfig | None = None
        self._replica: Replica | None = None
        self._builders: dict[ViewId, GroupBuilder] = {}
        self._votes = Votes()
        """The sum of all members' votes in the last collective."""
        self._voted_plan: Plan | None = None
        self._collection: Result | None = None
        """What the coordinator has asked this worker's state for."""
        self._upload: Future[bool] | None = None
        self._digest = ""

    @property
    def replica(self) -> Replica:
        """The state that this worker keeps; set by `bring`."""
        assert self._replica is not None  # noqa: S101 -- the loop starts with `bring`
        return self._replica

    @property
    def replica_or_none(self) -> Replica | None:
        """The state, where the worker came so far as to build it."""
        return self._replica

    # --- what the loop calls --------------------------------------------------------------------

    def await_config(self) -> JobConfig:
        """Wait for the coordinator's welcome, which says what to train."""
        while self._config is None:
            self.receive(POLL_SECONDS)
        return self._config

    def register(self, replica: Replica) -> None:
        """Offer a warm replica: from now on the worker can be called into a view."""
        with self.link.changing():
            self._replica, self.device = replica, replica.device
            self.link.send(messages.Ready())

    @property
    def rank(self) -> int:
        """This worker's place in the view in force."""
        return self.group.rank

    @property
    def world_size(self) -> int:
        """How many workers the view in force has."""
        return self.group.size

    def join(self) -> None:
        """Wait until this worker is in a view and has its state."""
        while True:
            while self.participant.mode is not Mode.ENTERING:
                self._wait()
            view = self.participant.view
            try:
                self._enter()
                return
            except CollectiveError as error:
                log.warning("%s has broken: %s", view, error)
                if self.participant.mode is Mode.ENTERING and self.participant.view is view:
                    self._react(*protocol.fail(self.participant))

    def recover(self) -> None:
        """The view has ended under an iteration: forget the iteration, and join another view."""
        if self.participant.mode is Mode.STEPPING:
            self._react(*protocol.fail(self.participant))
        self.join()

    def synchronize(self, work: Contribution) -> Tensor:
        """Sum the iteration's work over all members; raises CollectiveError.

        The control vector goes last and so decides: who has its sum has the turn's, and who has
        not can be sure that nobody is further than one turn ahead.
        """
        self.receive()
        self.check(self.participant.view)
        if work.gradients:
            self.group.all_reduce_(*work.gradients)
        for buffer in work.buffers:
            self.group.broadcast_(buffer, 0)
        control = torch.cat([self._vote(), work.totals]).to(self.device)
        self.group.all_reduce_(control)
        control = control.cpu()
        self._votes = Votes(**dict(zip(_NAMES, control[:VOTE_LENGTH].tolist(), strict=True)))
        return control[VOTE_LENGTH:]

    def _vote(self) -> Tensor:
        """What this worker is ready for, at the front of the control vector."""
        self._set_state(protocol.vote(self.participant, is_prepared=self._is_prepared()))
        # While the votes are summed a newer plan may come: what is agreed on is this one.
        self._voted_plan = self.offered_plan
        ballot = self.participant.ballot.id if self.participant.ballot is not None else None
        votes = Votes.of(
            ballot, self.offered_plan.generation if self.offered_plan is not None else 0
        )
        return torch.tensor([getattr(votes, name) for name in _NAMES], dtype=torch.float64)

    def step_boundary(self) -> None:
        """After a committed iteration: follow a new Plan or view when all are ready for it."""
        votes, size = self._votes, self.group.size
        self._set_state(protocol.commit(self.participant))
        self._follow_plan(votes.agreed_plan(size))
        self.receive()
        if self.participant.mode is not Mode.STEPPING:
            return  # Asked to stop: the next iteration finds out.
        if self.is_done:
            return
        me, reaction = protocol.switch(self.participant, votes.agreed_view(size))
        self._set_state(me)
        if reaction is Reaction.ENTER:
            self.join()

    @property
    def is_done(self) -> bool:
        """Whether training has come to its end, or to a suspension."""
        plan = self.replica.plan
        return self.replica.is_over or (plan is not None and plan.suspend)

    def finish(self, final: Callable[[], bytes]) -> Result:
        """Say that this worker holds the final state, send it in when asked, and be let go.

        `final` makes the model file of a complete training.
        """
        self._digest = self.replica.digest()
        me = protocol.halt(self.participant)
        finished = messages.Finished(
            result=self._result(), progress=me.progress, digest=self._digest
        )
        self._set_state(me, finished)
        try:
            while True:
                self._wait(final)
        except Dismissed as end:
            return end.result

    def _wait(self, final: Callable[[], bytes] | None = None) -> None:
        """Hear what comes, and send in the state when the coordinator collects it."""
        self.receive(POLL_SECONDS)
        if self._collection is None:
            return
        if self._upload is None:
            is_model = self._collection is Result.COMPLETE and final is not None
            data = final() if is_model and final is not None else self.replica.encode()
            self._upload = self.link.upload("model" if is_model else "checkpoint", data)
        elif self._upload.done():
            if self._upload.result():
                self._collection = None
            # Else the coordinator is gone, or cannot store it: try again.
            self._upload = None

    # --- what the coordinator says --------------------------------------------------------------

    def hello(self) -> messages.Hello:
        """Who this worker is and what it knows; called in the link's thread, under its lock."""
        me = self.participant
        return messages.Hello(
            seat=MemberAddress(
                member_id=me.member_id, address=self.rendezvous.address, node=self.node
            ),
            term=me.term,
            warm=self._replica is not None,
            heard=me.announced,
            view=me.state_view,
            progress=me.progress,
            digest=self._digest,
            stopped=me.is_stopped,
            leaving=self.is_leaving,
            halted=self._result() if me.mode is Mode.HALTED else None,
            report=self.report,
        )

    def receive(self, timeout: float = 0.0) -> None:
        """Take what has come from the coordinator; raises Ended, Fenced or WireMismatch."""
        message = self.link.receive(timeout)
        while message is not None:
            self._dispatch(message)
            message = self.link.receive()

    def check(self, view: View | None) -> None:
        """Raise CollectiveError when this worker has left `view`; called while it waits."""
        self.receive()
        if self.participant.view is not view or self.participant.mode not in (
            Mode.STEPPING,
            Mode.ENTERING,
        ):
            raise CollectiveError("the view has ended")

    def _dispatch(self, message: messages.FromCoordinator | messages.Leave) -> None:
        match message:
            case messages.Welcome():
                if message.wire != WIRE_VERSION:
                    raise WireMismatch(
                        f"the coordinator speaks wire version {message.wire}, this worker "
                        f"{WIRE_VERSION}: use images of the same release"
                    )
                self._config = self._config or messages.to_config(message.config)
                self._set_state(protocol.receive_term(self.participant, message.term))
            case messages.Announcement():
                self._react(*protocol.receive_view(self.participant, message.view))
            case messages.Halting():
                self._react(*protocol.receive_stop(self.participant))
            case messages.Fencing():
                self._be_fenced(message)
            case messages.Orders():
                plan = Plan.decode(message.plan)
                if self.offered_plan is None or plan.generation >= self.offered_plan.generation:
                    self.offered_plan = plan
            case messages.Collection():
                self._collection = message.result
            case messages.Snapshot():
                self.wants_snapshot = True
            case messages.Dismissal():
                self._say_goodbye(None)
                raise Dismissed(message.result)
            case messages.Leave():
                self._ask_to_leave()
            case _:
                assert_never(message)

    def _be_fenced(self, message: messages.Fencing) -> None:
        if message.replaced:
            raise Fenced(f"a newer worker is called {self.pod}")
        if self.participant.mode is Mode.HALTED:
            raise Fenced("training has gone on without this worker's final state")
        self._set_state(protocol.reset(self.participant, new_member_id(self.pod)))

    def _ask_to_leave(self) -> None:
        with self.link.changing():
            self.is_leaving = True
            self.link.send(messages.Leave())
        if self.participant.mode is Mode.IDLE:
            self._say_goodbye(None)
            raise Dismissed(Result.LEFT)

    def _say_goodbye(self, left_for: ViewId | None) -> None:
        self.link.send(messages.Goodbye(left_for=left_for))

    # --- views ----------------------------------------------------------------------------------

    def _react(self, me: Participant, reaction: Reaction) -> None:
        match reaction:
            case Reaction.REPORT:
                self._report_stop(me)
            case Reaction.PREPARE:
                self._set_state(me)
                if me.pending is not None and me.member_id in me.pending.member_ids:
                    self._build(me.pending)
            case Reaction.ENTER | Reaction.NOTHING:
                self._set_state(me)
            case _:
                assert_never(reaction)

    def _set_state(self, me: Participant, message: messages.Message | None = None) -> None:
        """Change what the next `Hello` says, and tell the coordinator in the same breath."""
        with self.link.changing():
            self.participant = me
            if message is not None:
                self.link.send(message)

    def _report_stop(self, me: Participant) -> None:
        if me.progress >= 0:
            self.replica.undo()
            self._digest = self.replica.digest()
        based = me.state_view.id if me.state_view else None
        report = messages.Halt(
            heard=me.announced, view=based, progress=me.progress, digest=self._digest
        )
        self._set_state(me, report)

    def _build(self, view: View) -> GroupBuilder:
        """Make the view's group, or find it in the making: a group can be made only once."""
        if view.id not in self._builders:
            self._builders[view.id] = GroupBuilder(
                view, self.participant.member_id, self.rendezvous, self.device, self.check
            )
        return self._builders[view.id]

    def _abandon_before(self, view: ViewId) -> None:
        """Bury the groups of earlier views, those that never began included."""
        for earlier in [key for key in self._builders if key < view]:
            self._builders.pop(earlier).abandon()

    def _is_prepared(self) -> bool:
        """Whether this worker is ready to switch to the pending view."""
        pending = self.participant.pending
        if pending is None:
            return False
        builder = self._builders.get(pending.id)
        is_built = builder is not None and builder.group is not None
        return is_built or self.participant.member_id not in pending.member_ids

    def _enter(self) -> None:
        """Begin the view that `me` is entering: its group first, then its state."""
        view = self.participant.view
        assert view is not None  # noqa: S101 -- what ENTERING means
        if not self.participant.is_member:
            self._say_goodbye(view.id)
            raise Dismissed(Result.LEFT)
        group = self.group = self._await_group(view)
        self._abandon_before(view.id)
        if view.transfer:
            if view.initial and view.source == self.participant.member_id:
                initialize_state(self.replica, self.link, self.offered_plan)
            takes = self.participant.progress < 0 or view.after is None
            broadcast_state(self.replica, group, view.member_ids.index(view.source), takes=takes)
        me = protocol.begin(self.participant, self.replica.iteration)
        self._set_state(me, messages.Begun(view=view, progress=me.progress))

    def _await_group(self, view: View) -> ProcessGroup:
        builder = self._build(view)
        while not builder.is_done:
            self.receive(POLL_SECONDS / 5)
            self.check(view)
        if builder.group is None:
            raise CollectiveError(str(builder.error)) from builder.error
        return builder.group

    def _follow_plan(self, generation: int) -> None:
        plan, current = self._voted_plan, self.replica.plan
        if plan is None or plan.generation != generation or plan == current:
            return
        if current is None or generation > current.generation:
            self.replica.plan = plan
            self.replica.notes["effective_step"] = self.replica.step

    # --- endings --------------------------------------------------------------------------------

    def _result(self) -> Result:
        return Result.COMPLETE if self.replica.is_over else Result.SUSPENDED


_NAMES: Final = tuple(Votes.__dataclass_fields__)


def new_member_id(pod: str) -> str:
    """A name that no earlier incarnation of this pod's worker had."""
    return f"{pod}/{secrets.token_hex(4)}"
