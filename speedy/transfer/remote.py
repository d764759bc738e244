"""How a registry is reached: its scheme, its certificates, and who comes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from speedy.transfer.authorization import RegistryAuthorization
from speedy.transfer.connection import Connection, Tls, TlsTrouble
from speedy.transfer.credentials import Login, find_login
from speedy.transfer.errors import Refused, TransferError
from speedy.transfer.places import RemotePlace

_AGENT: Final = "speedy"


@dataclass(frozen=True, slots=True)
class Reach:
    """`plain_http` None: for loopback addresses, as docker does. `login` None: what docker's configuration says."""

    plain_http: bool | None
    tls: Tls
    http_credentials: bool
    login: Login | None
    docker_config: Path
    pool_max: int


def connect(place: RemotePlace, reach: Reach) -> Connection:
    """Raises TransferError for a configuration that cannot be used. Only without TLS verification the registry is asked
    something: whether it speaks TLS at all."""
    login = reach.login or find_login(place.host, reach.docker_config)
    scheme = _scheme(place, reach)
    if scheme == "https" and not reach.tls.verify and not place.scheme and reach.plain_http is None:
        with_tls = _connection("https", place, reach, None)
        try:
            with_tls.fetch("GET", f"{with_tls.base_url}/v2/", {}, None)
        except TlsTrouble:
            scheme = "http"
        except Refused:
            pass
        except TransferError:
            pass  # the transfer itself will meet it, and try again
        finally:
            with_tls.close()
    return _connection(scheme, place, reach, login)


def _connection(scheme: str, place: RemotePlace, reach: Reach, login: Login | None) -> Connection:
    base_url = f"{scheme}://{place.endpoint}"
    authorization = RegistryAuthorization(base_url, login, plain_http_allowed=reach.http_credentials)
    return Connection(base_url, reach.tls, authorization, agent=_AGENT, pool_max=reach.pool_max)


def _scheme(place: RemotePlace, reach: Reach) -> str:
    if place.scheme:
        return place.scheme
    if reach.plain_http is not None:
        return "http" if reach.plain_http else "https"
    return "http" if place.is_loopback and reach.tls.ca_file is None else "https"
