"""Basic and Bearer (token) authorization, as registries ask for them by WWW-Authenticate.

A token is fetched from the service that the challenge names, for the scopes that a call needs, and is kept until it is
about to end or the registry asks again. Without a login the token is anonymous.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlencode, urlsplit

from speedy.transfer.connection import Fetch
from speedy.transfer.credentials import Login
from speedy.transfer.errors import Refused, TransferError
from speedy.transfer.places import is_loopback

_CLIENT_ID: Final = "speedy"
#: life of a token that does not say how long it lives (the specification of docker's tokens)
_TOKEN_LIFE_S: Final = 60.0
#: a token is replaced so long before its end: a piece takes its time
_TOKEN_MARGIN: Final = 0.25
_CHALLENGE = re.compile(r'(?:^|[\s,])(Basic|Bearer)((?:\s*,?\s*[A-Za-z_]+=(?:"[^"]*"|[^\s,"]+))*)', re.IGNORECASE)
_PARAMETER = re.compile(r'([A-Za-z_]+)=(?:"([^"]*)"|([^\s,"]+))')


class RegistryAuthorization:
    """Of one registry, for one user (`login` None: nobody). Thread-safe.

    `plain_http_allowed`: a login may cross plain HTTP; otherwise it only does so to loopback addresses.
    """

    def __init__(
        self,
        base_url: str,
        login: Login | None,
        *,
        plain_http_allowed: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base_url = base_url
        self._login = login
        self._plain_http_allowed = plain_http_allowed
        self._clock = clock
        self._lock = threading.Lock()
        self._fetching = threading.Lock()
        self._basic = False
        self._tokens: dict[frozenset[str], tuple[str, float]] = {}

    def header(self, scopes: frozenset[str]) -> str | None:
        if self._basic and self._login is not None:
            return self._login.basic
        with self._lock:
            token, ends_s = self._tokens.get(scopes, ("", 0.0))
        return f"Bearer {token}" if token and self._clock() < ends_s else None

    def challenged(self, challenge: str, scopes: frozenset[str], sent: str | None, fetch: Fetch) -> bool:
        asked = _parse(challenge)
        if "bearer" in asked:
            with self._fetching:
                # Several threads meet the end of a token at once: one fetches the next.
                if self.header(scopes) in (None, sent):
                    self._fetch_token(asked["bearer"], scopes, fetch)
            return True
        if "basic" in asked and self._login is not None and self._login.username:
            self._check_plain(self._base_url)
            self._basic = True
            return sent != self._login.basic
        return False

    def _fetch_token(self, asked: dict[str, str], scopes: frozenset[str], fetch: Fetch) -> None:
        realm = asked.get("realm", "")
        if urlsplit(realm).scheme not in ("http", "https"):
            raise TransferError(f"{self._base_url} asks for a token from {realm[:200]!r}, which is no address")
        wanted = sorted(scopes | set(asked.get("scope", "").split()))
        query = [("service", asked["service"])] if "service" in asked else []
        login = self._login
        if login is not None:
            self._check_plain(realm)
        try:
            if login is not None and login.identity_token:
                form = [*query, ("client_id", _CLIENT_ID), ("grant_type", "refresh_token"), ("scope", " ".join(wanted))]
                body = urlencode([*form, ("refresh_token", login.identity_token)]).encode()
                content = fetch("POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, body)
            else:
                query += [("scope", scope) for scope in wanted]
                headers = {}
                if login is not None:
                    query += [("account", login.username)]
                    headers["Authorization"] = login.basic
                content = fetch("GET", f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}", headers, None)
        except Refused as error:
            if error.retryable:
                raise
            raise Refused(f"the login was refused: {error.message}", error.status, error.codes) from error
        token, life_s = _token(content, realm)
        with self._lock:
            self._tokens[scopes] = (token, self._clock() + life_s * (1 - _TOKEN_MARGIN))

    def _check_plain(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "https" or self._plain_http_allowed or is_loopback(parts.netloc):
            return
        raise TransferError(
            f"{parts.scheme}://{parts.netloc} asks for a password, and everybody on the way could read it. "
            "--allow-http-credentials sends it all the same."
        )


def _parse(challenge: str) -> dict[str, dict[str, str]]:
    """Scheme in lower case -> its parameters, of one WWW-Authenticate or of several joined by commas."""
    return {
        scheme.lower(): {name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(parameters)}
        for scheme, parameters in _CHALLENGE.findall(challenge)
    }


def _token(content: bytes, realm: str) -> tuple[str, float]:
    try:
        answer = json.loads(content)
        token = answer.get("token") or answer.get("access_token")
        life_s = float(answer.get("expires_in") or _TOKEN_LIFE_S)
    except (ValueError, AttributeError, TypeError) as error:
        raise TransferError(f"{realm} gave no token in the form that is expected") from error
    if not isinstance(token, str) or not token or not token.isprintable():
        raise TransferError(f"{realm} gave no token")
    return token, life_s
