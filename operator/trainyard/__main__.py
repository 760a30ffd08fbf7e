"""The composition root: `python -m trainyard` is the operator, in a pod or beside a kubeconfig."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import kopf
import typer

from trainyard import __version__, handlers, logs, settings
from trainyard.api.durations import parse_duration
from trainyard.api.pods import PodObject
from trainyard.cluster.authorities import Authorities
from trainyard.cluster.cache import ClusterCache
from trainyard.cluster.client import KubeClient, collection
from trainyard.cluster.coordinator import Coordinators
from trainyard.cluster.leaderelection import LeaseTimings
from trainyard.cluster.lease import Election, LeadershipLost
from trainyard.cluster.watch import Watch
from trainyard.health import HealthServer
from trainyard.lifecycle.timeouts import Timeouts
from trainyard.logs import LogFormat
from trainyard.reconcile.controller import Controller
from trainyard.reconcile.dependencies import Dependencies, Options
from trainyard.reconcile.resync import until_served
from trainyard.reconcile.state import utc_now

log = logging.getLogger("trainyard")

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

Reach = Literal["auto", "direct", "port-forward"]

EXIT_LOST = 3
"""This process has lost its Lease; its successor starts afresh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorOptions:
    """Where this process runs, and how it is reached."""

    kubeconfig: Path | None
    context: str | None
    is_direct: bool
    http_host: str
    http_port: int
    lease: str
    """Name of the Lease; empty: no election, this process acts alone."""
    timing: LeaseTimings


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def main(
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Run outside the cluster, as this file's user.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    namespace: Annotated[
        list[str] | None, typer.Option(help="Serve only this namespace; repeatable.")
    ] = None,
    operator_namespace: Annotated[
        str, typer.Option(help="Namespace of the jobs' certificate authorities.")
    ] = "trainyard-system",
    cluster_domain: Annotated[str, typer.Option(help="DNS domain of the cluster.")] = (
        "cluster.local"
    ),
    reach: Annotated[
        Reach, typer.Option(help="How coordinators are reached; auto: directly inside a pod.")
    ] = "auto",
    scrape_interval: Annotated[str, typer.Option(help="How often metrics are read.")] = "5s",
    start_timeout: Annotated[
        str, typer.Option(help="A gang not running by then gives its GPUs back.")
    ] = "10m",
    leader_elect: Annotated[
        bool, typer.Option(help="Act only while holding a Lease: for several replicas.")
    ] = False,
    lease_name: Annotated[str, typer.Option(help="The Lease, in the operator's namespace.")] = (
        "trainyard"
    ),
    lease_duration: Annotated[
        str, typer.Option(help="Another replica acts after so long without a renewal.")
    ] = "15s",
    renew_deadline: Annotated[
        str, typer.Option(help="The holder ends after so long without a renewal.")
    ] = "10s",
    retry_period: Annotated[str, typer.Option(help="Pause between attempts at the Lease.")] = "2s",
    http_host: Annotated[str, typer.Option(help="Address of /healthz and /metrics.")] = "0.0.0.0",  # noqa: S104
    http_port: Annotated[int, typer.Option(help="Port of /healthz and /metrics.")] = 8080,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    log_format: Annotated[
        LogFormat, typer.Option(help="text for a terminal, json for log collectors.")
    ] = LogFormat.TEXT,
) -> None:
    """Run the Trainyard operator until it is told to stop."""
    logs.configure(log_level, log_format)
    inside = SERVICE_ACCOUNT.exists() and kubeconfig is None
    if not inside:
        kubeconfig = kubeconfig or Path(os.environ.get("KUBECONFIG", "~/.kube/config")).expanduser()
    options = Options(
        operator_namespace=operator_namespace,
        namespaces=tuple(namespace or ()),
        cluster_domain=cluster_domain,
        scrape_interval=_duration(scrape_interval),
        timeouts=Timeouts(start_timeout=_duration(start_timeout)),
        identity=os.environ.get("HOSTNAME") or socket.gethostname(),
    )
    surroundings = OperatorOptions(
        kubeconfig=kubeconfig,
        context=context,
        is_direct=reach == "direct" or (reach == "auto" and inside),
        http_host=http_host,
        http_port=http_port,
        lease=lease_name if leader_elect else "",
        timing=_timing(lease_duration, renew_deadline, retry_period),
    )
    lost = ""
    try:
        asyncio.run(operate(options, surroundings))
    except* LeadershipLost as group:
        lost = _first(group)
    if lost:
        log.error("lost leadership, exiting", extra={"cause": lost})
        raise typer.Exit(EXIT_LOST)


def _timing(duration: str, renew_deadline: str, retry: str) -> LeaseTimings:
    try:
        return LeaseTimings(
            duration=_duration(duration),
            renew_deadline=_duration(renew_deadline),
            retry=_duration(retry),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


async def operate(options: Options, where: OperatorOptions) -> None:
    """Wire the parts and run them until a signal or the first failure of any."""
    async with contextlib.AsyncExitStack() as stack:
        client = await KubeClient.connect(where.kubeconfig, where.context)
        election = await _election(options, where, client, stack)
        await stack.enter_async_context(client)
        coordinators = Coordinators(client, is_direct=where.is_direct)
        stack.push_async_callback(coordinators.close)
        services = Dependencies(
            client=client,
            cache=ClusterCache(),
            authorities=Authorities(client, options.operator_namespace),
            coordinators=coordinators,
            clock=utc_now,
            options=options,
            election=election,
        )
        controller = Controller(services)
        await stack.enter_async_context(HealthServer(controller, where.http_host, where.http_port))
        settings.spare_collector()
        await until_served(client)
        log.info("trainyard %s serves %s", __version__, options.namespaces or "all namespaces")
        await _until_stopped(controller, options)


async def _election(
    options: Options, where: OperatorOptions, client: KubeClient, stack: contextlib.AsyncExitStack
) -> Election | None:
    """This process' part in the election, which ends after all else; and the fence it puts up."""
    if not where.lease:
        return None
    # A connection of its own, past the throttle: no burst of requests may delay a renewal.
    own = await KubeClient.connect(where.kubeconfig, where.context)
    identity = f"{options.identity}_{secrets.token_hex(4)}"
    election = Election(own, options.operator_namespace, where.lease, identity, where.timing)
    client.guard = election.check
    margin = (where.timing.duration - where.timing.renew_deadline).total_seconds()
    client.unacknowledged_seconds = own.unacknowledged_seconds = margin
    await stack.enter_async_context(own)
    stack.push_async_callback(election.release)
    return election


async def _until_stopped(controller: Controller, options: Options) -> None:
    stop, watching = asyncio.Event(), asyncio.Event()
    pods = _pod_watches(controller)
    tasks = [
        *(asyncio.create_task(watch.run(), name="pods") for watch in pods),
        asyncio.create_task(_control(controller, pods), name="controller"),
        asyncio.create_task(_watch(controller, options, watching), name="watch"),
        asyncio.create_task(_stop_asked(watching, stop), name="stop"),
    ]
    if (election := controller.services.election) is not None:
        tasks.append(asyncio.create_task(election.run(), name="election"))
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()  # a part that fails takes the process down; its successor starts afresh


async def _stop_asked(watching: asyncio.Event, stop: asyncio.Event) -> None:
    """Return at SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    # kopf takes the signals over as it starts. It would stop watching, then let the controller
    # act for seconds on what it last saw: the controller has to end first.
    await asyncio.wait(
        [asyncio.create_task(stop.wait()), asyncio.create_task(watching.wait())],
        return_when=asyncio.FIRST_COMPLETED,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


async def _watch(controller: Controller, options: Options, watching: asyncio.Event) -> None:
    registry = kopf.OperatorRegistry()
    handlers.register(registry)
    kopf_settings = kopf.OperatorSettings()
    settings.configure(kopf_settings)
    await kopf.operator(
        registry=registry,
        settings=kopf_settings,
        standalone=True,
        clusterwide=not options.namespaces,
        namespaces=options.namespaces,
        memo=kopf.Memo(controller=controller),
        ready_flag=watching,
    )


def _pod_watches(controller: Controller) -> list[Watch]:
    """Of pods, whose events outnumber all others and would cost kopf a task and a queue each."""
    services = controller.services
    paths = [collection("v1", "pods", name) for name in services.options.namespaces or ("",)]
    took, missed = controller.pod_event, controller.pods_missed
    return [Watch(services.client, path, PodObject, took, missed) for path in paths]


async def _control(controller: Controller, pods: list[Watch]) -> None:
    # What happens to a pod after the listing must find its watch at work, else it is listed twice.
    for watch in pods:
        await watch.has_begun.wait()
    await controller.run()


if __name__ == "__main__":
    typer.run(main)
