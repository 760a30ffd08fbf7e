"""A worker among others: it enters views, reduces with them, and mends what breaks.

This is the seam behind which the engine may become faster. The loop computes and commits; the crew
decides with whom. All of it runs in the training thread; only the making of groups and the
connection to the coordinator have threads of their own.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, assert_never

import aiohttp
import torch
from torch import Tensor

from trainyard_trainer.contract import WIRE_VERSION, JobConfig, Plan, Result
from trainyard_trainer.elastic.group import Broken, Collective, Group, Rendezvous, Solo
from trainyard_trainer.membership import participant as protocol
from trainyard_trainer.membership.nouns import Seat, View, ViewId
from trainyard_trainer.membership.participant import Mode, Participant, Reaction, Votes
from trainyard_trainer.process import Fenced, TaskInvalid, WireMismatch
from trainyard_trainer.replica import Replica, Work
from trainyard_trainer.transport import messages
from trainyard_trainer.transport.link import Link

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.05
VOTES: Final = 6
"""The length of `Votes` at the front of the control vector."""


class Ended(Exception):
    """The worker has been let go; not an error."""

    def __init__(self, result: Result) -> None:
        """`result` is what its last words will say."""
        super().__init__(result)
        self.result = result


class Builder:
    """Makes a view's group in a thread of its own, while the old group trains."""

    def __init__(self, crew: Crew, view: View) -> None:
        """Start at once."""
        self.view = view
        self.group: Group | None = Solo() if len(view.seats) == 1 else None
        self.error: Exception | None = None
        if self.group is None:
            name = f"view-{view.id.number}"
            threading.Thread(target=self._build, args=(crew,), name=name, daemon=True).start()

    @property
    def is_done(self) -> bool:
        """Whether there is a group, or never will be."""
        return self.group is not None or self.error is not None

    def _build(self, crew: Crew) -> None:
        view = self.view
        rank, size = view.idents.index(crew.me.ident), len(view.seats)
        prefix = f"{view.id.term}.{view.id.number}"
        try:
            made = crew.rendezvous.meet(view.seats[0].address, prefix, rank, size, crew.device)
            self.group = Collective(made, lambda: crew.check(view))
        except RuntimeError as error:
            self.error = error


class Crew:
    """The worker's place in its job, from the first view to the last word."""

    def __init__(self, link: Link, rendezvous: Rendezvous, pod: str, node: str) -> None:
        """`pod` names the worker; `node` is where it runs."""
        self.link, self.rendezvous = link, rendezvous
        self.pod, self.node = pod, node
        self.me = Participant(ident=new_ident(pod))
        self.device = torch.device("cpu")
        self.group: Group = Solo()
        self.offered: Plan | None = None
        """The newest plan heard of; in force once all have heard of it."""
        self.is_leaving = False
        self.wants_snapshot = False
        self.report: messages.Report | None = None
        """What the next `Hello` says of training."""
        self._config: JobConfig | None = None
        self._replica: Replica | None = None
        self._builder: Builder | None = None
        self._collection: Result | None = None
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
            self.hear(POLL_SECONDS)
        return self._config

    def bring(self, replica: Replica) -> None:
        """Offer a warm replica: from now on the worker can be called into a view."""
        with self.link.changing():
            self._replica, self.device = replica, replica.device
            self.link.tell(messages.Ready())

    def settle(self) -> Group:
        """Wait until this worker is in a view and has its state."""
        while True:
            while self.me.mode is not Mode.ENTERING:
                self.hear(POLL_SECONDS)
            try:
                return self._enter()
            except Broken as error:
                log.warning("view %s has broken: %s", self.me.view, error)
                self._react(*protocol.fail(self.me))

    def recover(self) -> Group:
        """The view has broken under a turn: forget the turn, and settle in another view."""
        if self.me.mode is Mode.STEPPING:
            self._react(*protocol.fail(self.me))
        return self.settle()

    def reduce(self, work: Work) -> tuple[Tensor, Votes]:
        """Sum the turn's work over all members; raises Broken.

        The control vector goes last and so decides: who has its sum has the turn's, and who has
        not can be sure that nobody is further than one turn ahead.
        """
        self.hear()
        self.check(self.me.view)
        if work.gradients:
            self.group.sum(*work.gradients)
        for buffer in work.buffers:
            self.group.send(buffer, 0)
        mine = Votes.of(self._prepared(), self.offered.generation if self.offered else 0)
        votes = torch.tensor(list(_values(mine)), dtype=torch.float64)
        control = torch.cat([votes, work.totals]).to(self.device)
        self.group.sum(control)
        control = control.cpu()
        return control[VOTES:], Votes(**dict(zip(_NAMES, control[:VOTES].tolist(), strict=True)))

    def boundary(self, votes: Votes) -> Group:
        """After a committed turn: follow a new plan or a new view when all are ready for it."""
        size = self.group.size
        with self.link.changing():
            self.me = protocol.commit(self.me)
        self._follow_plan(votes.agreed_plan(size))
        self.hear()
        if self.me.mode is not Mode.STEPPING:
            return self.group  # Asked to stop: the next turn finds out.
        if self.is_done:
            return self.group
        self.me, reaction = protocol.switch(self.me, votes.agreed_view(size))
        return self.settle() if reaction is Reaction.ENTER else self.group

    @property
    def is_done(self) -> bool:
        """Whether training has come to its end, or to a suspension."""
        plan = self.replica.plan
        return self.replica.is_over or (plan is not None and plan.suspend)

    def conclude(self, final: Callable[[], bytes]) -> Result:
        """Say that this worker holds the final state, send it in when asked, and be let go.

        `final` makes the model file of a complete training.
        """
        self._digest = self.replica.digest()
        with self.link.changing():
            self.me = protocol.halt(self.me)
            self.link.tell(self._finished())
        while True:
            try:
                self.hear(POLL_SECONDS)
            except Ended as end:
                return end.result
            if self._collection is not None:
                kind = "model" if self._collection is Result.COMPLETE else "checkpoint"
                self._collection = None
                self.link.upload(kind, final() if kind == "model" else self.replica.encode())

    # --- what the coordinator says --------------------------------------------------------------

    def hello(self) -> messages.Hello:
        """Who this worker is and what it knows; called in the link's thread, under its lock."""
        me = self.me
        return messages.Hello(
            seat=Seat(ident=me.ident, address=self.rendezvous.address, node=self.node),
            term=me.term,
            warm=self._replica is not None,
            heard=me.heard,
            view=me.based,
            progress=me.progress,
            digest=self._digest,
            stopped=me.is_stopped,
            leaving=self.is_leaving,
            halted=self._result() if me.mode is Mode.HALTED else None,
            report=self.report,
        )

    def hear(self, timeout: float = 0.0) -> None:
        """Take what has come from the coordinator; raises Ended, Fenced or WireMismatch."""
        message = self.link.hear(timeout)
        while message is not None:
            self._take(message)
            message = self.link.hear()
        if self._collection is not None and self.me.mode is not Mode.HALTED:
            # The last worker leaves: its state would be lost with it.
            self._collection = None
            self.link.upload("checkpoint", self.replica.encode())

    def check(self, view: View | None) -> None:
        """Raise Broken when this worker is not in `view` any more; called while it waits."""
        self.hear()
        if self.me.view is not view or self.me.mode not in (Mode.STEPPING, Mode.ENTERING):
            raise Broken("the view has ended")

    def _take(self, message: messages.FromCoordinator | messages.Leave) -> None:
        match message:
            case messages.Welcome():
                if message.wire != WIRE_VERSION:
                    raise WireMismatch(f"the coordinator speaks wire version {message.wire}")
                self._config = self._config or messages.to_config(message.config)
                with self.link.changing():
                    self.me = protocol.hear_term(self.me, message.term)
            case messages.Announcement():
                self._react(*protocol.hear_view(self.me, message.view))
            case messages.Halting():
                self._react(*protocol.hear_stop(self.me))
            case messages.Fencing():
                self._be_fenced(message)
            case messages.Orders():
                plan = Plan.decode(message.plan)
                if self.offered is None or plan.generation >= self.offered.generation:
                    self.offered = plan
            case messages.Collection():
                self._collection = message.result
            case messages.Snapshot():
                self.wants_snapshot = True
            case messages.Dismissal():
                self._say_goodbye(None)
                raise Ended(message.result)
            case messages.Leave():
                self._ask_to_leave()
            case _:
                assert_never(message)

    def _be_fenced(self, message: messages.Fencing) -> None:
        if message.replaced:
            raise Fenced(f"a newer worker is called {self.pod}")
        with self.link.changing():
            self.me = protocol.reset(self.me, new_ident(self.pod))

    def _ask_to_leave(self) -> None:
        with self.link.changing():
            self.is_leaving = True
            self.link.tell(messages.Leave())
        if self.me.mode is Mode.IDLE:
            self._say_goodbye(None)
            raise Ended(Result.LEFT)

    def _say_goodbye(self, left_for: ViewId | None) -> None:
        self.link.tell(messages.Goodbye(left_for=left_for))

    # --- views ----------------------------------------------------------------------------------

    def _react(self, me: Participant, reaction: Reaction) -> None:
        with self.link.changing():
            self.me = me
            match reaction:
                case Reaction.PREPARE:
                    assert me.pending is not None  # noqa: S101 -- what PREPARE means
                    if me.ident in me.pending.idents:
                        self._builder = Builder(self, me.pending)
                case Reaction.REPORT:
                    self._report_stop()
                case Reaction.ENTER | Reaction.NOTHING:
                    pass
                case _:
                    assert_never(reaction)

    def _report_stop(self) -> None:
        if self.me.progress >= 0:
            self.replica.undo()
            self._digest = self.replica.digest()
        based = self.me.based.id if self.me.based else None
        self.link.tell(
            messages.Halt(
                heard=self.me.heard, view=based, progress=self.me.progress, digest=self._digest
            )
        )

    def _prepared(self) -> ViewId | None:
        """The pending view, once this worker is ready to switch to it."""
        pending, builder = self.me.pending, self._builder
        if pending is None:
            return None
        if self.me.ident not in pending.idents:
            return pending.id
        ready = builder is not None and builder.view is pending and builder.group is not None
        return pending.id if ready else None

    def _enter(self) -> Group:
        """Begin the view that `me` is entering: its group first, then its state."""
        view = self.me.view
        assert view is not None  # noqa: S101 -- what ENTERING means
        if not self.me.is_member:
            self._say_goodbye(view.id)
            raise Ended(Result.LEFT)
        group = self._await_group(view)
        self.group.bury()
        self.group = group
        if view.transfer:
            self._transfer(view, group)
        with self.link.changing():
            self.me = protocol.begin(self.me, self.replica.turn)
            self.link.tell(messages.Begun(view=view, progress=self.me.progress))
        return group

    def _await_group(self, view: View) -> Group:
        if self._builder is None or self._builder.view is not view:
            self._builder = Builder(self, view)
        builder = self._builder
        while not builder.is_done:
            self.hear(POLL_SECONDS / 5)
            self.check(view)
        if builder.group is None:
            raise Broken(str(builder.error)) from builder.error
        return builder.group

    def _transfer(self, view: View, group: Group) -> None:
        """Take over the source's state: a header with its length, then one flat buffer."""
        is_source = view.source == self.me.ident
        if is_source and view.birth:
            self._make_state()
        data = self.replica.encode() if is_source else b""
        root = view.idents.index(view.source)
        length = torch.tensor([len(data)], dtype=torch.int64, device=self.device)
        group.send(length, root)
        held = bytearray(data) if is_source else bytearray(int(length))
        flat = torch.frombuffer(held, dtype=torch.uint8).to(self.device)
        group.send(flat, root)
        if not is_source and (self.me.progress < 0 or view.after is None):
            self.replica.restore(flat.cpu().numpy().tobytes())

    def _make_state(self) -> None:
        """The first state of all: the newest checkpoint, else what the task starts from."""
        try:
            data = self.link.download()
            init = self._read_init() if data is None else None
        except (aiohttp.ClientError, OSError) as error:
            raise Broken(f"the coordinator did not answer: {error}") from error
        if data is not None:
            self.replica.restore(data)
        elif init is not None:
            self.replica.start_from(init, self.replica.config.init)
        plan = self.offered or self.replica.plan
        self.replica.plan = plan and replace(plan, suspend=self.offered is plan and plan.suspend)
        self.replica.notes.setdefault("born_at", time.time())

    def _read_init(self) -> bytes | None:
        """The job's starting model: a file of this image, or one in the coordinator's keeping."""
        path = self.replica.config.init
        if not path:
            return None
        if Path(path).is_file():
            return Path(path).read_bytes()
        data = self.link.download("init")
        if data is None:
            raise TaskInvalid(f"training.init: there is no file {path}")
        return data

    def _follow_plan(self, generation: int) -> None:
        plan, current = self.offered, self.replica.plan
        if plan is None or plan.generation != generation or plan == current:
            return
        if current is None or generation > current.generation:
            self.replica.plan = plan
            self.replica.notes["effective_step"] = self.replica.step

    # --- endings --------------------------------------------------------------------------------

    def _result(self) -> Result:
        return Result.COMPLETE if self.replica.is_over else Result.SUSPENDED

    def _finished(self) -> messages.Finished:
        return messages.Finished(
            result=self._result(), progress=self.me.progress, digest=self._digest
        )


_NAMES: Final = tuple(Votes.__dataclass_fields__)


def _values(votes: Votes) -> list[float]:
    return [getattr(votes, name) for name in _NAMES]


def new_ident(pod: str) -> str:
    """A name that no earlier incarnation of this pod's worker had."""
    return f"{pod}/{secrets.token_hex(4)}"
