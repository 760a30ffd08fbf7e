"""The cluster's programs, built once from one Go module into the cache.

Nothing is downloaded as a binary: the Go module proxy has the sources, at exact versions.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.localcluster.cache import cache_root, content_key, exclusive, scratch
from tools.localcluster.commands import run, tail
from tools.localcluster.errors import ClusterError
from tools.localcluster.progress import bar, say

MODULE = Path(__file__).parent / "go"

COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
)
"""Names under which the one Kubernetes binary is called."""

_PACKAGES = ("./cmd/...", "tool")
_BUILD = ("go", "build", "-v", "-mod=readonly", "-buildvcs=false", "-trimpath")
_KEPT = 3
"""How many builds stay: those of other checkouts, and of clusters that run."""
_MINUTES = 9
"""Measured on two cores with empty caches."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder of programs."""

    folder: Path

    def __getitem__(self, name: str) -> Path:
        return self.folder / name


def linker_flags(requirements: str) -> str:
    """The flags that tell the programs their versions, which a plain build leaves as `v0.0.0`."""
    versions = dict(re.findall(r"^\s*(\S+) (v\S+)$", requirements, re.MULTILINE))
    kubernetes = versions["k8s.io/kubernetes"]
    major, minor, _ = kubernetes.removeprefix("v").split(".")
    component = "k8s.io/component-base/version"
    values = {
        f"{component}.gitVersion": kubernetes,
        f"{component}.gitMajor": major,
        f"{component}.gitMinor": minor,
        "github.com/containerd/containerd/v2/version.Version": versions[
            "github.com/containerd/containerd/v2"
        ],
        "helm.sh/helm/v4/internal/version.version": versions["helm.sh/helm/v4"],
        "sigs.k8s.io/kwok/pkg/consts.Version": versions["sigs.k8s.io/kwok"],
    }
    return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in values.items())])


def ensure_binaries() -> Binaries:
    """Return the programs, building them first when the cache lacks them."""
    folder = cache_root() / "bin" / _key()
    if not folder.exists():
        with exclusive(cache_root() / "bin.turn"):
            if not folder.exists():
                _build(folder)
    return Binaries(folder)


def _key() -> str:
    sources = [path for path in MODULE.rglob("*") if path.is_file()]
    return content_key([*_BUILD, *_PACKAGES, os.uname().machine], sources, MODULE)


def _build(folder: Path) -> None:
    if shutil.which("go") is None:
        raise ClusterError(
            "The cluster's programs are built once, and that needs Go (the version that "
            f"{MODULE / 'go.mod'} names, or newer): install it and try again."
        )
    say(
        f"Building Kubernetes and what belongs to it into {folder}: about {_MINUTES} minutes on "
        "two cores, once per machine."
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch() as fresh:
        _compile(fresh / "bin", folder.parent / "build.log")
        for component in COMPONENTS:
            (fresh / "bin" / component).symlink_to("kubernetes")
        (fresh / "bin").rename(folder)
    for old in sorted(folder.parent.glob("*/"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(old)


def _compile(target: Path, log: Path) -> None:
    """Run the build, counting the packages it names while it compiles them."""
    target.mkdir()
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": ""}
    listed = run(["go", "list", "-deps", *_PACKAGES], cwd=MODULE, env=env, timeout_seconds=1800)
    flags = linker_flags((MODULE / "go.mod").read_text())
    command = [*_BUILD, "-ldflags", flags, "-o", f"{target}/", *_PACKAGES]
    total = len(set(listed.split()))
    with (
        log.open("w") as written,
        bar("Building", total) as shown,
        subprocess.Popen(
            command,
            cwd=MODULE,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as build,
    ):
        for count, line in enumerate(build.stdout or ()):
            written.write(line)
            shown.advance(min(count, total - 1), line.strip())
        shown.advance(total)
    if build.returncode:
        raise ClusterError(f"the build failed; the end of {log}:\n{tail(log)}")
