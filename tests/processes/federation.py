"""A federation of real processes on this machine, with certificates, for tests to disturb."""

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
    from trainyard_trainer.coordinator.pod import ServeOptions
    from trainyard_trainer.federated.server import process as pod

    cli.set_up_logging()
    if fault:
        faults.install(fault)
    tls, words = f"{folder}/aggregator-tls", f"{folder}/aggregator.words"
    os._exit(pod.run(environ, ServeOptions(port=port, state=state, tls=tls, last_words=words)))


def _take_part(environ: dict[str, str], folder: str, name: str) -> None:
    log_to(folder, name)
    import torch

    from trainyard_trainer import cli
    from trainyard_trainer.federated.party import process as party

    torch.set_num_threads(1)
    cli.set_up_logging()
    party.RETRY_SECONDS = (0.05, 0.2)  # type: ignore[misc]
    words = f"{folder}/{name}.words"
    code = party.run(environ, tls=f"{folder}/{name}-tls", last_words=words, data=f"{folder}/none")
    os._exit(code)


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
            batch_size=9,  # The warm-up's batch, of eight, is told from others by its size.
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
        place = (str(self.folder), self.port, str(self.state), fault)
        self.aggregator = forks.Process(target=_aggregate, args=(env, *place))
        self.aggregator.start()
        if wait:
            until(lambda: self.metric(Metric.TERM) == self.term, "the aggregator answers")

    def end_of_aggregator(self) -> int:
        """Its exit code; it waits for the last reading of its metrics, as an operator makes it."""
        aggregator = self.aggregator
        assert aggregator is not None

        def is_over() -> bool:
            list(self.samples())
            aggregator.join(0.05)
            return aggregator.exitcode is not None

        until(is_over, "the aggregator ends")
        assert aggregator.exitcode is not None
        return aggregator.exitcode

    def kill_coordinator(self) -> None:
        if self.aggregator is not None:
            self.aggregator.kill()
            self.aggregator.join()

    def start_party(self, name: str, **environ: str) -> None:
        place = {
            ENV_PARTY: name,
            ENV_COORDINATOR: f"127.0.0.1:{self.port}",
        }
        self.start_member(name, _take_part, self.environment(**{**place, **environ}))

    def start(self, names: str = "", fault: str = "") -> None:
        self.start_aggregator(fault)
        for name in names or [party.name for party in self.config.parties]:
            self.start_party(name)

    def hold(self, name: str) -> Path:
        """Let a party hold back in its training until the file is removed."""
        path = self.holds / name
        path.touch()
        return path

    # --- what an operator sees ------------------------------------------------------------------

    def put(self, plan: FederatedPlan) -> int:
        return self.request(PATH_PLAN, plan.encode().encode())[0]

    def await_round(self, number: int) -> None:
        """Wait until the model of round `number` is safe."""
        until(lambda: (self.metric(FederatedMetric.ROUND) or 0) >= number, f"round {number}")

    def await_state(self, party: str, state: str) -> None:
        """Wait until a party is in `state`."""
        until(
            lambda: self.metric(FederatedMetric.PARTY_STATE, party=party, state=state),
            f"{party} is {state}",
        )

    def result(self) -> dict[str, Any]:
        """Let all end well; the content of result.json."""
        assert self.end_of_aggregator() == 0
        self.end_well()
        found: dict[str, Any] = json.loads((self.state / RESULT_FILE).read_text())
        return found
