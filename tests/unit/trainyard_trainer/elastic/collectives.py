"""The collectives of the membership checker's model: entered by each, completed after all have."""

from dataclasses import replace
from typing import Any

from tests.unit.trainyard_trainer.membership.world import (
    Violation,
    Worker,
    World,
    digest,
    is_built,
    put,
    react,
    tell,
)
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership import events as nouns
from trainyard_trainer.membership import participant
from trainyard_trainer.membership.participant import Votes

LAST_TURN = 3
"""Training ends after so many turns, which keeps the worlds finite."""


def turn_entered(world: World, index: int) -> World:
    worker = world.workers[index]
    me = worker.me
    assert me.view is not None
    is_prepared = me.pending is not None and (
        me.member_id not in me.pending.member_ids or is_built(world, me.pending)
    )
    me = participant.vote(me, is_prepared=is_prepared)
    worker = replace(worker, me=me)
    vote = me.ballot.id if me.ballot is not None else None
    assert me.view is not None
    collective = ("turn", me.view.id, me.progress)
    entered = world.entered | {(collective, me.member_id, vote)}
    return put(replace(world, entered=entered), index, replace(worker, waiting=collective))


def transfer_entered(world: World, index: int) -> World:
    worker = world.workers[index]
    view = worker.me.view
    assert view is not None
    collective = ("transfer", view.id)
    world = replace(world, entered=world.entered | {(collective, worker.me.member_id, None)})
    if view.source == worker.me.member_id:
        progress, lineage = worker.me.progress, worker.lineage
        if view.initial:
            progress, lineage = world.stored or (0, (("birth", view.id),))
            worker = replace(worker, lineage=lineage)
        world = replace(world, sources=world.sources | {(view.id, progress, lineage)})
    return put(world, index, replace(worker, waiting=collective))


def has_all(world: World, collective: tuple[Any, ...]) -> bool:
    view = next(v for v in world.views if v.id == collective[1])
    inside = {ident for c, ident, _ in world.entered if c == collective}
    return inside >= set(view.member_ids)


def completed(world: World, index: int) -> World:
    worker = world.workers[index]
    collective = worker.waiting
    assert collective is not None
    worker = replace(worker, waiting=None)
    if collective[0] == "transfer":
        return begun(world, index, _adopt(world, worker))
    view = worker.me.view
    assert view is not None
    me = participant.commit(worker.me)
    worker = replace(worker, me=me, lineage=(*worker.lineage, (me.progress, view.id)))
    if me.progress == LAST_TURN:
        return put(world, index, _halted(worker))
    cast = [Votes.of(vote, 0) for c, _, vote in world.entered if c == collective]
    summed = Votes(**{n: sum(getattr(v, n) for v in cast) for n in Votes.__dataclass_fields__})
    step = participant.switch(me, summed.agreed_view(len(view.members)))
    return react(put(world, index, worker), index, step)


def _adopt(world: World, worker: Worker) -> Worker:
    view = worker.me.view
    assert view is not None
    (progress, lineage), *others = [(p, n) for v, p, n in world.sources if v == view.id]
    if others:
        raise Violation(f"{view} has had two different sources")
    is_source = view.source == worker.me.member_id
    if is_source or worker.me.progress < 0 or view.after is None:
        if worker.me.progress > progress:
            raise Violation(
                f"{worker.me.member_id} was at {worker.me.progress}, set back to {progress}"
            )
        return replace(worker, lineage=lineage, me=replace(worker.me, progress=progress))
    return worker


def begun(world: World, index: int, worker: Worker) -> World:
    me = participant.begin(worker.me, worker.me.progress)
    assert me.view is not None
    worker = replace(worker, me=me, building=None)
    began = nouns.Began(ident=me.member_id, view=me.view, progress=me.progress)
    worker = tell(worker, began)
    return put(world, index, _halted(worker) if me.progress == LAST_TURN else worker)


def _halted(worker: Worker) -> Worker:
    me = participant.halt(worker.me)
    worker = replace(worker, me=me, building=None)
    finished = nouns.Halted(
        ident=me.member_id, result=Result.COMPLETE, progress=me.progress, digest=digest(worker)
    )
    return tell(worker, finished)


def can_fail(world: World, worker: Worker) -> bool:
    """Whether a wait may raise: a member's process is gone, so its connections are closed."""
    view = worker.me.view
    assert view is not None
    alive = {w.me.member_id for w in world.workers if w.alive}
    return not alive >= set(view.member_ids)
