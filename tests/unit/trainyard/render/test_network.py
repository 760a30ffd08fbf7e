"""The DNS names of coordinators, and which existing Service serves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.federations import make_federation
from tests.support.jobs import KEY, NETWORK, coordinator, make_job
from trainyard.api.names import MANAGED_BY, Key
from trainyard.cluster.coordinator import address_of
from trainyard.lifecycle.messages import MAX_QUOTE
from trainyard.render.network import Network, namespace_service, unsuitable
from trainyard.render.pods import coordinator_pod, worker_pod

Service = dict[str, Any]
OWN_SERVICE = Network(service="", cluster_domain="cluster.local")
LONGEST = Network(service="s" * 63, cluster_domain="cluster.local")


def env(pod: dict[str, Any]) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in pod["spec"]["containers"][0]["env"]}


def test_every_term_of_a_coordinator_has_the_same_dns_name() -> None:
    first, second = (coordinator_pod(make_job(), term, NETWORK)["spec"] for term in (1, 2))
    assert first["hostname"] == second["hostname"] == "digits-coordinator"
    assert first["subdomain"] == second["subdomain"] == "trainyard"
    assert NETWORK.coordinator_host(KEY) == "digits-coordinator.trainyard.team.svc.cluster.local"


def test_members_connect_to_the_name_that_the_certificate_has() -> None:
    pod = worker_pod(make_job(), 0, 1, NETWORK)
    host, _, port = env(pod)["TRAINYARD_COORDINATOR"].rpartition(":")
    assert (host, port) == (NETWORK.coordinator_host(KEY), "7430")
    assert host in NETWORK.certified_hosts(KEY)


def test_only_coordinators_have_a_name_in_dns() -> None:
    """Members show the subdomain that they connect by, and have no hostname under it."""
    spec = worker_pod(make_job(), 0, 1, NETWORK)["spec"]
    assert spec["subdomain"] == "trainyard"
    assert "hostname" not in spec


@pytest.mark.parametrize("domain", ["cluster.local", "corp.example"])
def test_the_cluster_domain_ends_every_name(domain: str) -> None:
    network = Network(service="trainyard", cluster_domain=domain)
    assert all(host.endswith(f".svc.{domain}") for host in network.certified_hosts(KEY))
    address = env(worker_pod(make_job(), 0, 1, network))["TRAINYARD_COORDINATOR"]
    assert address == f"digits-coordinator.trainyard.team.svc.{domain}:7430"
    server_name = address_of(KEY, coordinator(subdomain="trainyard"), domain).server_name
    assert server_name == network.coordinator_host(KEY)


def test_pods_of_a_job_with_a_service_of_its_own_are_as_they_were() -> None:
    pods = coordinator_pod(make_job(), 2, OWN_SERVICE), worker_pod(make_job(), 0, 2, OWN_SERVICE)
    assert not any({"hostname", "subdomain"} & pod["spec"].keys() for pod in pods)
    assert env(pods[1])["TRAINYARD_COORDINATOR"] == "digits-coordinator.team.svc.cluster.local:7430"
    assert OWN_SERVICE.certified_hosts(KEY) == ("digits-coordinator.team.svc.cluster.local",)


def test_the_operator_expects_the_name_that_the_coordinators_pod_began_with() -> None:
    names = [
        address_of(KEY, coordinator(subdomain=subdomain), "cluster.local").server_name
        for subdomain in ("trainyard", "other", "")
    ]
    assert names == [
        "digits-coordinator.trainyard.team.svc.cluster.local",
        "digits-coordinator.other.team.svc.cluster.local",
        "digits-coordinator.team.svc.cluster.local",
    ]


def test_an_earlier_release_accepts_the_certificate_after_a_rollback() -> None:
    assert NETWORK.certified_hosts(KEY) == (
        "digits-coordinator.trainyard.team.svc.cluster.local",
        "digits-coordinator.team.svc.cluster.local",
    )


def test_the_longest_names_fit_into_dns() -> None:
    key = Key(KEY.kind, "n" * 63, "j" * 45)
    hostname, *_ = LONGEST.coordinator_host(key).split(".")
    assert len(hostname) <= 63
    assert len(LONGEST.coordinator_host(key)) <= 253


def test_the_service_belongs_to_no_job_and_selects_coordinators_of_both_kinds() -> None:
    service = namespace_service("team", "trainyard")
    assert "ownerReferences" not in service["metadata"]
    selector = service["spec"]["selector"].items()
    for job in (make_job(), make_federation()):
        assert selector <= coordinator_pod(job, 1, NETWORK)["metadata"]["labels"].items()
    assert not selector <= worker_pod(make_job(), 0, 1, NETWORK)["metadata"]["labels"].items()


def test_our_own_service_serves_with_what_the_api_server_adds() -> None:
    service = namespace_service("team", "trainyard")
    assert unsuitable(service) == ""
    service["spec"] |= {"clusterIPs": ["None"], "type": "ClusterIP", "sessionAffinity": "None"}
    service["metadata"]["labels"]["team"] = "vision"
    assert unsuitable(service) == ""


FOREIGN: dict[str, Callable[[Service], Any]] = {
    "without labels": lambda service: service["metadata"].pop("labels"),
    "of another manager": lambda service: service["metadata"].update(
        labels={"app.kubernetes.io/managed-by": "Helm"}
    ),
    "of a chart, with the selector of ours": lambda service: service["metadata"].update(
        labels={"app.kubernetes.io/managed-by": MANAGED_BY}
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_service_of_somebody_else_is_named_with_what_helps(case: str) -> None:
    service = namespace_service("team", "trainyard")
    FOREIGN[case](service)
    message = unsuitable(service)
    assert message.startswith("Service trainyard in namespace team is not of this operator")
    assert "delete or rename it" in message
    assert "helm upgrade --set serviceName=NAME" in message


CHANGED: dict[str, tuple[str, Any]] = {
    "a selector of something else": ("selector", {"app": "wrong"}),
    "no selector": ("selector", None),
    "a virtual address": ("clusterIP", "10.0.0.7"),
    "addresses of ready pods only": ("publishNotReadyAddresses", False),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_service_that_was_changed_is_named_with_the_field(case: str) -> None:
    service, (field, value) = namespace_service("team", "trainyard"), CHANGED[case]
    service["spec"][field] = value
    assert f"was changed (spec.{field})" in unsuitable(service)
    assert "delete it, and the operator creates it again" in unsuitable(service)


def test_messages_of_the_longest_names_are_not_cut() -> None:
    service = namespace_service("n" * 63, "s" * 63)
    service["spec"] = {}
    assert len(unsuitable(service)) < MAX_QUOTE
    service["metadata"]["labels"] = {}
    assert len(unsuitable(service)) < MAX_QUOTE


def test_a_worker_of_each_network_differs_in_nothing_but_names() -> None:
    pod, own = (worker_pod(make_job(), 0, 1, network) for network in (NETWORK, OWN_SERVICE))
    del pod["spec"]["subdomain"]
    for manifest in (pod, own):
        manifest["spec"]["containers"][0]["env"] = []
    assert pod == own
