"""Which pages of other sites a browser lets read and change what is here (the Fetch standard's CORS): a web interface
lies on another host or port than its registry."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from werkzeug.wrappers import Request, Response

#: what a page may send beyond what browsers always let it send
_REQUEST_HEADERS: Final = "Accept, Authorization, Cache-Control, Content-Type, If-Match, If-None-Match, Range"
#: what a page may read beyond what browsers always let it read
_RESPONSE_HEADERS: Final = (
    "Content-Range, Docker-Content-Digest, Docker-Distribution-Api-Version, ETag, Link, Location, OCI-Filters-Applied, "
    "OCI-Subject, OCI-Tag, Retry-After, WWW-Authenticate, X-Request-Id"
)
#: how long a browser need not ask again
_PREFLIGHT_S: Final = 600


class CrossOrigin:
    """`origins` as browsers send them ("https://ui.example"). With none, nothing is ever added."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)

    def mark(self, request: Request, response: Response) -> None:
        """Let the page that asks have the answer, if it is of a known origin."""
        if not self._origins:
            return
        headers = response.headers
        headers.add("Vary", "Origin")  # also where it is another one: no cache may give one's answer to the other
        origin = request.headers.get("Origin")
        if origin not in self._origins:
            return
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Credentials"] = "true"
        headers["Access-Control-Expose-Headers"] = _RESPONSE_HEADERS
        if request.method == "OPTIONS" and "Allow" in headers:
            headers["Access-Control-Allow-Methods"] = headers["Allow"]
            headers["Access-Control-Allow-Headers"] = _REQUEST_HEADERS
            headers["Access-Control-Max-Age"] = str(_PREFLIGHT_S)
