"""The aggregator's imports, peers of other releases, and the command line's parties."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from trainyard_trainer.cli import parse_party
from trainyard_trainer.contract.federated import FederatedConfig, PartyConfig, StrategyConfig
from trainyard_trainer.federated.party import client as client_module
from trainyard_trainer.federated.party.client import AggregatorClient, AggregatorUnavailable
from trainyard_trainer.federated.server.aggregator import Aggregator
from trainyard_trainer.federated.server.http import AggregatorServer
from trainyard_trainer.runtime.exits import TaskInvalid, TrainerError, WireMismatch
from trainyard_trainer.transport.tls import Credentials

CONFIG = FederatedConfig(task="m:C", parties=(PartyConfig(name="a"),))


def test_the_aggregator_runs_without_torch() -> None:
    code = (
        "import sys, trainyard_trainer.federated.server.process; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_party_of_another_wire_version_gets_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_credentials = Credentials(namespace="n", job="j", directory=str(tmp_path / "no_credentials"))
    server = AggregatorServer(Aggregator(CONFIG, 1, tmp_path / "state"), no_credentials)
    async with server.serving("127.0.0.1", 0) as port:
        client = AggregatorClient(f"127.0.0.1:{port}", "a", no_credentials)
        announcement = await asyncio.to_thread(client.poll, ready=False)
        assert announcement is not None
        assert (announcement.term, announcement.config.task) == (1, "m:C")
        with pytest.raises(AggregatorUnavailable, match="is not a party"):
            await asyncio.to_thread(
                AggregatorClient(f"127.0.0.1:{port}", "b", no_credentials).poll, ready=False
            )
        monkeypatch.setattr(client_module, "WIRE_VERSION", 2)
        with pytest.raises(
            WireMismatch, match="the party speaks wire version 2, this aggregator 1"
        ):
            await asyncio.to_thread(client.poll, ready=False)
        client.close()


async def test_a_party_does_not_follow_a_replaced_term(tmp_path: Path) -> None:
    no_credentials = Credentials(namespace="n", job="j", directory=str(tmp_path / "no_credentials"))
    server = AggregatorServer(Aggregator(CONFIG, 3, tmp_path / "state"), no_credentials)
    async with server.serving("127.0.0.1", 0) as port:
        client = AggregatorClient(f"127.0.0.1:{port}", "a", no_credentials)
        client.term = 4
        with pytest.raises(AggregatorUnavailable, match="it has term 3; term 4 has replaced it"):
            await asyncio.to_thread(client.poll, ready=False)
        client.close()
        # A quorum, here of one, knows of a higher term: the old aggregator gives way.
        assert isinstance(server.aggregator.ended.exception(), TrainerError)


def test_plain_http_is_for_loopback_only(tmp_path: Path) -> None:
    no_credentials = Credentials(namespace="n", job="j", directory=str(tmp_path))
    with pytest.raises(TrainerError, match="plain HTTP is for loopback"):
        AggregatorClient("aggregator.example:7430", "a", no_credentials)


async def test_an_unknown_strategy_ends_the_aggregator(tmp_path: Path) -> None:
    unknown = replace(CONFIG, strategy=StrategyConfig(name="FedSGD"))
    with pytest.raises(TaskInvalid, match=r"strategy\.name is 'FedSGD'"):
        Aggregator(FederatedConfig.decode(unknown.encode()), 1, tmp_path)


@pytest.mark.parametrize(
    ("text", "party"),
    [
        ("a", PartyConfig(name="a")),
        ("a:part=1,of=x", PartyConfig(name="a", args={"part": 1, "of": "x"})),
        ("a:lr=0.5,part=1", PartyConfig(name="a", args={"part": 1}, lr=0.5)),
    ],
)
def test_a_party_on_the_command_line_may_have_arguments(text: str, party: PartyConfig) -> None:
    assert parse_party(text) == party


def test_an_invalid_party_on_the_command_line_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="'part' is not name=value"):
        parse_party("a:part")
