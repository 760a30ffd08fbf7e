"""The composition root: `python -m trainyard` is the operator, in a pod or beside a kubeconfig."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
from dataclasses import replace

import kopf
import typer

import trainyard.handlers  # noqa: F401 - registers them with kopf
from trainyard import __version__, logs, options, settings
from trainyard.api import names
from trainyard.cluster.authorities import Authorities
from trainyard.cluster.cache import ClusterCache
from trainyard.cluster.client import KubeClient
from trainyard.cluster.clock import SteadyClock
from trainyard.cluster.coordinator import Coordinators
from trainyard.cluster.election_thread import ElectionThread
from trainyard.cluster.installations import Installations, SecondInstallationError
from trainyard.cluster.lease import Election, LeadershipLost
from trainyard.cluster.sockets import shrink_tls_buffers
from trainyard.health import HealthServer
from trainyard.options import OperatorOptions
from trainyard.reconcile.controller import Controller
from trainyard.reconcile.dependencies import DEFAULT_TRAINER_IMAGE, Dependencies, Options
from trainyard.reconcile.namespace_service import NamespaceServices
from trainyard.reconcile.resync import until_served
from trainyard.render.base_pod import USER

log = logging.getLogger("trainyard")

EXIT_LOST = 3
"""This process has lost its Lease; its successor starts afresh."""
EXIT_SECOND = 4
"""Another installation serves the same namespaces."""


def main(
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    namespace: options.Namespaces = None,
    operator_namespace: options.OperatorNamespace = "trainyard-system",
    trainer_image: options.TrainerImage = DEFAULT_TRAINER_IMAGE,
    cluster_domain: options.ClusterDomain = "cluster.local",
    service_name: options.ServiceName = "trainyard",
    run_as_user: options.RunAsUser = str(USER),
    reach: options.Reach = "auto",
    priority_class: options.PriorityClasses = None,
    scrape_interval: options.ScrapeInterval = "5s",
    scrape_timeout: options.ScrapeTimeout = "2s",
    unreachable_timeout: options.UnreachableTimeout = "1m",
    replace_timeout: options.ReplaceTimeout = "3m",
    stalled_after: options.StalledAfter = "5m",
    start_timeout: options.StartTimeout = "10m",
    blocked_start_timeout: options.BlockedStartTimeout = "1m",
    start_backoff: options.StartBackoff = "2m",
    max_start_backoff: options.MaxStartBackoff = "1h",
    pod_events_after: options.PodEventsAfter = "20s",
    bind_timeout: options.BindTimeout = "60s",
    volume_timeout: options.VolumeTimeout = "10m",
    provision_timeout: options.ProvisionTimeout = "15m",
    not_placed_backoff: options.NotPlacedBackoff = "5m",
    pool: options.Pools = None,
    health_timeout: options.HealthTimeout = "10m",
    leader_elect: options.LeaderElect = False,
    lease_name: options.LeaseName = "trainyard",
    lease_duration: options.LeaseDuration = "15s",
    renew_deadline: options.RenewDeadline = "10s",
    retry_period: options.RetryPeriod = "2s",
    installations_namespace: options.InstallationsNamespace = "",
    http_host: options.HttpHost = "",
    http_port: options.HttpPort = 8080,
    log_level: options.LogLevel = "info",
    log_format: options.LogFormat = logs.LogFormat.TEXT,
) -> None:
    """Run the Trainyard operator until it receives SIGINT or SIGTERM."""
    logs.configure(log_level, log_format)
    kubeconfig = options.find_kubeconfig(kubeconfig)
    unreachable, replace_after = options.reach_timeouts(unreachable_timeout, replace_timeout)
    starts = options.start_timeouts(
        start_timeout, blocked_start_timeout, start_backoff, max_start_backoff, pod_events_after
    )
    scheduling = options.scheduler_settings(
        bind=bind_timeout,
        volume=volume_timeout,
        provision=provision_timeout,
        backoff=not_placed_backoff,
        pools=pool or (),
    )
    process = OperatorOptions(
        kubeconfig=kubeconfig,
        context=context,
        is_direct=reach == "direct" or (reach == "auto" and kubeconfig is None),
        http_host=http_host,
        http_port=http_port,
        health_timeout=options.duration(health_timeout),
        lease=lease_name if leader_elect else "",
        timing=options.lease_timings(lease_duration, renew_deadline, retry_period),
        installations_namespace=installations_namespace,
    )
    run(
        process,
        Options(
            operator_namespace=operator_namespace,
            namespaces=tuple(namespace or ()),
            trainer_image=options.image_name(trainer_image),
            cluster_domain=cluster_domain,
            service_name=options.dns_label(service_name),
            run_as_user=options.user(run_as_user),
            priority_class_namespaces=options.priority_class_namespaces(priority_class or ()),
            scrape_interval=options.duration(scrape_interval),
            scrape_timeout=options.duration(scrape_timeout),
            timeouts=replace(
                starts,
                bind_timeout=scheduling.bind_timeout,
                provision_timeout=scheduling.provision_timeout,
                unreachable_timeout=unreachable,
                replace_timeout=replace_after,
                stalled_after=options.duration(stalled_after),
            ),
            scheduling=scheduling,
            identity=os.environ.get("HOSTNAME") or socket.gethostname(),
        ),
    )


def run(process: OperatorOptions, reconciling: Options) -> None:
    """Run the operator until a signal.

    Exits with `EXIT_LOST` when it is no longer the leader, and with `EXIT_SECOND` when another
    installation serves the same.
    """
    lost = second = ""
    try:
        asyncio.run(operate(process, reconciling))
    except* LeadershipLost as group:
        lost = _first(group)
    except* SecondInstallationError as group:
        second = _first(group)
    if lost:
        log.error("lost leadership, exiting", extra={"cause": lost})
        raise typer.Exit(EXIT_LOST)
    if second:
        log.error("refusing to act as a second installation", extra={"cause": second})
        raise typer.Exit(EXIT_SECOND)


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


async def operate(process: OperatorOptions, reconciling: Options) -> None:
    """Wire the parts and run them until a signal or the first failure of any."""
    shrink_tls_buffers()
    async with contextlib.AsyncExitStack() as stack:
        client = await KubeClient.connect(process.kubeconfig, process.context)
        election = await _open_election(process, reconciling, client, stack)
        await stack.enter_async_context(client)
        clock = SteadyClock()
        client.on_date = clock.observe
        coordinators = Coordinators(
            client, is_direct=process.is_direct, scrape_timeout=reconciling.scrape_timeout
        )
        stack.push_async_callback(coordinators.close)
        deps = Dependencies(
            client=client,
            cache=ClusterCache(),
            authorities=Authorities(client, reconciling.operator_namespace),
            coordinators=coordinators,
            services=NamespaceServices(client, clock),
            clock=clock,
            steady_clock=clock,
            options=reconciling,
            election=election,
            installations=_installations(process, reconciling, client),
        )
        controller = Controller(deps)
        health = HealthServer(
            controller, process.http_host, process.http_port, process.health_timeout
        )
        await stack.enter_async_context(health)
        settings.spare_collector()
        await until_served(client)
        log.info("trainyard %s serves %s", __version__, reconciling.namespaces or "all namespaces")
        await _run_until_stopped(controller)


async def _open_election(
    process: OperatorOptions,
    reconciling: Options,
    client: KubeClient,
    stack: contextlib.AsyncExitStack,
) -> ElectionThread | None:
    """Join the leader election, left after all else has ended, and fence the client by it."""
    if not process.lease:
        return None
    # A connection of its own, past the throttle: no burst of requests may delay a renewal.
    own = await KubeClient.connect(process.kubeconfig, process.context)
    identity = f"{reconciling.identity}_{secrets.token_hex(4)}"
    namespace, timing = reconciling.operator_namespace, process.timing
    election = ElectionThread(Election(own, namespace, process.lease, identity, timing), own)
    client.guard = election.check
    margin = (timing.duration - timing.renew_deadline).total_seconds()
    client.unacknowledged_seconds = own.unacknowledged_seconds = margin
    return await stack.enter_async_context(election)


def _installations(
    process: OperatorOptions, reconciling: Options, client: KubeClient
) -> Installations | None:
    if not process.installations_namespace:
        return None
    name = f"{reconciling.operator_namespace}.{process.lease or names.MANAGER}"
    return Installations(client, process.installations_namespace, name, reconciling.namespaces)


async def _run_until_stopped(controller: Controller) -> None:
    """Run controller, kopf and election until SIGINT or SIGTERM.

    Not by `kopf.on.startup` and `kopf.on.cleanup`: kopf stops watching first and calls the cleanup
    when its last event is handled, so the controller would act on what it last saw for a second or
    more; and kopf does not end when something fails that a startup handler has begun, such as the
    election. Here all parts are cancelled at once, and one that fails takes the process down; its
    successor starts afresh.
    """
    stop = asyncio.Event()
    _set_on_signals(stop)
    async with asyncio.TaskGroup() as group:
        parts = [
            group.create_task(controller.run(), name="controller"),
            group.create_task(_watch_jobs(controller, stop), name="kopf"),
        ]
        if (election := controller.deps.election) is not None:
            parts.append(group.create_task(election.run(), name="election"))
        await stop.wait()
        for part in parts:
            part.cancel()


async def _watch_jobs(controller: Controller, stop: asyncio.Event) -> None:
    """Run kopf; a signal sets `stop` instead of ending kopf alone."""
    others = asyncio.all_tasks()
    namespaces = controller.deps.options.namespaces
    tasks = await kopf.spawn_tasks(
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
        memo=kopf.Memo(controller=controller),
    )
    _set_on_signals(stop)  # in place of the handlers that kopf has just set
    await kopf.run_tasks(tasks, ignored=others)
    raise RuntimeError("kopf has stopped watching")


def _set_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)


if __name__ == "__main__":
    typer.run(main)
