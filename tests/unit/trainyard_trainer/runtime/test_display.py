"""The summary of a training that was run on this machine."""

from trainyard_trainer.display import summary


def test_a_metric_that_is_not_finite_is_in_the_summary() -> None:
    result = {"metrics": {"eval/error": None, "eval/accuracy": 0.5}, "steps": 1, "samples": 2}
    result |= {"epochs": 1.0, "seconds": 1.0, "epochs_audited": 1, "samples_wrong": 0}
    assert summary(result).startswith("eval/accuracy = 0.5000\neval/error = not finite\n")
