"""The process of an aggregator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trainyard_trainer.contract.exits import Exit
from trainyard_trainer.contract.federated import FederatedConfig
from trainyard_trainer.coordinator.process import CoordinatorEnv, ServeOptions, run_process
from trainyard_trainer.federated.server.aggregator import Aggregator
from trainyard_trainer.federated.server.http import AggregatorServer
from trainyard_trainer.transport.tls import Credentials


def run(environ: Mapping[str, str], options: ServeOptions) -> Exit:
    """Aggregate until the federation has ended, or until SIGTERM."""
    return run_process(environ, options, FederatedConfig.decode, _server)


def _server(
    env: CoordinatorEnv[FederatedConfig], state: Path, credentials: Credentials
) -> AggregatorServer:
    return AggregatorServer(Aggregator(env.config, env.term, state), credentials)
