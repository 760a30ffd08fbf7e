"""Which causes waiting cannot heal, in the words of kubelets, runtimes and kube-scheduler."""

from __future__ import annotations

import pytest

from tests.support.jobs import worker
from trainyard.lifecycle.causes import HOPELESS, NODE_REASONS, is_hopeless

PULL = 'failed to pull and unpack image "docker.io/library/nope:1": failed to resolve reference'
MOUNT = 'MountVolume.SetUp failed for volume "settings" : '


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("InvalidImageName", "couldn't parse image name"),
        ("ErrImageNeverPull", "is not present with pull policy of Never"),
        ("SignatureValidationFailed", "image signature validation failed"),
        ("ErrImagePull", f'{PULL} "docker.io/library/nope:1": not found'),
        ("ErrImagePull", f"{PULL}: unexpected status from HEAD request: 401 Unauthorized"),
        ("ImagePullBackOff", "Back-off pulling image: ErrImagePull: manifest unknown"),
        (
            "ErrImagePull",
            "pull access denied, repository does not exist or may require authorization: server "
            "message: insufficient_scope: authorization failed",
        ),
        ("CreateContainerConfigError", 'secret "token" not found'),
        ("CreateContainerConfigError", "couldn't find key lr in ConfigMap team/settings"),
        ("FailedMount", f'{MOUNT}configmap "settings" not found'),
        ("FailedMount", f'{MOUNT}secret "digits-trainyard-tls" not found'),
        ("FailedMount", f"{MOUNT}references non-existent config key: lr"),
        ("Unschedulable", '0/3 nodes are available: persistentvolumeclaim "data" not found.'),
        ("FailedScheduling", 'persistentvolumeclaim "data" not found'),
    ],
)
def test_waiting_does_not_help(reason: str, message: str) -> None:
    assert is_hopeless(worker(phase="Pending", waiting_reason=reason, waiting_message=message))


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("", ""),
        ("SomethingNew", "of a later kubelet: not found"),
        ("ImagePullBackOff", 'Back-off pulling image "trainer:1"'),
        ("ErrImagePull", f"{PULL}: dial tcp: lookup registry.example: no such host"),
        ("ErrImagePull", f"{PULL}: unexpected status: 503 Service Unavailable"),
        ("ErrImagePull", "toomanyrequests: access denied, you have reached your pull rate limit"),
        ("RegistryUnavailable", "not found"),
        ("CreateContainerConfigError", "failed to sync secret cache: timed out"),
        ("CreateContainerError", "context deadline exceeded"),
        ("FailedMount", f"{MOUNT}failed to sync configmap cache: timed out waiting"),
        ("FailedMount", f'{MOUNT}object "team"/"settings" not registered'),
        ("FailedMount", f"{MOUNT}rpc error: code = Unavailable"),
        ("FailedAttachVolume", "Multi-Attach error: the volume is already used by pod other"),
        ("FailedCreatePodSandBox", 'plugin type="cilium-cni" failed: daemon not found'),
        ("Unschedulable", "0/3 nodes are available: 3 node(s) didn't match node affinity."),
        ("Unschedulable", "pod has unbound immediate PersistentVolumeClaims"),
    ],
)
def test_waiting_may_help(reason: str, message: str) -> None:
    pod = worker(phase="Pending", waiting_reason=reason, waiting_message=message)
    assert not is_hopeless(pod)


def test_what_depends_on_the_node_is_in_the_table() -> None:
    assert set(NODE_REASONS) <= {cause.reason for cause in HOPELESS}
