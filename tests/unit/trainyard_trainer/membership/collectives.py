"""The collectives of the membership checker's model: entered by each, completed after all have."""

from dataclasses import replace
from typing import Any

from tests.unit.trainyard_trainer.membership.world import (
    Violation,
    Worker,
    World,
    act,
    digest,
    is_blocked,
    is_built,
    put,
    send,
)
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership import participant as protocol
from trainyard_trainer.membership.messages import Finished, ViewEntered
from trainyard_trainer.membership.participant import Votes
from trainyard_trainer.membership.views import View

LAST_STEP = 3
"""Training ends after so many iterations, which keeps the worlds finite."""


def enter_step(world: World, index: int) -> World:
    worker = world.workers[index]
    me = worker.participant
    assert me.view is not None
    is_prepared = me.pending is not None and (
        me.member_id not in me.pending.member_ids or is_built(world, me.pending)
    )
    me = protocol.vote(me, is_prepared=is_prepared)
    worker = replace(worker, participant=me)
    vote = me.ballot.id if me.ballot is not None else None
    assert me.view is not None
    collective = ("step", me.view.id, me.progress)
    entered = world.entered | {(collective, me.member_id, vote)}
    return put(replace(world, entered=entered), index, replace(worker, waiting=collective))


def enter_transfer(world: World, index: int) -> World:
    worker = world.workers[index]
    view = worker.participant.view
    assert view is not None
    collective = ("transfer", view.id)
    world = replace(world, entered=world.entered | {(collective, worker.member_id, None)})
    if view.source == worker.member_id:
        progress, lineage = worker.participant.progress, worker.lineage
        if view.initial:
            progress, lineage = world.stored or (0, (("initial", view.id),))
            worker = replace(worker, lineage=lineage)
        world = replace(world, sources=world.sources | {(view.id, progress, lineage)})
    return put(world, index, replace(worker, waiting=collective))


def have_all_entered(world: World, collective: tuple[Any, ...]) -> bool:
    view = next(v for v in world.views if v.id == collective[1])
    inside = {member_id for c, member_id, _ in world.entered if c == collective}
    return inside >= set(view.member_ids)


def complete(world: World, index: int) -> World:
    worker = world.workers[index]
    collective = worker.waiting
    assert collective is not None
    worker = replace(worker, waiting=None)
    if collective[0] == "transfer":
        return begin(world, index, _adopt(world, worker))
    view = worker.participant.view
    assert view is not None
    me = protocol.commit(worker.participant)
    worker = replace(worker, participant=me, lineage=(*worker.lineage, (me.progress, view.id)))
    if me.progress == LAST_STEP:
        return put(world, index, _finish(worker))
    votes = [Votes.of(vote, 0) for c, _, vote in world.entered if c == collective]
    summed = Votes(**{n: sum(getattr(v, n) for v in votes) for n in Votes.__dataclass_fields__})
    step = protocol.switch(me, summed.agreed_view(len(view.members)))
    return act(put(world, index, worker), index, step)


def _adopt(world: World, worker: Worker) -> Worker:
    me = worker.participant
    view = me.view
    assert view is not None
    (progress, lineage), *others = [(p, n) for v, p, n in world.sources if v == view.id]
    if others:
        raise Violation(f"{view} has had two different sources")
    if view.source == me.member_id or me.progress < 0 or view.after is None:
        if me.progress > progress:
            raise Violation(f"{me.member_id} was at {me.progress}, set back to {progress}")
        return replace(worker, lineage=lineage, participant=replace(me, progress=progress))
    return worker


def begin(world: World, index: int, worker: Worker) -> World:
    me = protocol.begin(worker.participant, worker.participant.progress)
    assert me.view is not None
    worker = replace(worker, participant=me, building=None)
    worker = send(worker, ViewEntered(view=me.view, progress=me.progress))
    return put(world, index, _finish(worker) if me.progress == LAST_STEP else worker)


def _finish(worker: Worker) -> Worker:
    me = protocol.finish(worker.participant)
    worker = replace(worker, participant=me, building=None)
    finished = Finished(result=Result.COMPLETE, progress=me.progress, digest=digest(worker))
    return send(worker, finished)


def can_fail(world: World, worker: Worker) -> bool:
    """Whether a wait may raise: a member's process is gone, or has been awaited for too long."""
    assert worker.participant.view is not None
    return is_hopeless(world, worker.participant.view)


def is_hopeless(world: World, view: View) -> bool:
    """Whether the members of a view wait for one that will not come."""
    gone = {w.member_id for w in world.workers if not w.alive or w.hanging or w.raised is not None}
    current = {w.member_id for w in world.workers} - gone
    return not current >= set(view.member_ids) or is_blocked(world, view)
