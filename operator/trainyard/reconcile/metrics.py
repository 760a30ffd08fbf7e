"""The operator's own metrics; labels are bounded (reasons and kinds, never job names)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class OperatorMetrics:
    """Counters and gauges in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "trainyard_operator_reconciles",
            "Reconciles by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "trainyard_operator_reconcile_seconds",
            "Duration of one reconcile.",
            buckets=_LATENCY,
            registry=self.registry,
        )
        self.decision_seconds = Histogram(
            "trainyard_operator_decision_seconds",
            "Duration of one decision over the whole cluster.",
            buckets=_LATENCY,
            registry=self.registry,
        )
        self.decisions = Counter(
            "trainyard_operator_decisions",
            "Decisions that changed a job's workers (applied) or would have (recommended).",
            ["reason", "mode"],
            registry=self.registry,
        )
        self.scheduling_failures = Counter(
            "trainyard_operator_scheduling_failures",
            "Jobs that a cycle failed on and left out, and cycles that failed as a whole.",
            ["scope"],
            registry=self.registry,
        )
        self.scrapes = Counter(
            "trainyard_operator_scrapes",
            "Scrapes of coordinators by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.failures = Counter(
            "trainyard_operator_pod_failures",
            "Pod failures by role.",
            ["role"],
            registry=self.registry,
        )
        self.jobs = Gauge(
            "trainyard_operator_jobs",
            "Jobs by kind and phase.",
            ["kind", "phase"],
            registry=self.registry,
        )
        self.queue = Gauge(
            "trainyard_operator_queue_depth",
            "Keys that wait or run.",
            ["queue"],
            registry=self.registry,
        )
        self.leader = Gauge(
            "trainyard_operator_leader",
            "1 if this process is the leader, 0 while it stands by.",
            registry=self.registry,
        )
        self.requests = Gauge(
            "trainyard_operator_api_requests",
            "Requests to the API server so far.",
            registry=self.registry,
        )
        self.request_limit = Gauge(
            "trainyard_operator_api_concurrency_limit",
            "Maximum concurrent requests, of all namespaces.",
            registry=self.registry,
        )
