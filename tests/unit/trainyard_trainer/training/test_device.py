"""The device that a process trains on: the CPU only where no GPU was requested."""

from pathlib import Path

import pytest
import torch

from trainyard_trainer.contract.env import DEVICE_REQUIRED, ENV_DEVICE
from trainyard_trainer.contract.exits import Exit
from trainyard_trainer.elastic.worker import WorkerEnv
from trainyard_trainer.federated.party.process import PartyEnv
from trainyard_trainer.runtime.exits import NoDevice, describe
from trainyard_trainer.training.device import choose_device

NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you\n  have a GPU"


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A container in which PyTorch finds no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return monkeypatch


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RuntimeError(NO_DRIVER), id="no driver"),
        pytest.param(AssertionError(NO_DRIVER), id="built without CUDA"),
    ],
)
def test_a_required_device_that_is_missing_ends_the_process_with_pytorchs_words(
    no_cuda: pytest.MonkeyPatch, error: Exception
) -> None:
    no_cuda.setattr(torch.cuda, "init", lambda: _raise(error))
    with pytest.raises(NoDevice) as raised:
        choose_device(is_required=True)
    code, message = describe(raised.value)
    assert code is Exit.NO_DEVICE
    assert message.error == (
        "this pod requests a GPU, and PyTorch finds none: Found no NVIDIA driver on your system. "
        "Please check that you have a GPU"
    )


@pytest.mark.usefixtures("no_cuda")
def test_without_a_request_the_cpu_is_as_good() -> None:
    assert choose_device() == torch.device("cpu")


def test_cuda_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(is_required=True) == torch.device("cuda")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, False), ({ENV_DEVICE: ""}, False), ({ENV_DEVICE: DEVICE_REQUIRED}, True)],
)
def test_the_environment_says_whether_a_device_is_required(
    tmp_path: Path, variables: dict[str, str], expected: bool
) -> None:
    names = ("NAMESPACE", "JOB", "POD", "POD_IP", "COORDINATOR", "PARTY")
    environ = {**{f"TRAINYARD_{name}": "a" for name in names}, **variables}
    assert WorkerEnv.read(environ, "tls").needs_device is expected
    assert PartyEnv.read(environ, "tls", tmp_path).needs_device is expected
