"""Where the API server is, as whom to speak to it, and in which namespace: a kubeconfig or a pod's.

The credentials are read by the official client.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kubernetes.aio import client as kube_client
from kubernetes.aio import config as kube_config
from kubernetes.aio.config.incluster_config import InClusterConfigLoader

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""The folder in which pods find token, certificate and namespace."""
DEFAULT_FILE: Final = "~/.kube/config"
DEFAULT_NAMESPACE: Final = "default"


class LoginError(Exception):
    """Why there is no way to the API server, in one sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What a client needs."""

    configuration: Any
    """The official client's."""
    namespace: str
    """The one that is meant where none is given."""


async def kubectl_login(
    kubeconfig: Path | None,
    context: str | None,
    environ: Mapping[str, str],
    service_account: Path = SERVICE_ACCOUNT,
) -> Login:
    """Log in as kubectl does: by the file given, KUBECONFIG, DEFAULT_FILE, or the pod's account.

    Raises LoginError.
    """
    named = "" if kubeconfig is None else str(kubeconfig)
    files = named or environ.get("KUBECONFIG") or DEFAULT_FILE
    if _any_exists(files):
        return await kubeconfig_login(files, context)
    if not named and context is None and environ.get("KUBERNETES_SERVICE_HOST"):
        return pod_login(environ, service_account)
    raise LoginError(
        f"there is no kubeconfig: {files} does not exist. Set KUBECONFIG or give --kubeconfig"
    )


def _any_exists(files: str) -> bool:
    return any(Path(file).expanduser().is_file() for file in files.split(os.pathsep) if file)


async def kubeconfig_login(files: str, context: str | None) -> Login:
    """Log in by kubeconfigs, several of them as in KUBECONFIG; raises LoginError."""
    configuration = kube_client.Configuration()
    try:
        loader = await kube_config.load_kube_config(
            config_file=files, context=context, client_configuration=configuration
        )
        namespace = loader.current_context["context"].get("namespace")
    except Exception as error:  # a file may hold anything
        raise LoginError(f"the kubeconfig {files} cannot be used: {error}") from error
    return Login(configuration=configuration, namespace=namespace or DEFAULT_NAMESPACE)


def pod_login(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Login:
    """Log in as the service account of this pod; raises LoginError."""
    configuration = kube_client.Configuration()
    loader = InClusterConfigLoader(str(folder / "token"), str(folder / "ca.crt"), environ=environ)
    try:
        loader.load_and_set(configuration)
        namespace = (folder / "namespace").read_text().strip()
    except (kube_config.ConfigException, OSError) as error:
        raise LoginError(f"this pod's service account cannot be used: {error}") from error
    return Login(configuration=configuration, namespace=namespace or DEFAULT_NAMESPACE)
