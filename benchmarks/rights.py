"""The operator's own rights: the chart's service account, not the administrator's.

An administrator is exempt from the API server's priority and fairness; the operator is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tools.localcluster import Cluster
from tools.localcluster.commands import run
from trainyard.api import names

TREE = Path(__file__).parents[1]
"""The repository of which this is a part."""
_CHART = Path("manifests", "charts", "trainyard")
_CRDS = Path("crds")
RELEASE = "trainyard"
_KINDS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


def install_crds(cluster: Cluster, tree: Path = TREE) -> None:
    """Apply the CRDs of a tree, and wait until the API server serves them."""
    crds = tree / _CRDS
    kubectl: list[str | Path] = [cluster.kubectl, "--kubeconfig", cluster.kubeconfig]
    run([*kubectl, "apply", "--server-side", "--force-conflicts", "-f", crds])
    run([*kubectl, "wait", "-f", crds, "--for", "condition=Established", "--timeout=30s"])


def distributed_job_crd() -> dict[str, Any]:
    """The CRD of DistributedJobs as this tree has it."""
    path = TREE / _CRDS / f"{names.DISTRIBUTED_JOBS}.{names.GROUP}.yaml"
    crd: dict[str, Any] = yaml.safe_load(path.read_text())
    return crd


def operator_kubeconfig(cluster: Cluster, namespace: str, folder: Path, tree: Path = TREE) -> Path:
    """Grant what a tree's chart grants in that namespace; a kubeconfig of its service account."""
    kubectl: list[str | Path] = [cluster.kubectl, "--kubeconfig", cluster.kubeconfig]
    rendered = run([cluster.helm, "template", RELEASE, tree / _CHART, "--namespace", namespace])
    documents = [d for d in yaml.safe_load_all(rendered) if d and d["kind"] in _KINDS]
    for document in documents:  # one may be of another namespace
        if not document["kind"].startswith("Cluster"):
            document["metadata"].setdefault("namespace", namespace)
    run([*kubectl, "apply", "-f", "-"], stdin=yaml.safe_dump_all(documents))
    account = next(d for d in documents if d["kind"] == "ServiceAccount")["metadata"]["name"]
    token = run([*kubectl, "create", "token", account, "-n", namespace, "--duration=24h"])
    return _write(cluster.kubeconfig, token.strip(), folder / f"{namespace}.kubeconfig")


def _write(admin: Path, token: str, path: Path) -> Path:
    document = yaml.safe_load(admin.read_text())
    for user in document["users"]:
        user["user"] = {"token": token}
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))
    return path
