"""kopf's handlers: each passes what kopf saw to the controller and returns at once.

kopf watches our own kinds; informers watch Kubernetes' own, pods and nodes. Only `on.event` is used
for resources: it writes no annotation, adds no finalizer and sends no request.
"""

from __future__ import annotations

from typing import Any, cast

import kopf

from trainyard.api import names
from trainyard.cluster.transport import job_session
from trainyard.reconcile.controller import Controller
from trainyard.settings import configure


@kopf.on.startup()
async def startup(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Reduce kopf to watching before it begins to watch."""
    configure(settings)


@kopf.on.login()
async def login(memo: Any, **_: Any) -> kopf.AiohttpSession:
    """Use the server, credentials and sockets of our own client; called again when they expire."""
    deps = _controller(memo).deps
    session = await job_session(deps.client, deps.activity)
    return kopf.AiohttpSession(server=deps.client.server, aiohttp_session=session)


@kopf.on.event(names.GROUP, names.VERSION, names.FEDERATED_JOBS)
@kopf.on.event(names.GROUP, names.VERSION, names.DISTRIBUTED_JOBS)
async def on_job(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A job of either kind was listed, added, modified or deleted."""
    found = cast("dict[str, Any]", event["object"])
    _controller(memo).job_event(event["type"], found["encoded"])


def _controller(memo: Any) -> Controller:
    controller: Controller = memo.controller
    return controller
