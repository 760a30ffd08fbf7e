"""PURE: which causes keep a pod from starting for good, so that waiting does not help.

`HOPELESS` is the whole table. A job with such a pod releases its GPUs after a short grace; whatever
is not in the table gets the whole start timeout.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from trainyard.api.pods import Pod

PULL_REASONS: Final = ("ErrImagePull", "ImagePullBackOff")
"""A failed pull, and the pause before the next attempt; their messages say what failed."""


class Cause(NamedTuple):
    """What a kubelet or kube-scheduler says of a pod that cannot start."""

    reason: str
    """Of a waiting container, of the condition `PodScheduled`, or of an Event."""
    pattern: str = ""
    """What its message has, in any case; empty for any message."""


_NO_IMAGE: Final = (
    r"not found|manifest unknown|name unknown|no such image|does not exist"
    r"|unauthorized|denied|forbidden|authentication required|no basic auth"
)
_NO_OBJECT: Final = r'(configmaps?|secrets?) "[^"]*" not found|non-existent (config|secret) key'

HOPELESS: Final = (
    # The same text is parsed in the same way at each attempt.
    Cause("InvalidImageName"),
    # The registry answered: it has no such image, or gives it to nobody with these pull secrets.
    Cause("ErrImagePull", _NO_IMAGE),
    Cause("ImagePullBackOff", _NO_IMAGE),
    # A node that may not pull gets the image from nowhere.
    Cause("ErrImageNeverPull"),
    # Neither the image nor the policy that refuses its signature changes by itself.
    Cause("SignatureValidationFailed"),
    # Somebody has to create what the environment or a volume is taken from, or the missing key.
    Cause("CreateContainerConfigError"),
    Cause("FailedMount", _NO_OBJECT),
    # A claim that nobody created is provisioned by nobody.
    Cause("Unschedulable", r'persistentvolumeclaim "[^"]*" not found'),
    Cause("FailedScheduling", r'persistentvolumeclaim "[^"]*" not found'),
)

# Of the same reasons, what may pass by itself: a registry or its network that is down or throttles,
# and kubelets whose cache of Secrets and ConfigMaps is late.
_PASSING: Final = (
    r"toomanyrequests|too many requests|\b429\b|\b50[0234]\b|timeout|timed out|connection refused"
    r"|connection reset|no such host|server misbehaving|failed to sync|not registered"
)
# Not in the table, as waiting does help:
# - other messages of ErrImagePull and ImagePullBackOff, and RegistryUnavailable: see above. A pull
#   that takes long has no reason at all.
# - Unschedulable: a node may be added or become free; "unbound immediate PersistentVolumeClaims":
#   the volume is being provisioned.
# - FailedAttachVolume: the volume is still attached to the node of a pod that ends.
# - other messages of FailedMount: a storage server or a driver that starts.
# - FailedCreatePodSandBox, NetworkNotReady: the network of a node that has just joined.
# - CreateContainerError, RunContainerError: a container runtime under load.

NODE_REASONS: Final = ("ErrImageNeverPull",)
"""Hopeless on this node, and perhaps not on another."""


def is_hopeless(pod: Pod) -> bool:
    """Whether waiting cannot heal what keeps the pod from starting."""
    if not pod.waiting_reason or _has(_PASSING, pod.waiting_message):
        return False
    return any(
        pod.waiting_reason == reason and _has(pattern, pod.waiting_message)
        for reason, pattern in HOPELESS
    )


def _has(pattern: str, message: str) -> bool:
    return re.search(pattern, message, re.IGNORECASE) is not None
