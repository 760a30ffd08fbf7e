"""How users name the job whose model they fetch, and what a pod can do to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

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


class EmptyApi(ThreadingHTTPServer):
    """An API server without objects, and what was asked of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), NotFound)
        self.paths: list[str] = []


class NotFound(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        cast("EmptyApi", self.server).paths.append(self.path)
        body = json.dumps({"kind": "Status", "message": "no such job", "reason": "NotFound"})
        self.send_response(404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[EmptyApi]:
    serving = EmptyApi()
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield serving
    serving.shutdown()
    thread.join()
    serving.server_close()


def typed(folder: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command as a user without a kubeconfig, but for `environ`."""
    command = Path(sys.executable).with_name("trainyard")
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH")}
    return subprocess.run(
        [command, *args],
        cwd=folder,
        env={**kept, "HOME": str(folder), "COLUMNS": "400", **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("options", "namespace"),
    [((), "team"), (("-n", "other"), "other")],
    ids=["of the context", "of the option"],
)
def test_the_job_is_looked_up_in_the_namespace_that_kubectl_would_take(
    tmp_path: Path, server: EmptyApi, options: tuple[str, ...], namespace: str
) -> None:
    cluster = {"server": f"http://127.0.0.1:{server.server_port}"}
    context = {"cluster": "test", "namespace": "team"}
    kubeconfig = {
        "current-context": "test",
        "contexts": [{"name": "test", "context": context}],
        "clusters": [{"name": "test", "cluster": cluster}],
    }
    (tmp_path / "config").write_text(json.dumps(kubeconfig))
    done = typed(tmp_path, "fetch", "dj/digits", *options, KUBECONFIG="config")
    assert done.returncode == 1
    assert f"error: {namespace}/digits" in done.stderr.replace("DistributedJob/", "")
    (path,) = server.paths
    assert path == f"/apis/trainyard.dev/v1alpha1/namespaces/{namespace}/distributedjobs/digits"


def test_without_a_kubeconfig_there_is_one_sentence(tmp_path: Path) -> None:
    done = typed(tmp_path, "fetch", "dj/digits")
    assert done.returncode == 1
    remedy = "does not exist. Set KUBECONFIG or give --kubeconfig"
    assert done.stderr == f"error: there is no kubeconfig: ~/.kube/config {remedy}\n"


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = typed(tmp_path, "fetch", "dj/digits", "-o", "file/model")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "file/model" in done.stderr
    assert done.stderr.count("\n") == 1


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
