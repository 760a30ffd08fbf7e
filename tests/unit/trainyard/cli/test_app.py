"""`trainyard fetch` as it is typed: its options, and what a user reads when it cannot go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest


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
