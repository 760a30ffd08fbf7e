"""Restarting a local cluster's API server, with its storage or with an older copy of it."""

from __future__ import annotations

import os
import shutil
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


class EtcdBackup:
    """A copy of the storage of a kubeconfig's API server, as it was when this was made."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        """`folder` does not exist yet."""
        self._kubeconfig, self._folder = kubeconfig, folder
        server = _pid_of(urlsplit(Api.of(kubeconfig).server).port or 0)
        self._url = _argument(server, "--etcd-servers")
        pid = self._pid()
        self._data = Path(_argument(pid, "--data-dir"))
        os.kill(pid, signal.SIGSTOP)
        try:
            shutil.copytree(self._data, folder)
        finally:
            os.kill(pid, signal.SIGCONT)

    async def restore(self) -> None:
        """Put the copy in the place of the storage, and restart etcd and the API server."""
        pid = self._pid()
        os.kill(pid, signal.SIGSTOP)
        self._data.rename(self._data.with_suffix(".replaced"))
        shutil.copytree(self._folder, self._data)
        os.kill(pid, signal.SIGKILL)
        await restart_api_server(self._kubeconfig)

    def _pid(self) -> int:
        return _pid_with(f"--listen-client-urls={self._url}")


def _argument(pid: int, name: str) -> str:
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    [value] = [a.removeprefix(f"{name}=") for a in arguments if a.startswith(f"{name}=")]
    return value


def _pid_of(port: int) -> int:
    return _pid_with(f"--secure-port={port}")


def _pid_with(argument: str) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if argument.encode() in arguments:
                return int(entry.name)
    raise AssertionError(f"no process of this machine has the argument {argument}")
