"""The operator's flags: what they are parsed into, and what is rejected."""

from __future__ import annotations

import inspect
from datetime import timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from trainyard import __main__, options
from trainyard.api.pools import NodePool
from trainyard.cluster.leaderelection import LeaseTimings
from trainyard.options import OperatorOptions
from trainyard.reconcile.dependencies import Options
from trainyard.scheduling.proposal import SchedulerSettings

POOL = '{"name":"a100","gpus":8,"labels":{"pool":"a100"},"maxNodes":3}'


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[OperatorOptions, Options]]:
    """What a command line would run the operator with."""
    found: list[tuple[OperatorOptions, Options]] = []
    monkeypatch.setattr(__main__, "run", lambda *given: found.append(given))
    return found


def invoke(*flags: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(__main__.main)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, flags)
    return result.exit_code, result.output


def test_the_defaults_are_those_of_the_options(
    parsed: list[tuple[OperatorOptions, Options]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTNAME", "trainyard")
    assert invoke("--kubeconfig", "config") == (0, "")
    [(process, reconciling)] = parsed
    assert reconciling == Options()
    assert process.timing == LeaseTimings()
    assert process.kubeconfig == Path("config")
    assert not process.lease
    assert not process.is_direct, "outside the cluster coordinators are reached by port-forward"


def test_flags_reach_the_options(parsed: list[tuple[OperatorOptions, Options]]) -> None:
    code, _ = invoke(
        *("--namespace", "a", "--namespace", "b", "--reach", "direct", "--leader-elect"),
        *("--service-name", "coordinators", "--run-as-user", "1000700000"),
        *("--priority-class", "urgent=team-a,team-b", "--priority-class", "nobody="),
        *("--blocked-start-timeout", "9s", "--start-backoff", "3s", "--max-start-backoff", "12s"),
        *("--pod-events-after", "4s"),
        *("--lease-name", "mine", "--start-timeout", "90s", "--scrape-interval", "2m"),
        *("--bind-timeout", "7s", "--volume-timeout", "8s", "--provision-timeout", "9s"),
        *("--not-placed-backoff", "6s", "--pool", POOL),
        *("--scrape-timeout", "3s", "--unreachable-timeout", "2s", "--replace-timeout", "4s"),
        *("--stalled-after", "11m"),
    )
    assert code == 0
    [(process, reconciling)] = parsed
    assert reconciling.namespaces == ("a", "b")
    assert reconciling.service_name == "coordinators"
    assert reconciling.run_as_user == 1_000_700_000
    assert reconciling.priority_class_namespaces == {
        "urgent": {"team-a", "team-b"},
        "nobody": frozenset(),
    }
    timeouts = reconciling.timeouts
    assert timeouts.start_timeout == timedelta(seconds=90)
    assert timeouts.blocked_start_timeout == timedelta(seconds=9)
    assert timeouts.start_backoff == timedelta(seconds=3)
    assert timeouts.max_start_backoff == timedelta(seconds=12)
    assert timeouts.pod_events_after == timedelta(seconds=4)
    assert timeouts.bind_timeout == timedelta(seconds=7)
    assert timeouts.provision_timeout == timedelta(seconds=9)
    assert reconciling.scheduling == SchedulerSettings(
        bind_timeout=timedelta(seconds=7),
        volume_timeout=timedelta(seconds=8),
        provision_timeout=timedelta(seconds=9),
        not_placed_backoff=timedelta(seconds=6),
        pools=(NodePool(name="a100", gpus=8, labels={"pool": "a100"}, max_nodes=3),),
    )
    assert reconciling.scrape_interval == timedelta(minutes=2)
    assert reconciling.scrape_timeout == timedelta(seconds=3)
    assert reconciling.timeouts.unreachable_timeout == timedelta(seconds=2)
    assert reconciling.timeouts.replace_timeout == timedelta(seconds=4)
    assert reconciling.timeouts.stalled_after == timedelta(minutes=11)
    assert (process.lease, process.is_direct) == ("mine", True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--scrape-interval", "soon"), "soon"),
        (("--replace-timeout", "30s"), "must not be shorter than --unreachable-timeout=1m"),
        (("--start-backoff", "0s"), "--start-backoff must be at least 1s, not 0s"),
        (("--start-backoff", "2h"), "--max-start-backoff must not be shorter than --start-backoff"),
        (("--blocked-start-timeout", "1"), "'1' is not a duration"),
        (("--lease-duration", "1500ms"), "--lease-duration must be whole seconds"),
        (("--renew-deadline", "15s"), "--renew-deadline must be shorter"),
        (("--reach", "smoke"), "smoke"),
        (("--not-placed-backoff", "0s"), "--not-placed-backoff=0s must be longer than nothing"),
        (("--pool", "a100"), "--pool a100: JSON is malformed"),
        (("--pool", '{"name":"a"}'), "missing required field `gpus`"),
        (("--pool", POOL.replace("8", "0")), "Expected `int` >= 1 - at `$.gpus`"),
        (("--pool", POOL.replace("maxNodes", "max")), "unknown field `max`"),
        (("--pool", POOL.replace('"pool":"a100"', "")), "length >= 1 - at `$.labels`"),
        (("--pool", POOL, "--pool", POOL), "two pools have the name 'a100'"),
        (("--service-name", "team.trainyard"), "'team.trainyard' is not the name of a Service"),
        (("--priority-class", "urgent"), "'urgent' must be CLASS=NAMESPACE"),
        (("--priority-class", "=team-a"), "'=team-a' must be CLASS=NAMESPACE"),
        (("--run-as-user", "0"), "--run-as-user=0 must be a number from 1 to 2147483647, or platf"),
        (("--run-as-user", "2147483648"), "must be a number from 1 to"),
        (("--run-as-user", "9" * 5000), "must be a number from 1 to"),
        (("--run-as-user", "nobody"), "no pod of a job runs as root"),
        (("--service-name", "9th"), "'9th' is not the name of a Service"),
        (("--service-name", ""), "'' is not the name of a Service"),
        (("--service-name", "s" * 64), "is not the name of a Service: at most 63"),
    ],
)
def test_wrong_flags_are_rejected_with_a_message(
    flags: tuple[str, str], message: str, parsed: list[tuple[OperatorOptions, Options]]
) -> None:
    code, output = invoke(*flags)
    assert code == 2
    assert message in output
    assert parsed == []


def test_the_user_of_pods_can_be_left_to_the_platform(
    parsed: list[tuple[OperatorOptions, Options]],
) -> None:
    assert invoke("--run-as-user", "platform")[0] == 0
    assert parsed[0][1].run_as_user is None


def test_every_flag_has_a_help_text() -> None:
    code, output = invoke("--help")
    assert code == 0
    flags = {name.replace("_", "-") for name in inspect.signature(__main__.main).parameters}
    assert {flag for flag in flags if f"--{flag}" not in output} == set()


def test_inside_a_pod_the_service_account_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.touch()
    monkeypatch.setattr(options, "SERVICE_ACCOUNT", token)
    assert options.find_kubeconfig(None) is None
    assert options.find_kubeconfig(Path("given")) == Path("given")


def test_outside_a_pod_the_usual_kubeconfig_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(options, "SERVICE_ACCOUNT", tmp_path / "none")
    monkeypatch.setenv("KUBECONFIG", "/somewhere/config")
    assert options.find_kubeconfig(None) == Path("/somewhere/config")
    monkeypatch.delenv("KUBECONFIG")
    assert options.find_kubeconfig(None) == Path.home() / ".kube" / "config"
