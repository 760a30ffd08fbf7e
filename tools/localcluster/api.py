"""A few calls to a cluster's API server, for waiting and setting up without starting kubectl."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.localcluster.errors import ClusterError

_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Api:
    """An API server and a way to prove who we are to it."""

    server: str
    trust: ssl.SSLContext

    @classmethod
    def of(cls, kubeconfig: Path) -> Api:
        """Read a kubeconfig as `credentials.kubeconfig` writes it."""
        document = json.loads(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        trust = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as chain:
            for part in ("client-certificate-data", "client-key-data"):
                chain.write(base64.b64decode(user[part]))
            chain.flush()
            trust.load_cert_chain(chain.name)
        return cls(cluster["server"], trust)

    def get(self, path: str) -> dict[str, Any]:
        """Read an object or a list."""
        return self._call("GET", path, None, "")

    def answers(self, path: str) -> bool:
        """Whether a path is answered with success, by a server that may not be up yet."""
        try:
            self._call("GET", path, None, "")
        except ClusterError:
            return False
        return True

    def create(self, path: str, body: dict[str, Any]) -> None:
        """Create an object."""
        self._call("POST", path, body, "application/json")

    def merge(self, path: str, body: dict[str, Any]) -> None:
        """Change some fields of an object."""
        self._call("PATCH", path, body, "application/merge-patch+json")

    def _call(self, method: str, path: str, body: object, kind: str) -> dict[str, Any]:
        request = urllib.request.Request(
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": kind} if kind else {},
        )
        try:
            with urllib.request.urlopen(
                request, timeout=_TIMEOUT_SECONDS, context=self.trust
            ) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read().decode(errors="replace")
            raise ClusterError(f"{method} {path} was answered {error.code}: {reason}") from error
        except OSError as error:
            raise ClusterError(f"{self.server} does not answer: {error}") from error
        return json.loads(text) if text.startswith(b"{") else {}
