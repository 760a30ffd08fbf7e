"""A federation of real processes on this machine, with certificates, for tests to disturb."""

import http.client
import json
import os
import signal
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.trainer.certificates import Authority, client
from tests.trainer.job import DEADLINE, forks, free_port, until
from trainyard_trainer import contract
from trainyard_trainer.contract import LastWords, Metric, Role
from trainyard_trainer.contract.federated import (
    FederatedConfig,
    FederatedMetric,
    FederatedPlan,
    PartyConfig,
    Rounds,
)

AUTHORITY = Authority()
PORT_NAME = "127.0.0.1"


def _open_log(folder: str, name: str) -> None:
    log = os.open(f"{folder}/{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _aggregate(environ: dict[str, str], folder: str, port: int, state: str, fault: str) -> None:
    _open_log(folder, "aggregator")
    from tests.trainer import faults
    from trainyard_trainer import cli
    from trainyard_trainer.coordinator.pod import Place
    from trainyard_trainer.federated import pod

    cli.set_up_logging()
    if fault:
        faults.install(fault)
    tls, words = f"{folder}/aggregator-tls", f"{folder}/aggregator.words"
    os._exit(pod.run(environ, Place(port=port, state=state, tls=tls, last_words=words)))


def _take_part(environ: dict[str, str], folder: str, name: str) -> None:
    _open_log(folder, name)
    import torch

    from trainyard_trainer import cli
    from trainyard_trainer.federated import party

    torch.set_num_threads(1)
    cli.set_up_logging()
    party.RETRY_SECONDS = (0.05, 0.2)  # type: ignore[misc]
    words = f"{folder}/{name}.words"
    code = party.run(environ, tls=f"{folder}/{name}-tls", last_words=words, data=f"{folder}/none")
    os._exit(code)


class Federation:
    """An aggregator and parties; whatever still runs at the end is killed."""

    def __init__(self, folder: Path, parties: str = "ab", **config: Any) -> None:
        self.folder, self.holds = folder, folder / "holds"
        self.holds.mkdir()
        task = config.pop("task", "Share")
        args = {"gate": str(folder / "gate"), "holds": str(self.holds), **config.pop("args", {})}
        rounds = {"max": 3, "min_parties": len(parties), "deadline_seconds": 60.0}
        self.config = FederatedConfig(
            task=f"tests.trainer.tasks:{task}",
            args=args,
            parties=tuple(PartyConfig(name=name) for name in parties),
            rounds=Rounds(**{**rounds, **config.pop("rounds", {})}),
            batch_size=9,  # The warm-up's batch, of eight, is told from others by its size.
            durable=True,
        )
        self.config = replace(self.config, **config)
        self.port, self.term = free_port(), 0
        self.state = folder / "state"
        self.parties: dict[str, ForkServerProcess] = {}
        self.aggregator: ForkServerProcess | None = None
        AUTHORITY.issue(folder / "aggregator-tls", Role.COORDINATOR)
        AUTHORITY.issue(folder / "operator-tls", Role.OPERATOR)
        for party in self.config.parties:
            AUTHORITY.issue(folder / f"{party.name}-tls", Role.PARTY, member=party.name)
        self.operator = client(folder / "operator-tls")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in [self.aggregator, *self.parties.values()]:
            if process is not None:
                process.kill()
                process.join()
        if error is not None:
            for log in sorted(self.folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-6000:]}")

    # --- processes ------------------------------------------------------------------------------

    def start_aggregator(self, fault: str = "", *, wait: bool = True, **environ: str) -> None:
        self.term += 1
        env = {
            contract.ENV_NAMESPACE: "test",
            contract.ENV_JOB: "job",
            contract.ENV_TERM: str(self.term),
            contract.ENV_CONFIG: self.config.encode(),
            **environ,
        }
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

    def kill_aggregator(self) -> None:
        assert self.aggregator is not None
        self.aggregator.kill()
        self.aggregator.join()

    def start_party(self, name: str, **environ: str) -> None:
        env = {
            contract.ENV_NAMESPACE: "test",
            contract.ENV_JOB: "job",
            contract.ENV_PARTY: name,
            contract.ENV_COORDINATOR: f"{PORT_NAME}:{self.port}",
            **environ,
        }
        party = forks.Process(target=_take_part, args=(env, str(self.folder), name))
        party.start()
        self.parties[name] = party

    def start(self, names: str = "", fault: str = "") -> None:
        self.start_aggregator(fault)
        for name in names or [party.name for party in self.config.parties]:
            self.start_party(name)

    def signal(self, name: str, number: int = signal.SIGTERM) -> None:
        pid = self.parties[name].pid
        assert pid is not None
        os.kill(pid, number)

    def exit_of(self, name: str) -> tuple[int, LastWords]:
        """The exit code and last words of a party that ends now."""
        party = self.parties.pop(name)
        party.join(DEADLINE)
        assert party.exitcode is not None, f"{name} did not end"
        return party.exitcode, self.words_of(name)

    def words_of(self, name: str) -> LastWords:
        words = LastWords.decode((self.folder / f"{name}.words").read_text())
        assert words is not None
        return words

    def hold(self, name: str) -> Path:
        """Let a party hold back in its training until the file is removed."""
        path = self.holds / name
        path.touch()
        return path

    # --- what an operator sees ------------------------------------------------------------------

    def request(
        self,
        path: str,
        data: bytes | None = None,
        context: ssl.SSLContext | None = None,
        method: str = "",
    ) -> tuple[int, bytes]:
        method = method or ("GET" if data is None else "PUT")
        url = f"https://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data=data, method=method)
        try:
            with urllib.request.urlopen(
                request, timeout=30, context=context or self.operator
            ) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def put(self, plan: FederatedPlan) -> int:
        return self.request(contract.PATH_PLAN, plan.encode().encode())[0]

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        try:
            _, body = self.request(contract.PATH_METRICS)
        except (OSError, http.client.HTTPException):
            return
        for family in text_string_to_metric_families(body.decode()):  # type: ignore[no-untyped-call]
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value

    def metric(self, name: str, **labels: str) -> float | None:
        for found, its, value in self.samples():
            if found == name and its.items() >= labels.items():
                return value
        return None

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
        for name in list(self.parties):
            code, words = self.exit_of(name)
            assert (code, words.result) == (0, contract.Result.COMPLETE)
        found: dict[str, Any] = json.loads((self.state / contract.RESULT_FILE).read_text())
        return found
