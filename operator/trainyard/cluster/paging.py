"""Pages of a LIST, bounded in bytes: objects may be of any size, and a page is read whole."""

from __future__ import annotations

import aiohttp

PAGE_SIZE = 500
"""Objects per page of a LIST, as in client-go: a compromise between memory and requests."""
JOB_PAGE_SIZE = 50
"""The same of jobs, whose size is up to those who create them."""
MAX_PAGE_BYTES = 16 * 2**20
"""Of a page of more than one object; a page of one is as large as its object."""
SHRINK = 4
"""A page that was too large is requested again with this fraction of its objects."""


class OversizedPageError(Exception):
    """A page was given up while it was read: request fewer objects."""


class PageLimit:
    """How many objects to request, from how large the pages were so far."""

    def __init__(self, most: int) -> None:
        self._most = self.objects = most

    def shrink(self) -> None:
        """Request fewer objects, after a page that was too large."""
        self.objects = max(1, self.objects // SHRINK)

    def grow(self) -> None:
        """Request more objects, after a page that was not."""
        self.objects = min(self._most, self.objects * 2)


class BoundedResponse(aiohttp.ClientResponse):
    """A response whose body is read whole only as far as it is bounded.

    Of a page of several objects that is `MAX_PAGE_BYTES`; raises OversizedPageError beyond.
    """

    async def read(self) -> bytes:
        """The body."""
        if self._body is None and int(self.url.query.get("limit", "1")) > 1:
            self._body = await self._read_page()
            return self._body
        return await super().read()

    async def _read_page(self) -> bytes:
        page = bytearray()
        async for chunk in self.content.iter_any():
            page += chunk
            if len(page) > MAX_PAGE_BYTES:
                self.close()
                raise OversizedPageError(f"{self.url} has more than {MAX_PAGE_BYTES} bytes")
        return bytes(page)
