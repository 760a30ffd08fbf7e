"""Running a command in a pod and reading its standard output."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlencode

import aiohttp
import msgspec

from trainyard.cluster.client import KubeClient, collection

PROTOCOL = "v4.channel.k8s.io"
OUTPUT, ERRORS, OUTCOME = 1, 2, 3
LAST_ERRORS = 2000
"""Bytes of a failed command's error output to show."""


class CommandError(Exception):
    """The command could not be run, or failed."""


async def execute(
    client: KubeClient, namespace: str, pod: str, container: str, command: Sequence[str]
) -> AsyncIterator[bytes]:
    """Chunks of the command's standard output; raises CommandError with its error output."""
    query = [("container", container), ("stdout", "true"), ("stderr", "true")]
    query += [("command", argument) for argument in command]
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
        text = errors.decode(errors="replace").strip() or outcome.decode(errors="replace")
        raise CommandError(f"{' '.join(command)} in pod {namespace}/{pod}: {text}")


def _is_success(outcome: bytes) -> bool:
    try:
        return bool(msgspec.json.decode(outcome).get("status") == "Success")
    except (msgspec.DecodeError, AttributeError):
        return False
