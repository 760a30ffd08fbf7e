"""Running a command in a pod and taking what it writes, byte for byte."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlencode

import aiohttp
import msgspec

from trainyard.cluster.client import KubeClient, collection

PROTOCOL = "v4.channel.k8s.io"
OUTPUT, ERRORS, OUTCOME = 1, 2, 3
LAST_ERRORS = 2000
"""Bytes of a failed command's error output that are worth showing."""


class CommandError(Exception):
    """The command could not be run, or ended badly."""


async def execute(
    client: KubeClient, namespace: str, pod: str, container: str, command: Sequence[str]
) -> AsyncIterator[bytes]:
    """Chunks of the command's standard output; raises CommandError with its last words."""
    query = [("container", container), ("stdout", "true"), ("stderr", "true")]
    query += [("command", word) for word in command]
    path = f"{collection('v1', 'pods', namespace)}/{pod}/exec?{urlencode(query)}"
    errors, outcome = b"", b""
    try:
        async with client.session.ws_connect(
            client.url(path), protocols=(PROTOCOL,), headers=await client.headers(), max_msg_size=0
        ) as socket:
            async for message in socket:
                channel, payload = message.data[0], message.data[1:]
                if channel == OUTPUT:
                    yield payload
                elif channel == ERRORS:
                    errors = (errors + payload)[-LAST_ERRORS:]
                elif channel == OUTCOME:
                    outcome += payload
    except aiohttp.ClientError as error:
        raise CommandError(f"pod {namespace}/{pod}: {error}") from error
    if not _is_success(outcome):
        words = errors.decode(errors="replace").strip() or outcome.decode(errors="replace")
        raise CommandError(f"{' '.join(command)} in pod {namespace}/{pod}: {words}")


def _is_success(outcome: bytes) -> bool:
    try:
        return bool(msgspec.json.decode(outcome).get("status") == "Success")
    except (msgspec.DecodeError, AttributeError):
        return False
