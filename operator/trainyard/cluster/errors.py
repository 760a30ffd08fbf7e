"""Error responses of the API server."""

from __future__ import annotations

import aiohttp
import msgspec

from trainyard_trainer.contract.text import printable

THROTTLED = (429, 503)
"""Status codes of a server that asks to be left alone for a moment."""
MAX_MESSAGE, MAX_REASON = 4096, 128
"""Characters of the server's message and reason; webhooks of users write some of them."""


class ApiError(Exception):
    """An error response of the API server, or status 0 where it could not be reached."""

    def __init__(
        self, status: int, reason: str, message: str, retry_after_seconds: float = 0.0
    ) -> None:
        super().__init__(message or f"{status} {reason}")
        self.status, self.reason, self.message = status, reason, message
        self.retry_after_seconds = retry_after_seconds
        """The least pause before another attempt, as the server asks for it."""

    @property
    def is_conflict(self) -> bool:
        """The object exists already, or is not in the expected state."""
        return self.status == 409

    @property
    def already_exists(self) -> bool:
        """There is an object of that name; a busy quota answers 409, too, for another reason."""
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def is_transient(self) -> bool:
        """Whether to try again: the server was unreachable, overloaded, failing or too slow."""
        return self.status in (0, 429) or self.status >= 500 or self.is_expired

    @property
    def is_forbidden(self) -> bool:
        """Rejected by RBAC, a quota or an admission plug-in."""
        return self.status == 403

    @property
    def is_expired(self) -> bool:
        """The server no longer has the resource version, perhaps of a listing that took long."""
        return self.status == 410

    @property
    def is_missing(self) -> bool:
        """The object does not exist."""
        return self.status == 404


def may_retry(method: str, error: ApiError) -> bool:
    """Whether to send the request again: the server throttles, or a quota is busy."""
    # Nothing of that name exists: another creation has just changed the usage of the quota.
    is_busy_quota = method == "POST" and error.is_conflict and not error.already_exists
    return error.status in THROTTLED or is_busy_quota


def error_of(response: aiohttp.ClientResponse, content: bytes) -> ApiError:
    """The error of a response with this body."""
    after = response.headers.get("Retry-After", "")
    seconds = float(after) if after.isdecimal() else 0.0
    try:
        status = msgspec.json.decode(content)
        reason, message = status.get("reason") or "", status.get("message") or ""
    except (ValueError, AttributeError):  # a proxy's, perhaps
        reason, message = response.reason or "", content[:500].decode(errors="replace")
    message = printable(str(message))[:MAX_MESSAGE]
    return ApiError(response.status, printable(str(reason))[:MAX_REASON], message, seconds)
