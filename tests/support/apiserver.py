"""Restarting a local cluster's API server, so that its watch cache forgets what was before."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from tests.cluster.api import Api
from tests.support.waiting import eventually
from tests.support.yard import JOBS
from trainyard.cluster.client import KubeClient, collection


async def restart_api_server(kubeconfig: Path) -> None:
    """Kill the API server behind the kubeconfig and wait until its supervisor's next one serves."""
    api = Api.of(kubeconfig)
    old = _find(urlsplit(api.server).port or 0)
    os.kill(old, signal.SIGKILL)

    async def serves() -> None:
        assert api.answers("/readyz")
        assert _find(urlsplit(api.server).port or 0) != old

    await eventually(serves, 60)


async def is_gone(kube: KubeClient, version: str) -> bool:
    """Whether a watch of jobs from that resource version is refused with 410."""
    url = kube.url(f"{collection(JOBS, 'distributedjobs')}?watch=1&resourceVersion={version}")
    timeout = aiohttp.ClientTimeout(total=10)
    async with kube.session.get(url, headers=await kube.headers(), timeout=timeout) as answer:
        if answer.status == 410:
            return True
        told = msgspec.json.decode(await answer.content.readline())
        return bool(told.get("object", told).get("code") == 410)


def _find(port: int) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"--secure-port={port}".encode() in words:
                return int(entry.name)
    raise AssertionError(f"no API server of this machine listens on {port}")
