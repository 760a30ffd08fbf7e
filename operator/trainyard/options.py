"""The flags of `python -m trainyard`, and the options that they are parsed into."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from trainyard import logs
from trainyard.api.durations import parse_duration
from trainyard.api.pools import NodePool, parse_pool
from trainyard.cluster import login
from trainyard.cluster.leaderelection import LeaseTimings
from trainyard.lifecycle.timeouts import Timeouts
from trainyard.scheduling.proposal import SchedulerSettings

MAX_IMAGE = 512
"""Characters, as many as `spec.image` may have."""
SERVICE_ACCOUNT = login.SERVICE_ACCOUNT / "token"

PLATFORM: Final = "platform"
"""The user that a platform such as OpenShift assigns."""
MAX_USER: Final = 2**31 - 1

Kubeconfig = Annotated[
    Path | None, typer.Option(help="Run outside the cluster, as this file's user.")
]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig.")]
Namespaces = Annotated[
    list[str] | None, typer.Option(help="Serve only this namespace; repeatable.")
]
OperatorNamespace = Annotated[
    str, typer.Option(help="Namespace of the master secret and the Lease.")
]
TrainerImage = Annotated[
    str,
    typer.Option(help="Image of jobs that name none; they keep it when this option changes."),
]
ClusterDomain = Annotated[str, typer.Option(help="DNS domain of the cluster.")]
ServiceName = Annotated[
    str, typer.Option(help="The headless Service in each namespace with jobs, by which DNS works.")
]
RunAsUser = Annotated[
    str,
    typer.Option(
        help="User and group of jobs' pods whose template has no securityContext; platform: those "
        "that the platform assigns, as OpenShift does."
    ),
]
Reach = Annotated[
    Literal["auto", "direct", "port-forward"],
    typer.Option(help="How coordinators are reached; auto: directly inside a pod."),
]
PriorityClasses = Annotated[
    list[str] | None,
    typer.Option(
        "--priority-class",
        help="CLASS=NAMESPACE,…: only jobs of these namespaces may use the class; repeatable.",
    ),
]
ScrapeInterval = Annotated[str, typer.Option(help="How often metrics are read.")]
ScrapeTimeout = Annotated[
    str, typer.Option(help="How long a coordinator may take to answer with its metrics.")
]
UnreachableTimeout = Annotated[
    str, typer.Option(help="How long a coordinator is not reached before its job is Degraded.")
]
ReplaceTimeout = Annotated[
    str, typer.Option(help="How long a coordinator is not reached before it is replaced, once.")
]
StalledAfter = Annotated[
    str,
    typer.Option(
        help="How long a job that runs makes no step before it is Degraded; ten times its usual "
        "step where that is longer."
    ),
]
StartTimeout = Annotated[
    str, typer.Option(help="How long a gang may take to start before it releases its GPUs.")
]
BlockedStartTimeout = Annotated[
    str, typer.Option(help="The same for a gang that waiting does not help, as without its image.")
]
StartBackoff = Annotated[
    str, typer.Option(help="Pause after a job's first failed start; each further one doubles it.")
]
MaxStartBackoff = Annotated[str, typer.Option(help="Longest pause after a failed start.")]
PodEventsAfter = Annotated[
    str, typer.Option(help="Age of a pod that does not run at which its Events are listed.")
]
BindTimeout = Annotated[
    str,
    typer.Option(
        help="How long workers may lack a node that seems to fit before the job shrinks to what "
        "has one."
    ),
]
VolumeTimeout = Annotated[
    str, typer.Option(help="The same while a volume is provisioned for them.")
]
ProvisionTimeout = Annotated[
    str, typer.Option(help="How long an autoscaler may take to add the nodes of a --pool.")
]
NotPlacedBackoff = Annotated[
    str,
    typer.Option(
        help="Pause before workers that got no node are asked for again; doubled by each attempt, "
        "up to eight times as long, or twelve times for a --pool."
    ),
]
Pools = Annotated[
    list[str] | None,
    typer.Option(
        "--pool",
        help="Nodes that an autoscaler adds for Pending pods, as JSON: name, resource, gpus, "
        "labels, taints, maxNodes; repeatable.",
    ),
]
HealthTimeout = Annotated[
    str,
    typer.Option(
        help="How long a watch or the scheduler may go without success until /healthz fails."
    ),
]
LeaderElect = Annotated[
    bool, typer.Option(help="Act only while holding a Lease: for several replicas.")
]
LeaseName = Annotated[str, typer.Option(help="The Lease, in the operator's namespace.")]
LeaseDuration = Annotated[
    str,
    typer.Option(
        help="How long a Lease is valid without renewal before another replica takes over."
    ),
]
RenewDeadline = Annotated[
    str, typer.Option(help="How long the leader goes without a renewal before it exits.")
]
RetryPeriod = Annotated[
    str, typer.Option(help="Pause between attempts to acquire or renew the Lease.")
]
InstallationsNamespace = Annotated[
    str,
    typer.Option(
        help="Namespace of the ConfigMap with all installations of the cluster, by which a second "
        "one refuses to serve the same; empty: not checked."
    ),
]
HttpHost = Annotated[
    str, typer.Option(help="Address of /healthz and /metrics; empty: all, of IPv4 and of IPv6.")
]
HttpPort = Annotated[int, typer.Option(help="Port of /healthz and /metrics.")]
LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error.")]
LogFormat = Annotated[
    logs.LogFormat, typer.Option(help="text for a terminal, json for log collectors.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorOptions:
    """How this process reaches the cluster, and how it is reached."""

    kubeconfig: Path | None
    """None: the pod's service account."""
    context: str | None
    is_direct: bool
    """Whether coordinators are reached by the addresses of their pods."""
    http_host: str
    http_port: int
    health_timeout: timedelta
    """How long a watch or the scheduler may go without success until `/healthz` fails."""
    lease: str
    """The name of the Lease; empty: no leader election, this process acts alone."""
    timing: LeaseTimings
    installations_namespace: str = ""
    """Where all installations of the cluster are recorded; empty: nowhere."""


def find_kubeconfig(given: Path | None) -> Path | None:
    """The kubeconfig to use; None inside a pod that was given none."""
    if given is None and SERVICE_ACCOUNT.exists():
        return None
    return given or Path(os.environ.get("KUBECONFIG", "~/.kube/config")).expanduser()


def duration(text: str) -> timedelta:
    """Parse a duration such as `90s` or `2m`; raises `BadParameter`."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def reach_timeouts(unreachable: str, replace: str) -> tuple[timedelta, timedelta]:
    """Parse the times of a coordinator that is not reached; raises `BadParameter`."""
    unreachable_timeout, replace_timeout = duration(unreachable), duration(replace)
    if replace_timeout < unreachable_timeout:
        raise typer.BadParameter(
            f"--replace-timeout={replace} must not be shorter than "
            f"--unreachable-timeout={unreachable}: a job is Degraded before its coordinator is "
            "replaced"
        )
    return unreachable_timeout, replace_timeout


def dns_label(text: str) -> str:
    """A name that a Service can have (RFC 1035); raises `BadParameter`."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", text):
        raise typer.BadParameter(
            f"{text!r} is not the name of a Service: at most 63 lower-case letters, digits and "
            "dashes, beginning with a letter"
        )
    return text


def image_name(text: str) -> str:
    """An image as a job's spec may name it; raises `BadParameter`."""
    if not text or len(text) > MAX_IMAGE or re.search(r"\s", text):
        raise typer.BadParameter(
            f"{text!r} is not an image: at most {MAX_IMAGE} characters without white space, for "
            "example registry.example/trainyard-trainer:0.1.0"
        )
    return text


def user(text: str) -> int | None:
    """Parse the user of jobs' pods, None for that of the platform; raises `BadParameter`."""
    if text == PLATFORM:
        return None
    if not (text.isdecimal() and text.isascii()) or not 0 < int(text[:11]) <= MAX_USER:
        raise typer.BadParameter(
            f"--run-as-user={text[:64]} must be a number from 1 to {MAX_USER}, or {PLATFORM}: "
            "no pod of a job runs as root"
        )
    return int(text)


def priority_class_namespaces(texts: Sequence[str]) -> dict[str, frozenset[str]]:
    """Parse `CLASS=NAMESPACE,…`; no namespace: none may use it. Raises `BadParameter`."""
    found: dict[str, frozenset[str]] = {}
    for text in texts:
        name, separator, namespaces = text.partition("=")
        if not (name and separator):
            raise typer.BadParameter(
                f"--priority-class {text!r} must be CLASS=NAMESPACE,…, for example urgent=team-a"
            )
        listed = frozenset(filter(None, namespaces.split(",")))
        found[name] = found.get(name, frozenset()) | listed
    return found


def start_timeouts(
    timeout: str, blocked_timeout: str, backoff: str, max_backoff: str, pod_events_after: str
) -> Timeouts:
    """Parse the times of a job's start; raises `BadParameter` that names the flag."""
    timeouts = Timeouts(
        start_timeout=duration(timeout),
        blocked_start_timeout=duration(blocked_timeout),
        start_backoff=duration(backoff),
        max_start_backoff=duration(max_backoff),
        pod_events_after=duration(pod_events_after),
    )
    # Without any pause, a job that cannot start would be admitted again and again.
    if timeouts.start_backoff < timedelta(seconds=1):
        raise typer.BadParameter(f"--start-backoff must be at least 1s, not {backoff}")
    if timeouts.max_start_backoff < timeouts.start_backoff:
        raise typer.BadParameter(
            f"--max-start-backoff must not be shorter than --start-backoff: {max_backoff} is "
            f"shorter than {backoff}"
        )
    return timeouts


def node_pools(texts: Sequence[str]) -> tuple[NodePool, ...]:
    """Parse pools from JSON; raises `BadParameter` that names the pool and the field."""
    found: dict[str, NodePool] = {}
    for text in texts:
        try:
            pool = parse_pool(text)
        except ValueError as error:
            raise typer.BadParameter(f"--pool {text}: {error}") from None
        if pool.name in found:
            raise typer.BadParameter(f"--pool: two pools have the name {pool.name!r}")
        found[pool.name] = pool
    return tuple(found.values())


def scheduler_settings(
    *, bind: str, volume: str, provision: str, backoff: str, pools: Sequence[str]
) -> SchedulerSettings:
    """Parse what happens to workers that get no node; raises `BadParameter`."""
    not_placed_backoff = duration(backoff)
    if not not_placed_backoff:
        raise typer.BadParameter(
            f"--not-placed-backoff={backoff} must be longer than nothing, or workers that get no "
            "node are asked for again at once"
        )
    return SchedulerSettings(
        bind_timeout=duration(bind),
        volume_timeout=duration(volume),
        provision_timeout=duration(provision),
        not_placed_backoff=not_placed_backoff,
        pools=node_pools(pools),
    )


def lease_timings(lease_duration: str, renew_deadline: str, retry_period: str) -> LeaseTimings:
    """Parse the times of the leader election; raises `BadParameter` that names the flag."""
    try:
        return LeaseTimings(
            duration=duration(lease_duration),
            renew_deadline=duration(renew_deadline),
            retry=duration(retry_period),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
