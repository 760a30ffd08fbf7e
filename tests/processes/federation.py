"""A federation of local processes with certificates."""

import json
import os
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.processes.certificates import Authority, client
from tests.processes.running import RunningJob, forks, log_to, until
from trainyard_trainer.contract.env import (
    ENV_CONFIG,
    ENV_COORDINATOR,
    ENV_PARTY,
    ENV_TERM,
    PATH_PLAN,
    RESULT_FILE,
    Role,
)
from trainyard_trainer.contract.federated import (
    FederatedConfig,
    FederatedMetric,
    FederatedPlan,
    PartyConfig,
    RoundsConfig,
)
from trainyard_trainer.contract.metrics import Metric

AUTHORITY = Authority()


def _aggregate(environ: dict[str, str], folder: str, port: int, state: str, fault: str) -> None:
    log_to(folder, "aggregator")
    from tests.processes import faults
    from trainyard_trainer import cli
    from trainyard_trainer.coordinator.process import ServeOptions
    from trainyard_trainer.federated.server import process

    cli.set_up_logging()
    if fault:
        faults.install(fault)
    tls, log = f"{folder}/aggregator-tls", f"{folder}/aggregator.termination"
    options = ServeOptions(port=port, state=state, tls=tls, termination_log=log)
    os._exit(process.run(environ, options))


def _participate(environ: dict[str, str], folder: str, name: str) -> None:
    log_to(folder, name)
    import torch

    from trainyard_trainer import cli
    from trainyard_trainer.federated.party import process

    torch.set_num_threads(1)
    cli.set_up_logging()
    process.RETRY_SECONDS = (0.05, 0.2)  # type: ignore[misc]
    tls, log = f"{folder}/{name}-tls", f"{folder}/{name}.termination"
    os._exit(process.run(environ, tls=tls, termination_log=log, data=f"{folder}/none"))


class Federation(RunningJob):
    """An aggregator and parties."""

    def __init__(self, folder: Path, parties: str = "ab", **config: Any) -> None:
        super().__init__(folder)
        self.holds = folder / "holds"
        self.holds.mkdir()
        task = config.pop("task", "Share")
        args = {"gate": str(folder / "gate"), "holds": str(self.holds), **config.pop("args", {})}
        rounds = {"max": 3, "min_parties": len(parties), "deadline_seconds": 60.0}
        self.config = FederatedConfig(
            task=f"tests.processes.tasks:{task}",
            args=args,
            parties=tuple(PartyConfig(name=name) for name in parties),
            rounds=RoundsConfig(**{**rounds, **config.pop("rounds", {})}),
            batch_size=9,  # Distinguishes batches from the warm-up's, which has eight samples.
            durable=True,
        )
        self.config = replace(self.config, **config)
        self.state = folder / "state"
        self.aggregator: ForkServerProcess | None = None
        AUTHORITY.issue(folder / "aggregator-tls", Role.COORDINATOR)
        AUTHORITY.issue(folder / "operator-tls", Role.OPERATOR)
        for party in self.config.parties:
            AUTHORITY.issue(folder / f"{party.name}-tls", Role.PARTY, member=party.name)
        self.tls = client(folder / "operator-tls")

    # --- processes ------------------------------------------------------------------------------

    def start_aggregator(self, fault: str = "", *, wait: bool = True, **environ: str) -> None:
        self.term += 1
        config = {ENV_TERM: str(self.term), ENV_CONFIG: self.config.encode()}
        env = self.environment(**config, **environ)
        args = (str(self.folder), self.port, str(self.state), fault)
        self.aggregator = forks.Process(target=_aggregate, args=(env, *args))
        self.aggregator.start()
        if wait:
            until(lambda: self.metric(Metric.TERM) == self.term, "the aggregator responds")

    def wait_for_aggregator(self) -> int:
        """Scrape the aggregator, as an operator does, until it exits; returns its exit code."""
        aggregator = self.aggregator
        assert aggregator is not None

        def has_exited() -> bool:
            list(self.samples())
            aggregator.join(0.05)
            return aggregator.exitcode is not None

        until(has_exited, "the aggregator exits")
        assert aggregator.exitcode is not None
        return aggregator.exitcode

    def kill_coordinator(self) -> None:
        if self.aggregator is not None:
            self.aggregator.kill()
            self.aggregator.join()

    def start_party(self, name: str, **environ: str) -> None:
        variables = {ENV_PARTY: name, ENV_COORDINATOR: f"127.0.0.1:{self.port}", **environ}
        self.start_member(name, _participate, self.environment(**variables))

    def start(self, names: str = "", fault: str = "") -> None:
        self.start_aggregator(fault)
        for name in names or [party.name for party in self.config.parties]:
            self.start_party(name)

    def hold(self, name: str) -> Path:
        """Pause a party's training until the returned file is removed."""
        path = self.holds / name
        path.touch()
        return path

    # --- the operator's view ---------------------------------------------------------------------

    def put(self, plan: FederatedPlan) -> int:
        return self.request(PATH_PLAN, plan.encode().encode())[0]

    def wait_for_round(self, number: int) -> None:
        """Wait until the model of round `number` is stored."""
        until(lambda: (self.metric(FederatedMetric.ROUND) or 0) >= number, f"round {number}")

    def wait_for_state(self, party: str, state: str) -> None:
        """Wait until a party is in `state`."""
        until(
            lambda: self.metric(FederatedMetric.PARTY_STATE, party=party, state=state),
            f"{party} is {state}",
        )

    def result(self) -> dict[str, Any]:
        """Wait for the completion; returns the content of result.json."""
        assert self.wait_for_aggregator() == 0
        self.wait_until_complete()
        result: dict[str, Any] = json.loads((self.state / RESULT_FILE).read_text())
        return result
