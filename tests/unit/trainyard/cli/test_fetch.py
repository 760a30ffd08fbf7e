"""How users name the job whose model they fetch, and what a pod can do to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import coordinator, make_job
from trainyard.api.names import DISTRIBUTED_JOB, FEDERATED_JOB, Key
from trainyard.cli import app as app_module
from trainyard.cli import fetch as fetch_module
from trainyard.cli.archive import FetchError
from trainyard.cli.fetch import parse_target
from trainyard.cluster.errors import ApiError

PODS = "/api/v1/namespaces/team/pods"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("digits", DISTRIBUTED_JOB),
        ("dj/digits", DISTRIBUTED_JOB),
        ("DistributedJob/digits", DISTRIBUTED_JOB),
        ("distributedjob.trainyard.dev/digits", DISTRIBUTED_JOB),
        ("fj/digits", FEDERATED_JOB),
        ("federatedjobs/digits", FEDERATED_JOB),
        ("federatedjob.trainyard.dev/digits", FEDERATED_JOB),
    ],
)
def test_a_job_is_named_as_kubectl_names_it(text: str, kind: str) -> None:
    assert parse_target(text, "team") == Key(kind, "team", "digits")


def test_anything_but_a_job_is_refused() -> None:
    with pytest.raises(FetchError, match="write dj/NAME or fj/NAME"):
        parse_target("pod/digits", "team")


def test_what_a_pod_says_is_shown_as_plain_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def fail(*_: object) -> list[Path]:
        raise FetchError("in pod: [bold]\x1b[2J[/bold] [/nothing]\r\nerror: \udce9 all is well")

    monkeypatch.setattr(app_module, "_fetch", fail)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        app_module.app, ["fetch", "dj/digits", "-o", str(tmp_path)]
    )
    assert result.exit_code == 1
    shown = " ".join(result.output.split())
    assert shown == "error: in pod: [bold]\ufffd[2J[/bold] [/nothing] error: \ufffd all is well"


async def test_an_archive_without_an_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent, closed = 0, []

    async def execute(*_: object) -> AsyncIterator[bytes]:
        nonlocal sent
        try:
            while True:
                sent += 1
                yield b"x" * (1 << 20)
        finally:
            closed.append(True)

    monkeypatch.setattr(fetch_module, "execute", execute)
    with pytest.raises(FetchError, match="pod digits-coordinator-1 has more than"):
        await fetch_module._download(FakeApi().client, coordinator(), tmp_path, 1 << 20)
    assert sent <= 20
    assert closed
    assert list(tmp_path.iterdir()) == []


class Picky(FakeApi):
    """An API server that takes no pod with a user that it has not assigned itself."""

    async def create(self, path: str, body: Object) -> Object:
        if "runAsUser" in body["spec"]["securityContext"]:
            raise ApiError(403, "Forbidden", "unable to validate against any security context")
        return await super().create(path, body)


async def test_a_platform_that_assigns_users_gets_a_reader_without_one() -> None:
    api, job = Picky(), make_job({"state": {"claimName": "mine"}})
    await fetch_module._create_reader(api.client, PODS, job, "reader")
    assert "runAsUser" not in api.objects[f"{PODS}/reader"]["spec"]["securityContext"]


async def test_a_reader_that_is_refused_for_another_reason_is_an_error() -> None:
    api, job = FakeApi(), make_job({"state": {"claimName": "mine"}})
    api.is_full = True
    with pytest.raises(ApiError, match="exceeded quota"):
        await fetch_module._create_reader(api.client, PODS, job, "reader")
