"""One registry over HTTP: requests, redirects, authorization, and errors as exceptions.

Every method makes one try; who repeats (patience.py, uploading.py, downloading.py) knows what may be repeated.
Credentials go to the registry's own address alone: redirects and upload locations elsewhere are followed without.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Protocol, Self
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, SSLError
from urllib3.util import Timeout

from speedy.transfer.content import PIECE_BYTES
from speedy.transfer.errors import Busy, Damaged, NobodyThere, Refused, TransferError, Unreachable

CONNECT_TIMEOUT_S: Final = 20.0
#: longest silence of a registry; closing a large upload may take some that long
READ_TIMEOUT_S: Final = 120.0
_REDIRECTS_MAX: Final = 5
_AUTHORIZATIONS_MAX: Final = 2
#: largest answer that is read into memory, bytes
_ANSWER_BYTES_MAX: Final = 8 << 20
_ERROR_BYTES_MAX: Final = 64 << 10
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

Body = Callable[[], Iterable[bytes]]


class Authorization(Protocol):
    """Who the caller is, for one registry (authorization.py). `scopes` say what is to be done."""

    def header(self, scopes: frozenset[str]) -> str | None:
        """Value of the Authorization header, None while nothing asks for one."""
        ...

    def challenged(self, challenge: str, scopes: frozenset[str], sent: str | None, fetch: Fetch) -> bool:
        """A 401 came with this WWW-Authenticate for a request with the header `sent`. True: there is something new to
        try."""
        ...


class Fetch(Protocol):
    """A request to a token service, which is another address."""

    def __call__(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Tls:
    verify: bool = True
    ca_file: Path | None = None


class Answer:
    """An answer whose body is still on the connection. Close it, or use `with`."""

    def __init__(self, where: str, url: str, response: urllib3.BaseHTTPResponse) -> None:
        self.where, self.url = where, url
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response

    def body(self, bytes_max: int = _ANSWER_BYTES_MAX) -> bytes:
        parts: list[bytes] = []
        total = 0
        for part in self.pieces():
            total += len(part)
            if total > bytes_max:
                raise Damaged(f"{self.where}: an answer of more than {bytes_max} bytes")
            parts.append(part)
        return b"".join(parts)

    def pieces(self) -> Iterator[bytes]:
        """The body as it is stored. Raises Unreachable where it ends before its announced length."""
        while piece := self._read():
            yield piece

    def close(self) -> None:
        """Gives the connection back when little is left to read, else closes it."""
        left = self._response.length_remaining
        if left is not None and left <= _ERROR_BYTES_MAX:
            with contextlib.suppress(HTTPError, OSError):
                self._response.drain_conn()
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> bytes:
        try:
            return self._response.read(PIECE_BYTES, decode_content=False)
        except (HTTPError, OSError) as error:
            raise Unreachable(f"{self.where}: {_reason(error)} in the answer") from error


class Connection:
    """`base_url` is https://host[:port]. Thread-safe; connections are kept, `pool_max` of them."""

    def __init__(self, base_url: str, tls: Tls, authorization: Authorization, *, agent: str, pool_max: int = 8) -> None:
        self.base_url = base_url
        self._authorization = authorization
        self._agent = agent
        self._answered = False
        self._timeout = Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
        self._pool = urllib3.PoolManager(
            num_pools=4, maxsize=pool_max, block=False, retries=False, blocksize=PIECE_BYTES, ssl_context=_context(tls)
        )

    def call(
        self,
        method: str,
        target: str,
        *,
        scopes: frozenset[str],
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        length: int = 0,
        accept: frozenset[int] = frozenset({200}),
    ) -> Answer:
        """The answer to one request, followed through redirects where the method only reads.

        `target` is a path or a whole address; `body` gives `length` bytes, anew each time it is called: after a 401
        it is sent again. Raises Refused or Busy for any status but those of `accept`, Unreachable for network trouble.
        """
        url = self.resolve(target)
        redirects = authorizations = 0
        while True:
            named = self._headers(method, url, scopes, headers, length)
            answer = self._request(method, url, named, body)
            if answer.status in (301, 302, 303, 307, 308) and method in ("GET", "HEAD"):
                redirects += 1
                url = self._redirected(answer, url, redirects)
                continue
            if answer.status == 401 and self._is_home(url) and authorizations < _AUTHORIZATIONS_MAX:
                authorizations += 1
                with answer:
                    challenge = answer.headers.get("WWW-Authenticate", "")
                if self._authorization.challenged(challenge, scopes, named.get("Authorization"), self.fetch):
                    continue
                raise Refused(f"{answer.where}: not logged in, or not allowed (docker login, or --username)", 401)
            if answer.status not in accept:
                raise refusal(answer)
            return answer

    def fetch(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        """A request to somebody else, with exactly these headers. Raises as `call` does."""
        named = {"User-Agent": self._agent, **headers}
        if body is not None:
            named["Content-Length"] = str(len(body))
        answer = self._request(method, url, named, None if body is None else lambda: [body])
        if answer.status != 200:
            raise refusal(answer)
        with answer:
            return answer.body()

    def resolve(self, target: str) -> str:
        """A path or an address in full."""
        return self.resolve_from(self.base_url, target)

    def resolve_from(self, base_url: str, target: str) -> str:
        """A Location in full. A registry behind a proxy that speaks TLS often does not know it and says http."""
        url = urljoin(base_url, target)
        home, there = urlsplit(self.base_url), urlsplit(url)
        if home.scheme == "https" and there.scheme == "http" and home.hostname == there.hostname:
            return home._replace(path=there.path, query=there.query).geturl()
        return url

    def close(self) -> None:
        self._pool.clear()

    def _headers(
        self, method: str, url: str, scopes: frozenset[str], headers: Mapping[str, str] | None, length: int
    ) -> dict[str, str]:
        named = {"User-Agent": self._agent, **(headers or {})}
        value = self._authorization.header(scopes) if self._is_home(url) else None
        if value is not None:
            named["Authorization"] = value
        if method in ("POST", "PATCH", "PUT"):
            named["Content-Length"] = str(length)
        return named

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Answer:
        where = f"{method} {url.partition('?')[0]}"
        if urlsplit(url).scheme not in ("http", "https"):
            raise TransferError(f"{where}: not an address of HTTP")
        try:
            response = self._pool.urlopen(
                method,
                url,
                body=None if body is None else body(),
                headers=headers,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=self._timeout,
                decode_content=False,
            )
        except SSLError as error:
            raise TlsTrouble(f"{where}: {_reason(error)}") from error
        except (LocationValueError, UnicodeError) as error:
            raise TransferError(f"{where}: {error}") from error
        except (HTTPError, OSError) as error:
            reason = _inner(error)
            if isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME and not self._answered:
                raise UnknownHost(f"{where}: {_reason(error)}") from error
            if isinstance(reason, ConnectionRefusedError) and not self._answered:
                raise NobodyThere(f"{where}: {_reason(error)}: no registry listens there") from error
            raise Unreachable(f"{where}: {_reason(error)}") from error
        self._answered = True
        return Answer(where, url, response)

    def _redirected(self, answer: Answer, url: str, redirects: int) -> str:
        with answer:
            location = answer.headers.get("Location")
        if redirects > _REDIRECTS_MAX or not location:
            raise Refused(f"{answer.where}: redirected in circles or to nowhere", answer.status)
        target = urljoin(url, location)
        if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
            target = self.resolve(target)
            if urlsplit(target).scheme != "https":
                raise Refused(f"{answer.where}: redirected from https to {urlsplit(target).scheme}", answer.status)
        return target

    def _is_home(self, url: str) -> bool:
        home, there = urlsplit(self.base_url), urlsplit(url)
        return (home.scheme, home.hostname, _port(home.scheme, home.port)) == (
            there.scheme,
            there.hostname,
            _port(there.scheme, there.port),
        )


class TlsTrouble(Unreachable):
    """The TLS handshake failed: another try does not help."""

    retryable = False


class UnknownHost(Unreachable):
    """No such name, and nothing ever answered under it: a slip of the pen rather than a lost network."""

    retryable = False


def refusal(answer: Answer) -> Refused:
    """What an answer with an error status stands for; closes it."""
    with answer:
        try:
            told, codes = _told(answer.body(_ERROR_BYTES_MAX))
        except TransferError:
            told, codes = "", frozenset()
        retry_after_s = _retry_after_s(answer.headers.get("Retry-After", ""))
    message = f"{answer.where}: {answer.status}{' ' if told else ''}{told}"
    if answer.status in _PASSING:
        return Busy(message, answer.status, codes, retry_after_s)
    return Refused(message, answer.status, codes)


def _told(body: bytes) -> tuple[str, frozenset[str]]:
    """Words and codes of an error in the form of the OCI API."""
    try:
        errors = json.loads(body)["errors"]
        codes = frozenset(str(error["code"]) for error in errors)
        words = "; ".join(f"{error['code']}: {error.get('message', '')}" for error in errors)
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", frozenset()
    return "".join(letter for letter in words if letter.isprintable())[:500], codes


def _retry_after_s(text: str) -> float:
    """Seconds, or a date."""
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if tls.ca_file is None else str(tls.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise TransferError(f"the certificates in {tls.ca_file} cannot be used: {error}") from error
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _port(scheme: str, port: int | None) -> int:
    return port or {"http": 80, "https": 443}.get(scheme, 0)


def _inner(error: BaseException) -> BaseException:
    """The innermost cause."""
    inner = error
    for _ in range(10):
        wrapped = (getattr(inner, "reason", None), inner.__cause__, *reversed(inner.args))
        deeper = next((each for each in wrapped if isinstance(each, BaseException)), None)
        if deeper is None:
            break
        inner = deeper
    return inner


def _reason(error: BaseException) -> str:
    """The innermost cause in words; the libraries' own texts hold object addresses."""
    inner = _inner(error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {inner.verify_message} (--ca FILE names others)"
    if isinstance(inner, ssl.SSLError):
        return f"TLS: {(inner.reason or 'error').lower().replace('_', ' ')}"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    if isinstance(inner, TimeoutError) or "Timeout" in type(inner).__name__:
        return "no answer in time"
    if type(inner).__name__ in ("IncompleteRead", "RemoteDisconnected"):
        return "the connection ended too early"
    return type(inner).__name__
