"""Running a command in a pod and reading its standard output."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from urllib.parse import urlencode

import aiohttp
import msgspec

from trainyard.cluster.client import KubeClient, collection
from trainyard_trainer.contract.text import one_line

PROTOCOL = "v4.channel.k8s.io"
OUTPUT, ERRORS, OUTCOME = 1, 2, 3
LAST_ERRORS = 2000
"""Bytes of a failed command's error output to show."""
MAX_OUTCOME = 64 * 1024
"""Bytes of the API server's message on how the command ended."""
MAX_MESSAGE_BYTES = 4 << 20
"""The API server passes output on in pieces of 32 KiB."""
SILENCE_SECONDS = 120.0
"""How long a command may write nothing before it is given up."""


class CommandError(Exception):
    """The command could not be run, or failed."""


async def execute(
    client: KubeClient, namespace: str, pod: str, container: str, command: Sequence[str]
) -> AsyncGenerator[bytes, None]:
    """Chunks of the command's standard output; raises CommandError with its error output."""
    query = [("container", container), ("stdout", "true"), ("stderr", "true")]
    query += [("command", argument) for argument in command]
    path = f"{collection('v1', 'pods', namespace)}/{pod}/exec?{urlencode(query)}"
    errors, outcome = b"", b""
    try:
        async with client.session.ws_connect(
            client.url(path),
            protocols=(PROTOCOL,),
            headers=await client.headers(),
            max_msg_size=MAX_MESSAGE_BYTES,
            timeout=aiohttp.ClientWSTimeout(ws_receive=SILENCE_SECONDS),
        ) as socket:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                    continue
                channel, payload = message.data[0], message.data[1:]
                if channel == OUTPUT:
                    yield payload
                elif channel == ERRORS:
                    errors = (errors + payload)[-LAST_ERRORS:]
                elif channel == OUTCOME:
                    outcome = (outcome + payload)[:MAX_OUTCOME]
    except TimeoutError:
        silence = f"pod {namespace}/{pod} wrote nothing for {SILENCE_SECONDS:g} s"
        raise CommandError(silence) from None
    except (aiohttp.ClientError, OSError) as error:
        raise CommandError(f"pod {namespace}/{pod}: {error}") from error
    if not _is_success(outcome):
        text = errors.decode(errors="replace").strip() or outcome.decode(errors="replace")
        shown = one_line(text, LAST_ERRORS)
        raise CommandError(f"{' '.join(command)} in pod {namespace}/{pod}: {shown}")


def _is_success(outcome: bytes) -> bool:
    try:
        return bool(msgspec.json.decode(outcome).get("status") == "Success")
    except (msgspec.DecodeError, AttributeError, RecursionError):
        return False
