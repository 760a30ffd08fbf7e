"""`python -m tools.localcluster`: the cluster of the tests and the demo, from the command line."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tools.localcluster.binaries import ensure_binaries
from tools.localcluster.cache import exclusive
from tools.localcluster.cluster import provider_for
from tools.localcluster.errors import ClusterError
from tools.localcluster.images import build_image, can_build, find_engine, images_turn, own_tags
from tools.localcluster.options import ClusterOptions
from tools.localcluster.progress import say
from tools.localcluster.state import State

_DEFAULT = ClusterOptions().name
_CLUSTER_VARIABLE = "TRAINYARD_CLUSTER"
_PROGRAMS = ("kubectl", "helm")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; its failure is a sentence and exit code 1."""
    words = sys.argv[1:] if words is None else words
    try:
        if words and words[0] in _PROGRAMS:
            return _pass_on(words)
        arguments = _parser().parse_args(words)
        arguments.command(arguments)
    except ClusterError as error:
        say(f"Error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _pass_on(words: Sequence[str]) -> int:
    """Run kubectl or helm as they suit the cluster, on the cluster unless KUBECONFIG says other."""
    options = ClusterOptions(name=os.environ.get(_CLUSTER_VARIABLE, _DEFAULT))
    provider = provider_for(options)
    environment = {"KUBECONFIG": str(provider.kubeconfig(options.name)), **os.environ}
    command = [str(provider.program(words[0])), *words[1:]]
    return subprocess.run(command, env=environment, check=False).returncode


def _prepare(arguments: argparse.Namespace) -> None:
    del arguments
    ensure_binaries()
    if not can_build():
        say("Trainyard's images are not built: that needs root or a Docker engine. Only the")
        say("tests that run on a control plane alone can run here.")
        return
    with images_turn():
        for tag in own_tags():
            build_image(find_engine(), tag)
    say("All that a cluster is made of is built.")


def _up(arguments: argparse.Namespace) -> None:
    options = _options(arguments)
    began = time.monotonic()
    provider = provider_for(options)
    started = provider.up(options)
    say(f"{'Started' if started else 'Found'} in {time.monotonic() - began:.1f} s.")
    say(provider.status(options.name))
    print(f"export KUBECONFIG={provider.kubeconfig(options.name)}")


def _down(arguments: argparse.Namespace) -> None:
    provider_for(_options(arguments)).down(arguments.name)
    if arguments.purge:
        _purge(State.of(arguments.name))
    say(f"Cluster {arguments.name} is down.")


def _purge(state: State) -> None:
    with exclusive(state.turn):
        if state.supervisor() is None:  # somebody else may have started it again
            shutil.rmtree(state.root, ignore_errors=True)


def _status(arguments: argparse.Namespace) -> None:
    print(provider_for(_options(arguments)).status(arguments.name))


def _load_image(arguments: argparse.Namespace) -> None:
    provider = provider_for(_options(arguments))
    for tag in arguments.tags:
        provider.load_image(arguments.name, tag)
        say(f"Pods of {arguments.name} can use {tag}.")


def _kubeconfig(arguments: argparse.Namespace) -> None:
    print(provider_for(_options(arguments)).kubeconfig(arguments.name))


def _options(arguments: argparse.Namespace) -> ClusterOptions:
    fields = ClusterOptions.__dataclass_fields__
    return ClusterOptions(**{key: value for key, value in vars(arguments).items() if key in fields})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.localcluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    up = _command(commands, "up", _up, "start a cluster, or find the one of that name")
    up.add_argument("--gpus", type=int, default=8, help="GPUs the real node advertises")
    up.add_argument("--simulated-nodes", type=int, default=0, metavar="N", help="nodes of KWOK")
    up.add_argument("--gpus-per-node", type=int, default=8, help="GPUs of a simulated node")
    up.add_argument("--control-plane-only", action="store_true", help="no node that runs pods")
    up.add_argument("--stock-limits", action="store_true", help="client limits as shipped")
    down = _command(commands, "down", _down, "end a cluster with all it made")
    down.add_argument("--purge", action="store_true", help="forget its logs and images as well")
    _command(commands, "status", _status, "say how a cluster fares")
    _command(commands, "kubeconfig", _kubeconfig, "print the path of a cluster's kubeconfig")
    load = _command(commands, "load-image", _load_image, "make an image usable by pods")
    prepare = commands.add_parser("prepare", help="build programs and images, once per machine")
    prepare.set_defaults(command=_prepare)
    for program in _PROGRAMS:
        text = f"run {program} on the cluster that {_CLUSTER_VARIABLE} names (default: {_DEFAULT})"
        commands.add_parser(program, help=text)
    load.add_argument("tags", nargs="+", metavar="TAG", help="for example trainyard-operator:0.1.0")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    function: Callable[[argparse.Namespace], None],
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text)
    parser.set_defaults(command=function)
    parser.add_argument("--name", default=_DEFAULT, help=f"which cluster (default: {_DEFAULT})")
    parser.add_argument("--context", help="an existing kube-context to use instead")
    parser.add_argument("--provider", choices=["auto", "context", "kind", "local"], default="auto")
    return parser


if __name__ == "__main__":
    sys.exit(main())
