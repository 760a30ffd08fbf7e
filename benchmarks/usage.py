"""What processes use: CPU, memory, and requests as the API server counts them."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_PROCESSES = (*PLANE, "kwok")
_SAMPLE_SECONDS = 0.1
_REQUESTS = re.compile(r"^apiserver_request_total\{(?P<labels>.*)\} (?P<count>\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(slots=True)
class Usage:
    """CPU and memory of one process."""

    process: psutil.Process
    idle_rss: int = 0
    peak_rss: int = 0

    @classmethod
    def of(cls, pid: int) -> Usage:
        """The process as it is now, idle."""
        process = psutil.Process(pid)
        rss = process.memory_info().rss
        return cls(process=process, idle_rss=rss, peak_rss=rss)

    @property
    def cpu_seconds(self) -> float:
        """CPU used so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    @property
    def rss(self) -> int:
        """Resident bytes now."""
        return int(self.process.memory_info().rss)

    async def sample(self) -> None:
        """Follow the resident memory until cancelled."""
        while True:
            self.peak_rss = max(self.peak_rss, self.rss)
            await asyncio.sleep(_SAMPLE_SECONDS)


def plane_cpu_seconds(marker: str) -> dict[str, float]:
    """CPU used so far by each component of the plane whose command line has the marker in it."""
    used: Counter[str] = Counter()
    for process in psutil.process_iter(["name", "cmdline", "cpu_times"]):
        command = process.info["cmdline"] or []
        name = next((n for n in _PROCESSES if command and command[0].endswith(n)), None)
        if name is not None and any(marker in argument for argument in command):
            times = process.info["cpu_times"]
            used[name] += times.user + times.system
    return dict(used)


def difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """How much each counter has grown."""
    return {name: value - before.get(name, 0) for name, value in after.items()}


def count_requests(metrics: str) -> Counter[str]:
    """Requests that an API server has answered, as `VERB resource`, watches and leases apart."""
    counts: Counter[str] = Counter()
    for line in metrics.splitlines():
        if match := _REQUESTS.match(line):
            labels = dict(_LABEL.findall(match["labels"]))
            if labels.get("verb") == "WATCH" or labels.get("resource") in ("leases", ""):
                continue
            resource = "/".join(filter(None, (labels["resource"], labels.get("subresource"))))
            counts[f"{labels['verb']} {resource}"] += int(float(match["count"]))
    return counts
