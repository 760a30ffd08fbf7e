"""A mutating webhook that delays each creation of a pod in its namespace."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import ssl

from aiohttp import web

from tests.hostile.actor import Actor
from tests.support.process import free_port
from tests.support.waiting import eventually
from tools.localcluster.credentials import Authority

JOBS = 12
SECONDS = 8
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


class SlowWebhook(Actor):
    """Registers a webhook on the loopback interface, for its own namespace alone."""

    name = "slow-webhook"
    gpus = (0,)

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Start the webhook's server."""
        await super().open(stack)
        self._calls, self._port = 0, free_port()
        authority = Authority(self.surroundings.folder / self.testbed.namespace)
        leaf = authority.issue("webhook", "webhook", hosts=("127.0.0.1",))
        self._authority = base64.b64encode(authority.pair.certificate.read_bytes()).decode()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(leaf.certificate, leaf.key)
        app = web.Application(client_max_size=2**22)
        app.router.add_post("/", self._admit)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", self._port, ssl_context=context).start()

    async def act(self, rng: random.Random) -> None:
        """Register the webhook, submit jobs, and remove both once some of their pods wait."""
        before = self._calls
        path = f"{CONFIGURATIONS}/{self.testbed.namespace}"
        await self.client.create(CONFIGURATIONS, self._configuration())
        try:
            for _ in range(JOBS):
                await self.submit("slow", rng.randint(1, 8), gpus=0)

            async def is_called() -> None:
                assert self._calls > before, "the API server does not call the webhook"

            await eventually(is_called)
            await asyncio.sleep(rng.uniform(3, 10))
        finally:
            await self.client.delete(path)
        await self.clear()

    async def _admit(self, request: web.Request) -> web.Response:
        self._calls += 1
        review = await request.json()
        await asyncio.sleep(SECONDS)
        response = {"uid": review["request"]["uid"], "allowed": True}
        return web.json_response({**review, "request": None, "response": response})

    def _configuration(self) -> dict[str, object]:
        namespace = self.testbed.namespace
        pods = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
        webhook = {
            "name": "slow.hostile.example",
            "clientConfig": {
                "url": f"https://127.0.0.1:{self._port}/",
                "caBundle": self._authority,
            },
            "rules": [{**pods, "operations": ["CREATE"]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "failurePolicy": "Ignore",
            "timeoutSeconds": SECONDS + 2,
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        return {"metadata": {"name": namespace}, "webhooks": [webhook]}
