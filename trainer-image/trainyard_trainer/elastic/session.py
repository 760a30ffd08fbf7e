"""A worker's membership: what it knows of it, and the messages by which that changes."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from typing import Final, assert_never

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import WIRE_VERSION
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.membership import participant as protocol
from trainyard_trainer.membership.messages import (
    BuildFailed,
    CollectState,
    CoordinatorMessage,
    Dismiss,
    Exclude,
    Fence,
    Finished,
    Goodbye,
    Hello,
    LeaveRequest,
    Message,
    PlanUpdate,
    ProgressReport,
    Ready,
    SnapshotRequest,
    StopRequest,
    TaskRaised,
    Unfit,
    ViewAnnouncement,
    Welcome,
)
from trainyard_trainer.membership.participant import Participant, ParticipantPhase, Step
from trainyard_trainer.membership.views import MemberAddress, View, ViewId
from trainyard_trainer.runtime.exits import Fenced, JobFailed, MemberUnfit, WireMismatch
from trainyard_trainer.training.loop import CollectiveError
from trainyard_trainer.transport import codec
from trainyard_trainer.transport.connection import CoordinatorConnection

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.05
UNFIT_SECONDS: Final = 5.0
"""How long a worker that cannot take part waits to learn whether others train."""
REASON_CHARACTERS: Final = 2000


class Dismissed(Exception):
    """The worker may exit; not an error."""

    def __init__(self, result: Result) -> None:
        """`result` goes into the termination message."""
        super().__init__(result)
        self.result = result


class MembershipSession:
    """Keeps the worker and the coordinator in agreement, over however many connections.

    Messages change `participant`, and `act` is called with what the worker must then do about its
    views. All but `hello` runs in the training thread.
    """

    def __init__(
        self,
        connection: CoordinatorConnection,
        *,
        pod: str,
        node: str,
        rendezvous: str,
        act: Callable[[Step], None],
    ) -> None:
        """`rendezvous` is the address of this worker's store; `pod` names the worker."""
        self.connection, self.pod = connection, pod
        self.participant = Participant(member_id=new_member_id(pod))
        self.newest_plan: Plan | None = None
        """The newest plan received; in force once all members have received it."""
        self.collecting: Result | None = None
        """Set while the coordinator waits for this worker's state."""
        self.wants_snapshot = False
        self.report: ProgressReport | None = None
        """The newest report, for the next `Hello`."""
        self.digest = ""
        """Of the state at the last stop."""
        self._node, self._rendezvous, self._act = node, rendezvous, act
        self._config: JobConfig | None = None
        self._is_ready = self._is_leaving = False
        self._layout: tuple[str, ...] = ()
        self._finished: Result | None = None
        self._raised: TaskRaised | None = None

    def hello(self) -> Hello:
        """The worker's identity and knowledge; called in the connection's thread, locked."""
        me = self.participant
        return Hello(
            address=MemberAddress(
                member_id=me.member_id, rendezvous=self._rendezvous, node=self._node
            ),
            term=me.term,
            ready=self._is_ready,
            layout=self._layout,
            announced=me.announced,
            state_view=me.state_view,
            progress=me.progress,
            digest=self.digest,
            stopped=me.is_stopped,
            leaving=self._is_leaving,
            finished=self._finished,
            raised=self._raised,
            report=self.report,
        )

    # --- worker → coordinator -------------------------------------------------------------------

    def update(self, me: Participant, message: Message | None = None) -> None:
        """Change the participant and send the message that reports it, atomically."""
        with self.connection.locked():
            self.participant = me
            if message is not None:
                self.connection.send(message)

    def send_ready(self, layout: tuple[str, ...]) -> None:
        """Have the coordinator call this worker into a view from now on.

        `layout` is what it must have like all others.
        """
        with self.connection.locked():
            self._is_ready, self._layout = True, layout
            self.connection.send(Ready(layout=layout))

    def is_own_fault(self, reason: str) -> bool:
        """Report that this worker cannot take part; whether others train without it.

        False as well when no coordinator answers within `UNFIT_SECONDS`.
        """
        self.connection.send(Unfit(reason=reason[:REASON_CHARACTERS]))
        deadline = time.monotonic() + UNFIT_SECONDS
        while time.monotonic() < deadline:
            message = self.connection.receive(POLL_SECONDS)
            if isinstance(message, Exclude):
                return message.is_own_fault
        return False

    def send_build_failed(self, view: ViewId, error: Exception) -> None:
        """Report that this worker cannot prepare the pending view; it trains on."""
        reason = f"{type(error).__name__}: {error}"
        log.warning("view %d.%d cannot be prepared: %s", view.term, view.number, reason)
        self.connection.send(BuildFailed(view=view, reason=reason[:REASON_CHARACTERS]))

    def send_raised(self, raised: TaskRaised) -> None:
        """Report that the task raised here; the coordinator dismisses this worker."""
        with self.connection.locked():
            self._raised = raised
            self.connection.send(raised)

    def send_report(self, report: ProgressReport, *, only_next_hello: bool) -> None:
        """Report progress, at once or only with the next connection."""
        with self.connection.locked():
            self.report = report
            if not only_next_hello:
                self.connection.send(report)

    def send_finished(self, result: Result, digest: str) -> None:
        """Report that this worker holds the final state."""
        me = protocol.finish(self.participant)
        with self.connection.locked():
            self.participant, self.digest, self._finished = me, digest, result
            self.connection.send(Finished(result=result, progress=me.progress, digest=digest))

    def send_goodbye(self, left_for: ViewId | None) -> None:
        """Announce a clean exit, because of the switch to `left_for` where that is given."""
        self.connection.send(Goodbye(left_for=left_for))

    # --- coordinator → worker -------------------------------------------------------------------

    def await_config(self) -> JobConfig:
        """Wait for the coordinator's Welcome; the job's configuration."""
        while self._config is None:
            self.receive(POLL_SECONDS)
        return self._config

    def receive(self, timeout: float = 0.0) -> None:
        """Handle all messages that have come; raises Dismissed, or what ends the process."""
        message = self.connection.receive(timeout)
        while message is not None:
            self._dispatch(message)
            message = self.connection.receive()

    def check(self, view: View | None) -> None:
        """Raise CollectiveError when this worker has left `view`; called while it waits."""
        self.receive()
        me = self.participant
        is_inside = me.phase in (ParticipantPhase.STEPPING, ParticipantPhase.ENTERING)
        if me.view is not view or not is_inside:
            raise CollectiveError("the view has ended")

    def _dispatch(self, message: CoordinatorMessage | LeaveRequest) -> None:
        match message:
            case Welcome():
                self._on_welcome(message)
            case ViewAnnouncement():
                self._act(protocol.receive_view(self.participant, message.view))
            case StopRequest():
                self._act(protocol.receive_stop(self.participant))
            case Fence():
                self._on_fence(message)
            case Exclude():
                raise MemberUnfit(message.reason)
            case PlanUpdate():
                self._on_plan(message)
            case CollectState():
                self.collecting = message.result
            case SnapshotRequest():
                self.wants_snapshot = True
            case Dismiss():
                self.send_goodbye(None)
                if message.result is Result.FAILED:
                    raise JobFailed(message.reason)
                raise Dismissed(message.result)
            case LeaveRequest():
                self._on_leave_request()
            case _:
                assert_never(message)

    def _on_welcome(self, message: Welcome) -> None:
        if message.wire != WIRE_VERSION:
            raise WireMismatch(
                f"the coordinator speaks wire version {message.wire}, this worker "
                f"{WIRE_VERSION}: use images of the same release"
            )
        self._config = self._config or codec.decode_config(message.config)
        self.update(protocol.receive_term(self.participant, message.term))

    def _on_plan(self, message: PlanUpdate) -> None:
        try:
            plan = Plan.decode(message.plan)
        except ValueError as error:
            log.warning("ignoring a plan that this worker cannot read: %s", error)
            return
        if self.newest_plan is None or plan.generation >= self.newest_plan.generation:
            self.newest_plan = plan

    def _on_fence(self, message: Fence) -> None:
        if message.replaced:
            raise Fenced(f"a newer worker is called {self.pod}")
        if self.participant.phase is ParticipantPhase.FINISHED:
            raise Fenced("training has gone on without this worker's final state")
        self.update(protocol.reset(self.participant, new_member_id(self.pod)))

    def _on_leave_request(self) -> None:
        """Ask the coordinator to be dismissed; a worker without state exits at once."""
        with self.connection.locked():
            self._is_leaving = True
            self.connection.send(LeaveRequest())
        if self.participant.phase is ParticipantPhase.IDLE:
            self.send_goodbye(None)
            raise Dismissed(Result.LEFT)


def new_member_id(pod: str) -> str:
    """An id that no earlier incarnation of this pod's worker had."""
    return f"{pod}/{secrets.token_hex(4)}"
