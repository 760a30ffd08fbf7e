"""The cluster that tests and the demo run on: an existing context, kind, or a local cluster.

with open_cluster(ClusterOptions(name="integration", control_plane_only=True)) as cluster:
    run([cluster.kubectl, "--kubeconfig", cluster.kubeconfig, "get", "nodes"])
"""

from __future__ import annotations

from tools.localcluster.cluster import Cluster, open_cluster
from tools.localcluster.errors import ClusterError
from tools.localcluster.options import ClusterOptions

__all__ = ["Cluster", "ClusterError", "ClusterOptions", "open_cluster"]
