"""Federations from their first round to their end, and the requests that they reject."""

import contextlib
import json
import signal
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.processes.certificates import client
from tests.processes.federation import AUTHORITY, Federation
from tests.processes.running import until
from tests.processes.tasks import Line, Tied
from tests.unit.trainyard_trainer.federated.models import body
from trainyard_trainer.contract.config import Target
from trainyard_trainer.contract.env import MODEL_FILE, PATH_METRICS, Role
from trainyard_trainer.contract.exits import Exit, Result
from trainyard_trainer.contract.federated import (
    PATH_MODEL,
    PATH_ROUND,
    PATH_UPDATE,
    FederatedMetric,
    FederatedPlan,
    PartyConfig,
)
from trainyard_trainer.contract.metrics import Metric
from trainyard_trainer.federated.party.state import ModelState
from trainyard_trainer.federated.protocol.layout import Bytes, Layout, parse_header


class RawParty:
    """A party that sends raw requests, also invalid ones."""

    def __init__(self, federation: Federation, name: str) -> None:
        self.federation, self.name = federation, name
        self.context = client(federation.folder / f"{name}-tls")

    def request(
        self, path: str, data: bytes | None = None, method: str = "", **query: object
    ) -> tuple[int, bytes]:
        parameters = {"party": self.name, "wire": 1, "term": self.federation.term, **query}
        text = "&".join(f"{key}={value}" for key, value in parameters.items())
        return self.federation.request(f"{path}?{text}", data, self.context, method)

    def poll(self) -> dict[str, Any]:
        def instruction() -> Any:
            status, text = self.request(PATH_ROUND, ready=1)
            return status == 200 and json.loads(text)

        received: dict[str, Any] = until(instruction, f"{self.name} gets an instruction")
        return received

    def model(self) -> tuple[Layout, Bytes]:
        whole = self.request(PATH_MODEL)[1]
        length = int.from_bytes(whole[:8], "little")
        layout, _ = parse_header(whole[8 : 8 + length])
        return layout, np.frombuffer(whole[8 + length : -4], np.uint8)

    def send(self, whole: bytes, round_: int) -> tuple[int, dict[str, Any]]:
        status, text = self.request(PATH_UPDATE, whole, round=round_)
        return status, json.loads(text)


def metadata(federation: Federation, number: int, **changes: Any) -> dict[str, Any]:
    common = {"term": federation.term, "round": number, "samples": 10, "weight": 10.0}
    return {**common, "loss": 1.0, **changes}


def save_zeros(federation: Federation, init: str) -> None:
    """Give the federation a starting model, which needs no second party."""
    zeros = {name: torch.zeros_like(t) for name, t in Line().model().state_dict().items()}
    federation.state.mkdir()
    safetensors.torch.save_file(zeros, federation.state / init)


def invalid_updates(
    federation: Federation, number: int, layout: Layout, data: Bytes
) -> dict[str, bytes]:
    with_nan = data.copy()
    with_nan[: layout.entries[0].size].view("<f8")[3] = np.nan
    fewer = Layout.of(layout.entries[1:])
    good = body(layout, data, metadata(federation, number))
    return {
        "NotFinite": body(layout, with_nan, metadata(federation, number)),
        "ShapeMismatch": body(fewer, data[: fewer.size], metadata(federation, number)),
        "WeightInvalid": body(layout, data, metadata(federation, number, weight=-1.0)),
        "ChecksumMismatch": good[:-1] + bytes([good[-1] ^ 1]),
        "SizeMismatch": good + b"and more",
        "HeaderInvalid": b"\xff" * 8 + good,
        "WrongRound": body(layout, data, metadata(federation, number + 1)),
    }


def test_an_invalid_update_is_refused_with_its_reason_and_the_round_continues(
    tmp_path: Path,
) -> None:
    rounds, init = {"max": 2, "min_parties": 1}, "start.safetensors"
    with Federation(tmp_path, "ac", init=init, rounds=rounds) as federation:
        save_zeros(federation, init)
        federation.start_aggregator()
        federation.start_party("a")
        raw = RawParty(federation, "c")
        federation.wait_for_state("a", "Idle")
        assert raw.poll()["instruction"] == "Train"
        layout, data = raw.model()
        status, result = raw.send(invalid_updates(federation, 1, layout, data)["NotFinite"], 1)
        assert (status, result["refusal"]) == (422, "NotFinite")
        federation.wait_for_round(1)
        until(lambda: refusals(federation) == {("c", "NotFinite"): 1}, "the refusal is counted")
        assert raw.request(PATH_ROUND, method="DELETE")[0] == 200
        assert federation.result()["contributions"] == {"a": 2}


def refusals(federation: Federation) -> dict[tuple[str, str], float]:
    name = FederatedMetric.REFUSED + "_total"
    samples = federation.samples()
    return {(labels["party"], labels["reason"]): n for s, labels, n in samples if s == name}


BAD: Final = {
    "n": "NotFinite",
    "s": "ShapeMismatch",
    "w": "WeightInvalid",
    "c": "ChecksumMismatch",
    "z": "SizeMismatch",
    "h": "HeaderInvalid",
    "r": "WrongRound",
}


def test_no_invalid_update_affects_the_model(tmp_path: Path) -> None:
    names, init = "axy" + "".join(BAD), "start.safetensors"
    rounds = {"max": 9, "min_parties": 2}
    with Federation(tmp_path, names, init=init, rounds=rounds) as federation:
        save_zeros(federation, init)
        federation.start_aggregator()
        parties = {name: RawParty(federation, name) for name in names}
        layout = ModelState(Line().model()).layout
        with ThreadPoolExecutor(len(names)) as pool:
            polls = [pool.submit(parties[name].poll) for name in names]
            assert polls[0].result()["instruction"] == "Initial"
            start = np.zeros(layout.size, np.uint8)
            assert parties["a"].send(body(layout, start, metadata(federation, 0)), 0)[0] == 200
            assert {poll.result()["instruction"] for poll in polls[1:]} == {"Train"}
        parties["a"].request(PATH_ROUND, method="DELETE")
        ones = np.ones(layout.size // 8).view(np.uint8)
        good = body(layout, ones, metadata(federation, 1))
        half_upload(parties["x"], good)
        for name, reason in BAD.items():
            whole = invalid_updates(federation, 1, layout, ones)[reason]
            status, result = parties[name].send(whole, 1)
            assert (status, result["refusal"]) == (422, reason)
        assert refusals(federation) == {(*pair,): 1 for pair in BAD.items()}
        # Updates that were corrupted in transit may be sent again.
        assert [parties[name].poll()["instruction"] for name in "czr"] == ["Train"] * 3
        for name in "czr":
            parties[name].request(PATH_ROUND, method="DELETE")
        assert parties["x"].send(good, 1) == (200, {"refusal": None, "message": ""})
        assert parties["x"].send(good, 1)[0] == 200, "it is stored already"
        assert parties["x"].send(good, 2)[0] == 422
        assert parties["y"].send(good, 1)[0] == 200
        federation.wait_for_round(1)
        assert (parties["x"].model()[1].view("<f8") == 1.0).all()
        assert not list(federation.state.glob("checkpoints/.tmp-*/update-*"))
        for name in BAD:
            assert federation.metric(FederatedMetric.PARTY_RECEIVED + "_total", party=name) == 0


def half_upload(raw: RawParty, whole: bytes) -> None:
    """Announce an update, send half of it, disconnect."""
    federation = raw.federation
    query = f"party={raw.name}&wire=1&term={federation.term}&round=1"
    head = f"PUT {PATH_UPDATE}?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(whole)}\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", federation.port)) as plain,
        raw.context.wrap_socket(plain) as secure,
    ):
        secure.sendall(head.encode() + whole[: len(whole) // 2])


def test_a_certificate_is_valid_for_its_own_party_only(tmp_path: Path) -> None:
    with Federation(tmp_path, "ab") as federation:
        federation.start_aggregator()
        a, b = RawParty(federation, "a"), RawParty(federation, "b")
        assert a.request(PATH_ROUND, ready=0)[0] == 200
        a.name = "b"
        assert a.request(PATH_ROUND, ready=0)[0] == 403
        assert a.request(PATH_UPDATE, b"x", round=0)[0] == 403
        assert b.federation.request(PATH_METRICS, context=b.context)[0] == 403
        operator = RawParty(federation, "a")
        operator.context = client(tmp_path / "operator-tls")
        assert operator.request(PATH_ROUND, ready=0)[0] == 403
        AUTHORITY.issue(tmp_path / "other-tls", Role.PARTY, job="other", member="a")
        a.name, a.context = "a", client(tmp_path / "other-tls")
        with pytest.raises((OSError, ssl.SSLError)):
            a.request(PATH_ROUND, ready=0)


def test_the_target_ends_the_rounds_and_the_best_model_is_the_result(tmp_path: Path) -> None:
    target = Target(metric="eval/open", value=1.0)
    with Federation(tmp_path, rounds={"max": 10_000}, target=target) as federation:
        federation.start()
        federation.wait_for_round(2)
        (tmp_path / "gate").touch()
        result = federation.result()
        assert result["metrics"]["eval/open"] == 1.0
        assert 2 <= result["round"] == result["rounds"] < 10_000
        tensors = safetensors.torch.load((federation.state / MODEL_FILE).read_bytes())
        assert tensors["0.weight"].dtype == torch.float64


def test_the_aggregator_waits_until_its_last_metrics_are_scraped(tmp_path: Path) -> None:
    with Federation(tmp_path, rounds={"max": 3}) as federation:
        hold = federation.hold("b")
        federation.start()
        federation.wait_for_state("b", "Training")  # a scrape before the end is not the last one
        hold.unlink()
        for name in "ab":
            assert federation.wait_for_exit(name)[1].result is Result.COMPLETE
        assert federation.aggregator is not None
        federation.aggregator.join(1.0)
        assert federation.aggregator.exitcode is None
        counted = f"{FederatedMetric.PARTY_ROUNDS}_total"
        last = list(federation.samples())  # once: after this scrape it may end
        assert {labels["party"]: n for name, labels, n in last if name == counted} == {
            "a": 3,
            "b": 3,
        }
        assert federation.wait_for_aggregator() == 0


def test_a_suspended_federation_resumes_where_it_stopped(tmp_path: Path) -> None:
    with Federation(tmp_path, rounds={"max": 3}, durable=False) as federation:
        hold = federation.hold("b")
        federation.start()
        federation.wait_for_state("b", "Training")
        config = federation.config
        plan = FederatedPlan(
            generation=1, parties=config.parties, rounds=config.rounds, suspend=True
        )
        assert federation.put(plan) == 200
        hold.unlink()
        for name in "ab":
            code, message = federation.wait_for_exit(name)
            assert (code, message.result) == (0, Result.SUSPENDED)
        assert federation.metric(FederatedMetric.ROUND) == 1
        assert federation.metric(Metric.OUTCOME, result="Suspended") == 1
        assert federation.put(replace(plan, generation=2, suspend=False)) == 200
        for name in "ab":
            federation.start_party(name)
        for name in "ab":
            assert federation.wait_for_exit(name)[1].result is Result.COMPLETE
        assert federation.metric(FederatedMetric.ROUND) == 3


def test_a_federation_starts_from_a_given_model(tmp_path: Path) -> None:
    torch.manual_seed(1234)
    start = Line().model().state_dict()
    (tmp_path / "state").mkdir()
    safetensors.torch.save_file(start, tmp_path / "state" / "start.safetensors")
    lr = (PartyConfig(name="a", lr=0.0), PartyConfig(name="b", lr=0.0))
    with Federation(tmp_path, init="start.safetensors", rounds={"max": 1}) as federation:
        federation.config = replace(federation.config, parties=lr)
        federation.start()
        federation.result()
        result = safetensors.torch.load((federation.state / MODEL_FILE).read_bytes())
        # With a learning rate of 0 parties return the model unchanged.
        assert result.keys() == start.keys()
        for name, tensor in start.items():
            torch.testing.assert_close(result[name], tensor)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_a_model_with_tied_weights_starts_from_any_file_and_leaves_one_that_loads(
    tmp_path: Path, prefix: str
) -> None:
    start = {f"{prefix}{k}": v.clone() for k, v in Tied().double().state_dict().items()}
    if prefix:
        del start[f"{prefix}second.weight"]
    (tmp_path / "state").mkdir()
    safetensors.torch.save_file(start, tmp_path / "state" / "start.safetensors")
    rounds = {"max": 2}
    with Federation(
        tmp_path, task="TiedShare", init="start.safetensors", rounds=rounds
    ) as federation:
        federation.start()
        federation.result()
        model = Tied().double()
        model.load_state_dict(safetensors.torch.load_file(federation.state / MODEL_FILE))
        assert not torch.equal(model.first.weight, start[f"{prefix}first.weight"])


@pytest.mark.parametrize(
    ("config", "code", "error"),
    [
        ({"task": "FailingParty"}, Exit.TASK_FAILED, "the user's own mistake"),
        ({"task": "Line"}, Exit.TASK_INVALID, "task.args"),
        ({"args": {"pase": 1}}, Exit.TASK_FAILED, "pase"),
        ({"target": Target(metric="eval/x", value=1)}, Exit.TASK_INVALID, "target.metric"),
    ],
)
def test_a_failing_task_ends_its_party_with_a_message(
    tmp_path: Path, config: dict[str, Any], code: Exit, error: str
) -> None:
    with Federation(tmp_path, "a", **config) as federation:
        federation.start()
        exit_code, message = federation.wait_for_exit("a")
        assert (exit_code, message.result) == (code, Result.FAILED)
        assert error in message.error


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"init": "nowhere.safetensors"}, "training.init is 'nowhere.safetensors'"),
        ({"init": "term"}, "training.init is 'term', which is not a safetensors file here"),
    ],
)
def test_an_aggregator_without_its_starting_model_ends_with_a_message(
    tmp_path: Path, config: dict[str, Any], error: str
) -> None:
    with Federation(tmp_path, **config) as federation:
        federation.start_aggregator(wait=False)
        assert federation.wait_for_aggregator() == Exit.TASK_INVALID
        assert error in federation.termination_message_of("aggregator").error


def test_images_of_different_wire_versions_end_with_a_message(tmp_path: Path) -> None:
    with Federation(tmp_path, "a") as federation:
        federation.start_aggregator(wait=False, TRAINYARD_WIRE="99")
        assert federation.wait_for_aggregator() == Exit.WIRE_MISMATCH
        federation.start_party("a", TRAINYARD_WIRE="99")
        code, message = federation.wait_for_exit("a")
        assert code == Exit.WIRE_MISMATCH
        for each in (message, federation.termination_message_of("aggregator")):
            assert "wire version 99, this trainer 1" in each.error


def test_a_federation_runs_locally_with_one_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainyard_trainer", "federate"]
    task = ["tests.processes.tasks:Share", "--party", "a", "--party", "b:pace=0.001"]
    options = ["--rounds", "2", "--optimizer", "SGD", "--lr", "0.1", "--output", str(tmp_path)]
    done = subprocess.run(
        [*command, *task, *options], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "round 2/2  2 parties" in done.stderr
    assert "round 2 of 2, 0 lost; rounds contributed to: a 2, b 2" in done.stdout
    assert json.loads((tmp_path / "result.json").read_text())["rounds"] == 2
    safetensors.torch.load((tmp_path / MODEL_FILE).read_bytes())
    failed = subprocess.run(
        [*command, "tests.processes.tasks:Shore"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert failed.returncode == Exit.TASK_INVALID
    assert "has no class 'Shore'" in failed.stderr


def federate_from(init: Path, output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainyard_trainer", "federate"]
    task = ["tests.processes.tasks:Share", "--party", "a", "--party", "b", "--rounds", "1"]
    options = ["--optimizer", "SGD", "--lr", "0", "--init", str(init), "--output", str(output)]
    return subprocess.run(
        [*command, *task, *options], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_local_federation_starts_from_a_file_anywhere(tmp_path: Path) -> None:
    start, init = Line().model().state_dict(), tmp_path / "models" / "start.safetensors"
    init.parent.mkdir()
    safetensors.torch.save_file({f"_orig_mod.{k}": v for k, v in start.items()}, init)
    done = federate_from(init, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    result = safetensors.torch.load_file(tmp_path / "out" / MODEL_FILE)
    for name, tensor in start.items():  # With a learning rate of 0 it is returned unchanged.
        torch.testing.assert_close(result[name], tensor)


@pytest.mark.parametrize(
    ("name", "error"),
    [("model.bin", "model.bin is pickled; convert it with"), ("none", "there is no file")],
)
def test_a_local_federation_refuses_what_is_no_model(tmp_path: Path, name: str, error: str) -> None:
    torch.save(Line().model().state_dict(), tmp_path / "model.bin")
    failed = federate_from(tmp_path / name, tmp_path / "out")
    assert failed.returncode == Exit.TASK_INVALID
    assert error in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (["federate", "tests.processes.tasks:Share", "--party", "a", "--party", "b"], 2),
        (["run", "tests.processes.tasks:Line", "--workers", "2", "--epochs", "1000"], 2),
    ],
)
def test_a_terminated_local_run_leaves_no_process(arguments: list[str], number: int) -> None:
    command = [sys.executable, "-m", "trainyard_trainer", *arguments]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: run.poll() is not None or len(_children_of(run.pid)) == number, "processes")
    assert run.poll() is None, "it ended by itself"
    children = _children_of(run.pid)
    run.terminate()
    assert run.wait(30) == 128 + signal.SIGTERM
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def _children_of(pid: int) -> list[int]:
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                children.append(int(stat.parent.name))
    return children
