"""`python -m benchmarks.reconcile`: how fast the operator brings jobs up, beside a bare client."""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.burst import burst
from benchmarks.churn import Churn, churn
from benchmarks.controllers import bare_client, operator
from benchmarks.idle import Idle, measure_idle, measure_scale
from benchmarks.plane import Plane, open_plane, simulated_cluster
from benchmarks.report import Burst
from benchmarks.results import Results, as_document
from benchmarks.rights import TREE
from benchmarks.template import Template, record
from tools.localcluster import Cluster

SWEEP = (100, 500, 1000, 2000)
CHURN_JOBS = 1000
IN_FLIGHT = (16, 32, 64)
"""Requests under way at once that a bare client is tried with; its best counts."""

console = Console(highlight=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is to be measured."""

    sizes: tuple[int, ...]
    repeat: int
    creators: int
    with_idle: bool
    with_churn: bool
    against: Path | None
    """Another tree, whose operator is measured beside this one's."""


def main(
    jobs: Annotated[int, typer.Option(help="Jobs of one burst.", min=1)] = 1000,
    sweep: Annotated[bool, typer.Option(help="100, 500, 1,000 and 2,000 jobs, and churn.")] = False,
    repeat: Annotated[int, typer.Option(help="Runs of each burst.", min=1)] = 1,
    creators: Annotated[int, typer.Option(help="Clients that create jobs at once.", min=1)] = 16,
    idle: Annotated[bool, typer.Option(help="Also one job at a time, 20 times.")] = True,
    churn: Annotated[bool, typer.Option(help="Also the churn run.")] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="A checkout of another version to compare with.", exists=True),
    ] = None,
    stock_limits: Annotated[bool, typer.Option(help="Client limits as shipped.")] = False,
    name: Annotated[str, typer.Option(help="The cluster's name.")] = "trainyard-bench",
    deadline: Annotated[int, typer.Option(help="Give up after so many minutes.", min=1)] = 90,
) -> None:
    """Measure, report as it goes, and print all figures as JSON on the last line."""
    options = Options(
        sizes=SWEEP if sweep else (jobs,),
        repeat=repeat,
        creators=creators,
        with_idle=idle,
        with_churn=churn or sweep,
        against=against.resolve() if against else None,
    )
    most = max(*options.sizes, CHURN_JOBS if options.with_churn else 0)
    with (
        tempfile.TemporaryDirectory(prefix="trainyard-bench-") as folder,
        simulated_cluster(name, most, stock_limits=stock_limits) as cluster,
    ):
        results = asyncio.run(_measured(cluster, Path(folder), options, deadline * 60))
    print(json.dumps({"stock_limits": stock_limits, **as_document(results)}))


async def _measured(cluster: Cluster, folder: Path, options: Options, seconds: int) -> Results:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with asyncio.timeout(seconds), open_plane(cluster, folder) as plane:
        run = _Run(plane, options)
        try:
            await run.measure()
        finally:
            await plane.restore_crds()
    return run.results


class _Run:
    """One run of the benchmark."""

    def __init__(self, plane: Plane, options: Options) -> None:
        self._plane, self._options = plane, options
        self.results = Results()

    async def measure(self) -> None:
        """Measure all that the options ask for."""
        template = await self._first_operator()
        if self._options.with_idle:
            self.results.idle_floor = await self._idle_client(template)
            self.results.idle_bare_pods = await self._idle_client(template.bare())
            self._report_idle()
        for jobs in self._options.sizes:
            await self._bursts(template, jobs)
        if self._options.with_churn:
            await self._churn()

    async def _first_operator(self) -> Template:
        """Record the requests for one job; then the figures of an idle system."""
        plane = self._plane
        async with plane.environment() as environment:
            access = environment.kubeconfig, environment.operator_namespace, plane.folder
            recording = plane.folder / "requests.jsonl"
            with operator(*access, recording=recording):
                template = await record(plane.client, environment, recording)
            if self._options.with_idle:
                with operator(*access):
                    self.results.idle = await measure_idle(plane, environment)
                    self.results.scale = await measure_scale(plane, environment)
        return template

    async def _idle_client(self, template: Template) -> Idle:
        plane = self._plane
        async with plane.environment() as environment:
            moved = template.moved(environment)
            with bare_client(environment.kubeconfig, moved, plane.folder, IN_FLIGHT[0]) as client:
                return await measure_idle(plane, environment, client.pods)

    async def _bursts(self, template: Template, jobs: int) -> None:
        """Bursts of one size; every second iteration is in the reverse order."""
        floor, bare = template, template.bare()
        results = self.results
        floor_in_flight = await self._fastest(floor, jobs, results.floor)
        bare_in_flight = await self._fastest(bare, jobs, results.bare_pods)
        for iteration in range(self._options.repeat):
            bursts = [self._operator_burst(TREE, jobs, results.operator)]
            if self._options.against:
                bursts.insert(0, self._operator_burst(self._options.against, jobs, results.other))
            if iteration:
                bursts.insert(0, self._client_burst(bare, jobs, bare_in_flight, results.bare_pods))
                bursts.insert(0, self._client_burst(floor, jobs, floor_in_flight, results.floor))
            for measured in reversed(bursts) if iteration % 2 else bursts:
                await measured

    async def _fastest(self, template: Template, jobs: int, bursts: list[Burst]) -> int:
        """How many requests under way suit the bare client best."""
        for in_flight in IN_FLIGHT:
            await self._client_burst(template, jobs, in_flight, bursts)
        speeds = [b.jobs_per_second for b in bursts[-len(IN_FLIGHT) :]]
        return IN_FLIGHT[speeds.index(max(speeds))]

    async def _client_burst(
        self, template: Template, jobs: int, in_flight: int, bursts: list[Burst]
    ) -> None:
        plane = self._plane
        async with plane.environment() as environment:
            moved = template.moved(environment)
            with bare_client(environment.kubeconfig, moved, plane.folder, in_flight) as controller:
                result = await burst(plane, environment, controller, jobs, self._options.creators)
        bursts.append(result)
        _report(result)

    async def _operator_burst(self, tree: Path, jobs: int, bursts: list[Burst]) -> None:
        plane = self._plane
        async with plane.environment(tree) as environment:
            access = environment.kubeconfig, environment.operator_namespace, plane.folder
            with operator(*access, tree=tree) as controller:
                result = await burst(plane, environment, controller, jobs, self._options.creators)
        bursts.append(result)
        _report(result)

    async def _churn(self) -> None:
        plane = self._plane
        async with plane.environment() as environment:
            access = environment.kubeconfig, environment.operator_namespace, plane.folder
            with operator(*access) as controller:
                result = await churn(
                    plane, environment, controller, CHURN_JOBS, self._options.creators
                )
        self.results.churn = result
        _report_churn(result)

    def _report_idle(self) -> None:
        results = self.results
        console.print(f"idle, operator: {results.idle}\nidle, floor: {results.idle_floor}")
        console.print(f"idle, bare pods: {results.idle_bare_pods}\nscale 1 → 4: {results.scale}")


def _report(b: Burst) -> None:
    console.print(
        f"{b.jobs} jobs, {b.controller}: {b.jobs_per_second} jobs/s"
        f"; pods {b.pods.p50}/{b.pods.last} s"
        f", Running {b.running.p50}/{b.running.last} s, status {b.status.p50}/{b.status.last} s"
        f"; {b.cpu_ms_per_job} ms CPU (+{b.cpu_ms_per_job_after} after), {b.kb_per_job} KB"
        f", {b.requests_per_job} requests a job"
    )
    console.print(
        f"  plane: {b.plane_cpu_ms_per_job} ms: {b.plane_cpu_ms_per_job_by_component}"
        f"; {b.plane_requests_per_job}",
        style="dim",
    )


def _report_churn(result: Churn) -> None:
    console.print(
        f"churn: {result.disturbed} of {result.jobs} jobs reached their desired state after"
        f" {result.seconds} s, {result.operator_cpu_ms_per_disturbed} ms CPU each"
    )


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
