"""The parts of a run: variants of the CRD, ways to write a status, and variants of a pod."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import job_names
from benchmarks.objects.jobs import WRITES, Jobs, Object, Write, check_field_manager, merge_patch
from benchmarks.objects.measure import Figures, Meter, Summary, compare, labeled
from benchmarks.objects.pods import PodTimes, create_pods, render_pods
from benchmarks.objects.podspecs import pod_variants
from benchmarks.objects.schemas import crd_variants
from benchmarks.plane import Plane
from benchmarks.rights import distributed_job_crd
from trainyard.api import names
from trainyard_trainer.contract.env import Role

STATUSES: list[Object] = json.loads(Path(__file__).with_name("statuses.json").read_text())
"""The two statuses that the operator writes while a job of two workers starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much is measured of each variant."""

    jobs: int
    pods: int
    repeat: int
    creators: int
    role: Role
    only: str
    """Only variants whose name contains this."""

    def chosen(self, variants: Iterable[str]) -> list[str]:
        """The variants to measure."""
        return [variant for variant in variants if self.only in variant]


async def compare_schemas(plane: Plane, meter: Meter, options: Options) -> Summary:
    """The CPU per create and per status write under each variant of the CRD."""
    crds = crd_variants(distributed_job_crd())
    chosen = options.chosen(crds)

    async def measure(variant: str) -> Figures:
        group = crds[variant]["spec"]["group"]
        async with _jobs(plane, options, group) as jobs:
            await jobs.create(["first"])  # The API server compiles a CRD's rules on first use.
            await meter.quiet()
            created = await meter.per_item(options.jobs, jobs.create(job_names(options.jobs)))
            written = await _write_statuses(meter, jobs, merge_patch)
        return labeled("create", created) | labeled("status", written)

    async with plane.installed([crds[variant] for variant in chosen]):
        return await compare("CRD, CPU ms", chosen, measure, meter, options.repeat)


async def compare_writes(plane: Plane, meter: Meter, options: Options) -> Summary:
    """The CPU per status write by each way to write it."""

    async def measure(variant: str) -> Figures:
        async with _jobs(plane, options) as jobs:
            await jobs.create(job_names(options.jobs))
            await meter.quiet()
            return await _write_statuses(meter, jobs, WRITES[variant])

    chosen = options.chosen(WRITES)
    return await compare("status write, CPU ms", chosen, measure, meter, options.repeat)


async def compare_pods(plane: Plane, meter: Meter, options: Options) -> Summary:
    """The CPU per pod of each variant, and the seconds until the last pod runs."""
    async with _jobs(plane, options) as jobs:
        await jobs.create(job_names(1))
        (job,) = jobs.objects.values()
    rendered = render_pods(job, options.role)
    variants, per_job = pod_variants(rendered[0]), len(rendered)

    async def measure(variant: str) -> Figures:
        async with _jobs(plane, options) as jobs:
            await jobs.create(job_names(options.pods // per_job))
            rendered = (render_pods(job, options.role) for job in jobs.objects.values())
            pods = [variants[variant](pod) for of_job in rendered for pod in of_job]
            await meter.quiet()
            times = PodTimes()
            creation = create_pods(plane.client, jobs.namespace, pods, options.creators, times)
            return {**await meter.per_item(len(pods), creation), **times.seconds()}

    chosen = options.chosen(variants)
    return await compare("pod, CPU ms", chosen, measure, meter, options.repeat)


@contextlib.asynccontextmanager
async def _jobs(plane: Plane, options: Options, group: str = names.GROUP) -> AsyncIterator[Jobs]:
    async with plane.namespace("objects") as namespace:
        yield Jobs(plane.client, namespace, options.creators, group)


async def _write_statuses(meter: Meter, jobs: Jobs, write: Write) -> Figures:
    """Write the statuses of a start to all jobs; the CPU per write."""

    async def write_all() -> None:
        for status in STATUSES:
            await jobs.write(write, status)

    figures = await meter.per_item(len(jobs.objects) * len(STATUSES), write_all())
    for job in jobs.objects.values():
        check_field_manager(job)
    return figures
