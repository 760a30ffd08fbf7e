"""Programs of the operating system: finding them, and installing what Debian has when it lacks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tools.localcluster.commands import run
from tools.localcluster.errors import ClusterError
from tools.localcluster.progress import say

_CNI_FOLDERS = ("/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin")
_SEARCH_PATH = os.pathsep.join(
    ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", os.defpath]
)

NODE = {
    "runc": "runc",
    "ptp": "containernetworking-plugins",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mount": "mount",
}
"""What a node needs: program → Debian's package."""

IMAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}
"""What building images without a container engine needs."""


def find(program: str) -> Path | None:
    """Where a program is; CNI plug-ins are looked for where distributions put them."""
    for folder in _CNI_FOLDERS:
        if Path(folder, program).exists():
            return Path(folder, program)
    path = shutil.which(program) or shutil.which(program, path=_SEARCH_PATH)
    return Path(path) if path else None


def require(packages: dict[str, str]) -> None:
    """Install what is missing of these, where that is known to work; else say what to install."""
    missing = sorted({packages[program] for program in packages if find(program) is None})
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(
            f"Missing on this machine (by Debian's names): {', '.join(missing)}. Install them, or "
            "use --control-plane-only, which needs none of them but runs no pods."
        )
    say(f"Installing packages of Debian that the cluster needs: {', '.join(missing)}.")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], env=quiet, timeout_seconds=600)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
    run([*install, *missing], env=quiet, timeout_seconds=1200)
