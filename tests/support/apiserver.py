"""Restarting a local cluster's API server, so that its watch cache loses older versions."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from tests.support.waiting import eventually
from tools.localcluster.api import Api
from trainyard.api.names import API_VERSION
from trainyard.cluster.client import KubeClient, collection


async def restart_api_server(kubeconfig: Path) -> None:
    """Kill the API server of a kubeconfig and wait until its supervisor has restarted it."""
    api = Api.of(kubeconfig)
    old_pid = _pid_of(urlsplit(api.server).port or 0)
    os.kill(old_pid, signal.SIGKILL)

    async def restarted() -> None:
        assert api.answers("/readyz")
        assert _pid_of(urlsplit(api.server).port or 0) != old_pid

    await eventually(restarted, 60)


async def wait_until_expired(kube: KubeClient, version: str) -> None:
    """Wait until a watch of jobs from that resource version returns 410 Gone."""
    url = kube.url(
        f"{collection(API_VERSION, 'distributedjobs')}?watch=1&resourceVersion={version}"
    )
    timeout = aiohttp.ClientTimeout(total=10)

    async def expired() -> None:
        async with kube.session.get(url, headers=await kube.headers(), timeout=timeout) as response:
            line = await response.content.readline()
        # As the response itself or as the first event; 429 before the watch cache is filled.
        event = msgspec.json.decode(line) if line.startswith(b"{") else {}
        assert event.get("object", event).get("code") == 410, line

    await eventually(expired)


def _pid_of(port: int) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"--secure-port={port}".encode() in arguments:
                return int(entry.name)
    raise AssertionError(f"no API server of this machine listens on {port}")
