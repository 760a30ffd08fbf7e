"""Model files load as documented, and files as others publish them start a job."""

import io
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from tests.processes.tasks import Line, Tied
from tests.unit.trainyard_trainer.training.test_replica import make, turn
from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.training.result import final_model


class Words(Line):
    def model(self) -> nn.Module:
        return Tied().double()


def test_the_model_file_loads_by_the_documented_line() -> None:
    replica = make(Words())
    turn([replica])
    model = Words().model()
    model.load_state_dict(safetensors.torch.load(final_model(replica)))
    for name, value in replica.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("left_out", ["", "first.weight", "second.weight"])
def test_files_as_others_publish_them_start_a_job(prefix: str, left_out: str) -> None:
    state = {f"{prefix}{k}": v.clone() + 1.0 for k, v in Words().model().state_dict().items()}
    state.pop(f"{prefix}{left_out}", None)
    replica = make(Words())
    replica.start_from(safetensors.torch.save(state), "the file")
    found = replica.model.state_dict()
    assert torch.equal(found["last.weight"], state[f"{prefix}last.weight"])
    names = (f"{prefix}{name}.weight" for name in ("first", "second"))
    tied = next(state[name] for name in names if name in state)
    assert torch.equal(found["first.weight"], tied)


def test_unequal_values_of_tied_tensors_are_refused() -> None:
    state: dict[str, Any] = {k: v.clone() for k, v in Words().model().state_dict().items()}
    state["second.weight"] += 1.0
    with pytest.raises(TaskInvalid, match=r"other values for second\.weight"):
        make(Words()).start_from(safetensors.torch.save(state), "the file")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_file_is_refused_with_the_line_that_converts_it(zipped: bool) -> None:
    file = io.BytesIO()
    torch.save(Line().model().state_dict(), file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(TaskInvalid, match=r"pickled; convert it with: python -c .*save_file"):
        make(Line()).start_from(file.getvalue(), "model.bin")


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480])
def test_a_header_whose_length_looks_like_a_pickle_is_no_pickle(length: int) -> None:
    state = {k: v.clone() + 1.0 for k, v in Line().model().state_dict().items()}
    sizes = {
        len(data := safetensors.torch.save(state, {"note": "x" * size})): data
        for size in range(length)
    }
    files = [data for data in sizes.values() if int.from_bytes(data[:8], "little") == length]
    replica = make(Line())
    replica.start_from(files[0], "the file")
    assert torch.equal(replica.model.state_dict()["0.weight"], state["0.weight"])
