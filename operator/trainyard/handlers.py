"""Every kopf decorator: note the object, mark its key dirty.

Only `on.event`: it writes no annotation, adds no finalizer and sends no request. Each handler is a
call into the controller that is in the memo, and returns at once.
"""

from __future__ import annotations

from typing import Any, cast

import kopf

from trainyard.api import names
from trainyard.reconcile.controller import Controller


def register(registry: kopf.OperatorRegistry) -> None:
    """Put the handlers into the registry."""
    for plural in names.PLURALS.values():
        kopf.on.event(names.GROUP, names.VERSION, plural, registry=registry)(on_job)
    kopf.on.event("", "v1", "nodes", registry=registry)(on_node)
    kopf.on.login(registry=registry)(login)


async def on_job(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A job of either kind."""
    _controller(memo).job_event(event["type"], cast("dict[str, Any]", event["object"]))


async def on_node(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A node."""
    _controller(memo).node_event(event["type"], cast("dict[str, Any]", event["object"]))


async def login(memo: Any, **_: Any) -> kopf.AiohttpSession:
    """The same server, credentials and sockets as our own client's; asked again when expired."""
    client = _controller(memo).services.client
    session = client.new_session(headers=await client.headers())
    return kopf.AiohttpSession(server=client.server, aiohttp_session=session)


def _controller(memo: Any) -> Controller:
    controller: Controller = memo.controller
    return controller
